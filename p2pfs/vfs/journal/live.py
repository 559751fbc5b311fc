"""What of a journal is still needed, and the record that says it once more."""

from dataclasses import dataclass

from p2pfs.types import CHUNK_BYTES
from p2pfs.vfs.inodes import Freeze, Inode
from p2pfs.vfs.journal.records import Kept, Named, Queued, head_digest
from p2pfs.vfs.journal.segments import Segment
from p2pfs.wire.namespace import Operation


@dataclass(slots=True)
class Live:
    """A freeze that is kept. Without `inode` it is of an earlier mount and not taken over; then it is in `record`."""

    segment: Segment
    record: Kept | None = None
    inode: Inode | None = None
    freeze: Freeze | None = None

    def as_record(self) -> Kept | None:
        if self.inode is None or self.freeze is None:
            return self.record
        return kept_record(self.inode, self.freeze)


@dataclass(slots=True)
class Outstanding:
    """Operations that are not committed."""

    upto: int  # the position behind them
    operations: list[Operation]
    segment: Segment

    def as_record(self) -> Queued:
        return Queued(self.upto - len(self.operations), self.operations)


def kept_record(inode: Inode, freeze: Freeze) -> Kept:
    at = inode.frozen.index(freeze)
    heads = [(head_digest(inode.attributes.head), inode.frozen[0].number - 1)]
    if inode.last_commit is not None:  # perhaps done, and not answered yet
        heads.append(inode.last_commit)
    runs, parts = [], []
    for mib in freeze.mibs.values():
        for run in mib.runs:
            runs.append((mib.index * CHUNK_BYTES + run.start, run.length))
            parts += run.parts
    after = inode.frozen[at - 1].number if at else 0
    return Kept(inode.id, freeze.number, after, heads, freeze.mtime_ns, runs, b"".join(parts), named(inode))


def named(inode: Inode) -> Named | None:
    if inode.place is None:
        return None
    row = inode.attributes
    return Named(inode.id, *inode.place, row.mode, row.uid, row.gid)
