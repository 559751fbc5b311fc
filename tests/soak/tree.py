"""What one worker of the soak has in its directory, what it does there next, and what may be found after a crash.

Pure: nothing here touches a file. A worker chooses an `Operation`, carries it out, and tells the tree when it is done,
which is when the pool has promised it (the call returned, and for names the fsync of their directory behind it). An
operation that was cut short leaves the tree in doubt: `allows` says what may be found then.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

KIB: Final = 1 << 10
SIZES: Final = (0, 1, 700, 16 * KIB, 16 * KIB + 1, 300 * KIB, (1 << 20) - 5, (1 << 20) + 9, 3 << 20)
LARGE: Final = 24 << 20
PIECE: Final = 128 * KIB
"""One write(2), which is either there or not."""
MOST_NAMES: Final = 40
MOST_DIRECTORIES: Final = 10
MOST_BYTES: Final = 64 << 20


class Kind(StrEnum):
    """What a worker does in one step."""

    PUT = "put"  # a new file, closed
    SYNC = "sync"  # a new file; the promise is fsync's
    LARGE = "large"  # a new file of many chunks, one write after the other
    REPLACE = "replace"  # a new file renamed over one that is there
    APPEND = "append"
    PATCH = "patch"  # a range in the middle is overwritten
    CUT = "cut"  # truncated
    RENAME = "rename"
    UNLINK = "unlink"
    MKDIR = "mkdir"
    RMDIR = "rmdir"  # with all that is in it
    RECALL = "recall"  # removed and brought back by `p2pfs undelete`
    LEASE = "lease"
    TAG = "tag"
    READ = "read"
    LIST = "list"
    LOOK = "look"  # at what another worker wrote, perhaps through another mount


WEIGHTS: Final = {
    Kind.PUT: 20, Kind.SYNC: 10, Kind.LARGE: 1, Kind.REPLACE: 8, Kind.APPEND: 8, Kind.PATCH: 12, Kind.CUT: 3,
    Kind.RENAME: 8, Kind.UNLINK: 10, Kind.MKDIR: 4, Kind.RMDIR: 2, Kind.READ: 20, Kind.LIST: 6, Kind.LOOK: 12,
    Kind.RECALL: 0.4, Kind.LEASE: 0.4, Kind.TAG: 0.4,
}  # fmt: skip
ON_FILES: Final = frozenset(
    {Kind.REPLACE, Kind.APPEND, Kind.PATCH, Kind.CUT, Kind.RENAME, Kind.UNLINK, Kind.READ, Kind.RECALL, Kind.LEASE,
     Kind.TAG}
)  # fmt: skip
ON_DIRECTORIES: Final = frozenset({Kind.MKDIR, Kind.RMDIR})
CHANGES_NOTHING: Final = frozenset({Kind.READ, Kind.LIST, Kind.LOOK, Kind.LEASE, Kind.TAG})

Content = bytes | None
"""Of a file; None for a directory."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step, with everything it needs: what it writes is made from `seed`."""

    kind: Kind
    path: str = ""
    other: str = ""  # the new name
    at: int = 0
    size: int = 0
    seed: int = 0

    def data(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)

    def __str__(self) -> str:
        more = f" to {self.other}" if self.other else ""
        return f"{self.kind} {self.path}{more} at={self.at} size={self.size} seed={self.seed}"


