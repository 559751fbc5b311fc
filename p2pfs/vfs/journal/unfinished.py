"""What a dead mount left in its journal, and what becomes of it. Pure: `vfs.journal.recovery` does it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from p2pfs.vfs.journal.records import Committing, Kept, Named, Queued, Record, State, Stored, Untimed
from p2pfs.wire.namespace import Batch, Commit, Operation
from p2pfs.wire.search import BATCH_ROWS, rows

BATCH_OPERATIONS: Final = 500
BATCH_BYTES: Final = 4 << 20
AHEAD: Final = 2048
"""How far behind the oldest unanswered batch new numbers begin: no mount is so far ahead (`OutstandingBatches`). With
the power the end of a journal is lost, and the answer to a batch of which it does not tell is no other's."""


@dataclass(slots=True)
class Unfinished:
    """All of a journal's segments, read in order."""

    state: State = field(default_factory=State)
    kept: dict[int, Kept] = field(default_factory=dict)  # by number
    segments: dict[int, int] = field(default_factory=dict)  # in which segment each of them is
    heads: dict[int, dict[bytes, int]] = field(default_factory=dict)  # of each inode
    names: dict[int, Named] = field(default_factory=dict)  # by inode
    last_number: int = 0
    _operations: dict[int, Operation] = field(default_factory=dict)  # by position

    def take(self, segment: int, record: Record) -> None:
        """The next record."""
        match record:
            case State():
                self.state = record
            case Queued(position, operations):
                self._operations.update(enumerate(operations, position))
            case Kept(inode, number):
                self.kept[number], self.segments[number] = record, segment
                self.heads.setdefault(inode, {}).update(record.heads)
                self.last_number = max(self.last_number, number)
                if record.named is not None:
                    self.names[inode] = record.named
            case Named(inode):
                self.names[inode] = record
            case Committing(inode, head, included):
                self.heads.setdefault(inode, {})[head] = included
                self.last_number = max(self.last_number, included)
            case Stored(number):
                self.kept.pop(number, None)
                self.last_number = max(self.last_number, number)
            case Untimed(inode, upto):
                for number, kept in self.kept.items():
                    if kept.inode == inode and number <= upto:
                        self.kept[number] = msgspec.structs.replace(kept, mtime_ns=0)

    @property
    def end(self) -> int:
        """The position behind the last operation."""
        return max([self.state.done, *(position + 1 for position in self._operations)])

    @property
    def operations(self) -> list[Operation]:
        """Those not known to be committed, up to the first that is missing: what follows it rests on it."""
        found = []
        position = self.state.done
        while position in self._operations:
            found.append(self._operations[position])
            position += 1
        return found

    @property
    def unreachable(self) -> list[Operation]:
        """Those behind one that is missing."""
        reached = self.state.done + len(self.operations)
        return [operation for position, operation in sorted(self._operations.items()) if position >= reached]

    def batches(self) -> Iterator[Batch]:
        """As which the operations are sent in the dead mount's session. They are the same however often it is tried,
        so that each is done once: the one under way first, as it was, then others with the next numbers."""
        state, operations = self.state, self.operations
        seq = max(state.seq, state.sent_seq, state.acked + AHEAD)
        sent = max(0, min(state.sent_upto - state.done, len(operations)))
        if sent:
            yield Batch(state.sent_seq, state.acked, operations[:sent], state.epoch)
        for portion in _portions(operations[sent:]):
            seq += 1
            yield Batch(seq, state.acked, portion, state.epoch)


class Verdict(NamedTuple):
    """What becomes of the freezes of one inode, each in order."""

    restored: list[Kept]  # to be stored
    rejected: list[Kept]  # in conflict with what is there
    finished: list[Kept]


def judge(kept: Sequence[Kept], head: bytes | None, heads: dict[bytes, int], *, is_damaged: bool) -> Verdict:
    """Freezes of one inode that are not known to be stored. `head` is the digest of what the inode holds now, None if
    there is no such inode: it was removed then, but for a journal that `is_damaged`, which may lack its making."""
    ordered = sorted(kept, key=lambda freeze: freeze.number)
    if not all(freeze.heads for freeze in ordered):
        return Verdict([], ordered, [])
    if head is None:
        return Verdict([], ordered, []) if is_damaged else Verdict([], [], ordered)
    if head not in heads:
        return Verdict([], ordered, [])
    included = heads[head]
    finished = [freeze for freeze in ordered if freeze.number <= included]
    restored: list[Kept] = []
    rest = ordered[len(finished) :]
    for freeze in rest:
        if freeze.after > included and (not restored or restored[-1].number != freeze.after):
            break  # the one before it is missing: what was written last must not hide that
        restored.append(freeze)
    return Verdict(restored, rest[len(restored) :], finished)


def _portions(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    portion: list[Operation] = []
    size = of = 0
    for operation in operations:
        of += rows(operation)
        cost = len(operation.inline or b"") if isinstance(operation, Commit) else 0
        if portion and (len(portion) >= BATCH_OPERATIONS or size + cost > BATCH_BYTES or of > BATCH_ROWS):
            yield portion
            portion, size, of = [], 0, rows(operation)
        portion.append(operation)
        size += cost
    if portion:
        yield portion