@dataclass
class Tree:
    """What is promised: path below the worker's directory → content. `doubt` is the operation that was cut short."""

    names: dict[str, Content] = field(default_factory=dict)
    doubt: Operation | None = None
    made: int = 0

    def files(self) -> list[str]:
        return [path for path, content in self.names.items() if content is not None]

    def directories(self) -> list[str]:
        return [path for path, content in self.names.items() if content is None]

    def total(self) -> int:
        return sum(len(content) for content in self.names.values() if content)

    # ---- what comes next -------------------------------------------------------------------------------------------

    def choose(self, chance: random.Random) -> Operation:
        """The next step; what a tree has not got is not asked of it, and what is full gets emptier."""
        files = self.files()
        if files and (len(self.names) >= MOST_NAMES or self.total() >= MOST_BYTES):
            return Operation(Kind.UNLINK, max(files, key=lambda path: len(self.names[path] or b"")))
        possible = {
            kind: weight
            for kind, weight in WEIGHTS.items()
            if (files or kind not in ON_FILES) and (kind not in ON_DIRECTORIES or self._fits(kind))
        }
        kind = chance.choices(list(possible), list(possible.values()))[0]
        return self._made_up(kind, chance)

    def _fits(self, kind: Kind) -> bool:
        count = len(self.directories())
        return count < MOST_DIRECTORIES if kind is Kind.MKDIR else count > 0

    def _made_up(self, kind: Kind, chance: random.Random) -> Operation:
        seed = chance.getrandbits(48)
        old = chance.choice(self.files()) if kind in ON_FILES else ""
        length = len(self.names.get(old) or b"")
        size = chance.choice(SIZES)
        if kind in (Kind.PUT, Kind.SYNC):
            return Operation(kind, self._new(chance), size=size, seed=seed)
        if kind is Kind.LARGE:
            return Operation(kind, self._new(chance), size=chance.randrange(LARGE // 2, LARGE), seed=seed)
        if kind is Kind.REPLACE:
            return Operation(kind, old, size=size, seed=seed)
        if kind is Kind.APPEND:
            return Operation(kind, old, at=length, size=chance.randint(1, 3 * PIECE), seed=seed)
        if kind is Kind.PATCH:
            at = chance.randrange(length + 1)
            return Operation(kind, old, at=at, size=chance.randint(1, PIECE), seed=seed)
        if kind is Kind.CUT:
            return Operation(kind, old, at=chance.randrange(length + 1))
        if kind is Kind.RENAME:
            others = [path for path in self.files() if path != old]
            return Operation(kind, old, chance.choice([self._new(chance), *others[:3]]))
        if kind is Kind.MKDIR:
            return Operation(kind, f"d{self.made}")
        if kind is Kind.RMDIR:
            return Operation(kind, chance.choice(self.directories()))
        return Operation(kind, old, seed=seed)

    def _new(self, chance: random.Random) -> str:
        """A name that never was, in one of the directories."""
        return chance.choice(["", *(f"{path}/" for path in self.directories())]) + f"f{self.made}"

    # ---- what it leads to ------------------------------------------------------------------------------------------

    def after(self, operation: Operation) -> Mapping[str, Content]:
        """What is there once it is done."""
        names, path = dict(self.names), operation.path
        old = names.get(path) or b""
        match operation.kind:
            case Kind.PUT | Kind.SYNC | Kind.LARGE | Kind.REPLACE:
                names[path] = operation.data()
            case Kind.APPEND | Kind.PATCH:
                data = operation.data()
                names[path] = old[: operation.at] + data + old[operation.at + len(data) :]
            case Kind.CUT:
                names[path] = old[: operation.at]
            case Kind.RENAME:
                names[operation.other] = names.pop(path)
            case Kind.UNLINK:
                del names[path]
            case Kind.MKDIR:
                names[path] = None
            case Kind.RMDIR:
                names = {name: content for name, content in names.items() if not is_within(name, path)}
            case _:
                pass
        return names

    def begin(self, operation: Operation) -> None:
        """From now until `finish` a crash leaves this in doubt."""
        self.made += 1
        self.doubt = operation

    def finish(self) -> None:
        """It is promised."""
        assert self.doubt is not None
        self.names, self.doubt = dict(self.after(self.doubt)), None

    # ---- what may be found -----------------------------------------------------------------------------------------

    def wrong(self, found: Mapping[str, Content]) -> list[str]:
        """What is not as it must be, in words. With an operation in doubt, that may have happened, or in part."""
        allowed = self.after(self.doubt) if self.doubt else self.names
        touched = self._touched()
        said = []
        for path in sorted(self.names.keys() | allowed.keys() | found.keys()):
            if path in touched and self._may_be(path, found, allowed):
                continue
            if path not in found:
                said.append(f"{path}: it is not there")
            elif path not in self.names:
                said.append(f"{path}: it should not be there")
            elif found[path] != self.names[path]:
                said.append(f"{path}: {difference(self.names[path], found[path])}")
        if self.doubt is not None and self.doubt.kind is Kind.RENAME and not said:
            said += self._half_renamed(found)
        return said

    def settle(self, found: Mapping[str, Content]) -> None:
        """After a crash, and after nothing was `wrong`: what was found is what there is."""
        self.names, self.doubt = dict(found), None

    def _touched(self) -> set[str]:
        """Paths that the operation in doubt may have changed."""
        if self.doubt is None or self.doubt.kind in CHANGES_NOTHING:
            return set()
        path = self.doubt.path
        if self.doubt.kind is Kind.RMDIR:
            return {name for name in self.names if is_within(name, path)}
        return {path, temporary(path), self.doubt.other} - {""}

    def _may_be(self, path: str, found: Mapping[str, Content], after: Mapping[str, Content]) -> bool:
        assert self.doubt is not None
        absent = object()
        now, old, new = (names.get(path, absent) for names in (found, self.names, after))
        if now in (old, new):
            return True
        if path == temporary(self.doubt.path):  # never promised
            return True
        match self.doubt.kind:
            case Kind.PUT | Kind.SYNC | Kind.LARGE:  # begun, in order
                return isinstance(now, bytes) and isinstance(new, bytes) and new.startswith(now)
            case Kind.APPEND:
                return isinstance(now, bytes) and isinstance(new, bytes) and new.startswith(now) and self._keeps(now)
            case Kind.PATCH:  # it may lie in two chunks
                both = isinstance(old, bytes) and isinstance(new, bytes)
                return both and isinstance(now, bytes) and self._is_mixed(now, old, new)  # type: ignore[arg-type]
            case Kind.RECALL:
                return now is absent
            case _:
                return False

    def _keeps(self, now: bytes) -> bool:
        assert self.doubt is not None
        return len(now) >= self.doubt.at

    def _is_mixed(self, now: bytes, old: bytes, new: bytes) -> bool:
        """Whether each byte that is patched is as it was or as it is to be, and the others are as they were."""
        assert self.doubt is not None
        start, end = self.doubt.at, self.doubt.at + self.doubt.size
        if not len(old) <= len(now) <= len(new) or now[:start] != old[:start] or now[end:] != old[end:]:
            return False
        olds = old[start:end].ljust(end - start, b"\0")  # behind its end every byte is one of the new
        return all(
            byte == to or (byte == was and at < len(old))
            for at, (byte, was, to) in enumerate(zip(now[start:end], olds, new[start:end], strict=False), start)
        )

    def _half_renamed(self, found: Mapping[str, Content]) -> list[str]:
        assert self.doubt is not None
        old, new = self.doubt.path, self.doubt.other
        is_done = new in found and found[new] == self.names[old] and self.names.get(new) != self.names[old]
        if is_done == (old in found) and self.names.get(new) != self.names[old]:
            return [f"{old}: its rename to {new} is {'half' if is_done else 'neither'} done"]
        return []


def temporary(path: str) -> str:
    """Where a file is written that is to replace another."""
    return f"{path}.new"


def is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def difference(wanted: Content, found: Content) -> str:
    """Two contents compared, without showing all of them."""
    if wanted is None or found is None:
        return "a directory where a file should be" if found is None else "a file where a directory should be"
    if len(wanted) != len(found):
        return f"{len(found)} bytes instead of {len(wanted)}"
    at = next(number for number, (one, two) in enumerate(zip(wanted, found, strict=True)) if one != two)
    count = sum(one != two for one, two in zip(wanted, found, strict=True))
    return f"{count} of {len(wanted)} bytes are wrong, from {at} on"
