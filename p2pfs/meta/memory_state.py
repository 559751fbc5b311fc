"""The state of the dictionary model of a namespace: what there is, how to look at it, and changes that can be taken
back. Rules are in `memory_rules`; sessions in `memory`.
"""

import dataclasses
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from p2pfs.errors import Conflict, Exists, Loop, Misuse, NoSpace, NotDirectory, NotFound
from p2pfs.meta import protocol
from p2pfs.types import INDICES_PER_RANGE, ROOT_INODE, Kind, VolumeId
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    UNTOLD,
    Attributes,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExpiringPage,
    ExtentPage,
    ExtentRow,
    Named,
    NewChunk,
    Space,
    TrashPage,
    TrashRow,
    Xattr,
    XattrPage,
)
from p2pfs.wire.search import SetLabel

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_NONE: Any = object()
_VOLUME = VolumeId(1)


class Name(msgspec.Struct, frozen=True, gc=False):
    """What a name leads to."""

    dentry: int
    tag: bytes
    inode: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The last name an inode had, and why it has none; what it was, once only the trash keeps it."""

    parent: int
    name: bytes
    known: Name
    reason: int
    was: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class ChunkState:
    size: int
    holders: frozenset[int]


@dataclass(slots=True)
class BatchLog:
    """What one batch changed: how to take it back, and what to tell."""

    session: int
    undo: list[Callable[[], object]] = field(default_factory=list)
    touched: dict[int, None] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    held: list[int] = field(default_factory=list)  # kept for others although they have no name now


class MemoryState:
    """One volume's dictionaries. Nothing persists and nothing is deferred: what is cut or removed is gone at once."""

    def __init__(
        self,
        *,
        root_head: bytes,
        root_mode: int = 0o755,
        volume: VolumeId = _VOLUME,
        verify: Callable[[VolumeId, NewChunk], None] | None = None,
        wanted_min: int = 0,
        room: tuple[int, int] = (1 << 40, 1 << 40),
        time_ns: int = 0,
        uid: int = 0,
        gid: int = 0,
        trash_s: float = 0.0,
    ) -> None:
        self.volume = volume
        self.verify = verify
        self.wanted_min = wanted_min
        self.room = room
        self.trash_s = trash_s
        self.now_s = 0.0  # of this only leases and trash know: tests set it
        self.purging: set[bytes] = set()  # chunks a commit may not name: tests put them here
        self.asleep: set[int] = set()  # sessions nothing is kept for: tests put them here
        self._next_id = ROOT_INODE + 1
        self._sessions: set[int] = set()
        self._newest_session = 0
        root = Attributes(
            ROOT_INODE,
            Kind.DIRECTORY,
            root_mode,
            uid,
            gid,
            0,
            2,
            0,
            FIRST_CHANGE,
            0,
            time_ns,
            time_ns,
            time_ns,
            root_head,
        )
        self._inodes: dict[int, Attributes] = {ROOT_INODE: root}
        self._up: dict[int, int] = {ROOT_INODE: ROOT_INODE}  # parent of a directory
        self._names: dict[int, dict[bytes, Name]] = {ROOT_INODE: {}}
        self._extents: dict[int, dict[tuple[int, int], ExtentRow]] = {}
        self._cuts: dict[int, tuple[tuple[int, int], ...]] = {}
        self._chunks: dict[bytes, ChunkState] = {}
        self._xattrs: dict[int, dict[bytes, bytes]] = {}
        self._labels: dict[int, tuple[int, SetLabel]] = {}  # with its revision
        self._words: dict[int, dict[int, frozenset[bytes]]] = {}  # tokens of an inode by place
        self._trash: dict[int, Lost] = {}
        self._open: dict[tuple[int, int], bool] = {}  # (inode, session): it said so

    @property
    def charged_bytes(self) -> int:
        """Sum of all sizes."""
        return sum(row.size for row in self._inodes.values())

    # ---- questions --------------------------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Entry:
        """See Namespace."""
        self.require_directory(parent, removed_too=True)
        found = self._names[parent].get(name)
        if found is None:
            raise NotFound("there is no such name")
        return Entry(found.dentry, name, found.tag, self._inodes[found.inode])

    def attributes(self, inode: int) -> Attributes:
        """See Namespace."""
        if inode not in self._inodes:
            raise NotFound("there is no such inode")
        return self._inodes[inode]

    def directory(self, inode: int, after: int, limit: int, *, content: bool = False) -> DirectoryPage:
        """See Namespace."""
        self.require_directory(inode, removed_too=True)
        if limit < 1:
            raise Misuse("a page has at least one entry")
        behind = sorted((n.dentry, name, n) for name, n in self._names[inode].items() if n.dentry > after)
        show = _whole if content else _untold
        entries = [Entry(n.dentry, name, n.tag, show(self._inodes[n.inode])) for _, name, n in behind[:limit]]
        return DirectoryPage(entries, len(behind) <= limit)

    def extents(self, inode: int, range_number: int) -> ExtentPage:
        """See Namespace."""
        of = self.attributes(inode)
        first = range_number * INDICES_PER_RANGE
        rows = [row for _, row in sorted(self._extents.get(inode, {}).items())]
        rows = [row for row in rows if first <= row.index < first + INDICES_PER_RANGE]
        return ExtentPage(of, rows, self.locate(dict.fromkeys(row.chunk for row in rows if row.chunk is not None)))

    def locate(self, chunks: Any) -> list[ChunkPlace]:  # noqa: ANN401 - any iterable of chunk ids
        """See Namespace."""
        if any(len(chunk) != 32 for chunk in chunks):
            raise Misuse("a chunk id has 32 bytes")
        known = [(chunk, self._chunks[chunk]) for chunk in chunks if chunk in self._chunks]
        return [ChunkPlace(chunk, place.size, sorted(place.holders)) for chunk, place in known]

    def xattrs(self, inode: int) -> XattrPage:
        """See Namespace."""
        of = self.attributes(inode)
        return XattrPage(of, [Xattr(name, value) for name, value in self._xattrs.get(inode, {}).items()])

    def space(self) -> Space:
        """See Namespace."""
        return Space(*self.room, len(self._inodes), self.trash_bytes, sum(row.size for row in self._inodes.values()))

    @property
    def trash_bytes(self) -> int:
        """Sum of the sizes of what only the trash keeps."""
        return sum(lost.was[0].size for lost in self._trash.values() if lost.was is not None)

    def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """See Namespace; the times are those of removal and of the purge, which never comes here."""
        if limit < 1:
            raise Misuse("a page has at least one row")
        behind = sorted(i for i, lost in self._trash.items() if i > after and parent in (0, lost.parent))
        return TrashPage([self._trash_row(inode) for inode in behind[:limit]], len(behind) <= limit)

    def _trash_row(self, inode: int) -> TrashRow:
        lost = self._trash[inode]
        row = self._inodes[inode] if lost.was is None else lost.was[0]
        entry = Entry(lost.known.dentry, lost.name, lost.known.tag, row)
        return TrashRow(lost.parent, entry, lost.reason, self.now_s, self.now_s + self.trash_s)

    def names(self, inode: int) -> list[Named]:
        """See Namespace."""
        of = self.attributes(inode)
        return sorted(
            (
                Named(parent, Entry(known.dentry, name, known.tag, of))
                for parent, names in self._names.items()
                for name, known in names.items()
                if known.inode == inode
            ),
            key=lambda named: (named.parent, named.entry.dentry),
        )

    def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """See Namespace."""
        if limit < 1:
            raise Misuse("a page has at least one row")
        rows = sorted((row.expires_s, inode) for inode, row in self._inodes.items() if row.expires_s and row.links)
        behind = [key for key in rows if key > tuple(after) and key[0] < before_s]
        found = [self._first_name(inode) for _, inode in behind[:limit]]
        return ExpiringPage(found, len(behind) <= limit)

    def _first_name(self, inode: int) -> Named:
        return next(iter(self.names(inode)), Named(inode, Entry(0, b"", b"", self._inodes[inode])))

    # ---- changes that can be taken back -----------------------------------------------------------------------------

    def put(self, batch: BatchLog, into: dict[K, V], key: K, *, value: V) -> None:
        old = into.get(key, _NONE)
        batch.undo.append((lambda: into.pop(key)) if old is _NONE else (lambda: into.__setitem__(key, old)))
        into[key] = value

    def drop(self, batch: BatchLog, out_of: dict[K, V], key: K) -> None:
        if key in out_of:
            old = out_of.pop(key)
            batch.undo.append(lambda: out_of.__setitem__(key, old))

    def edit(self, batch: BatchLog, inode: int, **fields: Any) -> None:  # noqa: ANN401 - fields of Attributes
        row = self._inodes[inode]
        if not fields.get("ctime_ns", 1):
            del fields["ctime_ns"]
        self.put(batch, self._inodes, inode, value=replace(row, attr_change=row.attr_change + 1, **fields))
        batch.touched[inode] = None

    # ---- parts ------------------------------------------------------------------------------------------------------

    def require_directory(self, inode: int, *, removed_too: bool = False) -> Attributes:
        row = self.attributes(inode)
        if row.kind != Kind.DIRECTORY:
            raise NotDirectory("this is not a directory")
        if row.links == 0 and not removed_too:
            raise NotFound("the directory was removed")
        return row

    def require_name(self, parent: int, name: bytes, inode: int) -> Name:
        found = self._names[parent].get(name)
        if found is None:
            raise NotFound("there is no such name")
        if found.inode != inode:
            raise Conflict("the name leads elsewhere")
        return found

    def add_name(self, batch: BatchLog, parent: int, name: bytes, new: Name) -> None:
        if name in self._names[parent]:
            raise Exists("the name is taken")
        self.check_number(new.dentry)
        if any(other.dentry == new.dentry for other in self._names[parent].values()):
            raise Misuse("the dentry number is in use")
        self.put(batch, self._names[parent], name, value=new)

    def drop_name(self, batch: BatchLog, parent: int, name: bytes) -> None:
        self.drop(batch, self._names[parent], name)

    def check_number(self, number: int) -> None:
        if not ROOT_INODE < number < self._next_id:
            raise Misuse("the number was never granted")

    def touch_parent(self, batch: BatchLog, parent: int, time_ns: int, links: int = 0) -> None:
        row = self._inodes[parent]
        self.edit(batch, parent, mtime_ns=time_ns, ctime_ns=time_ns, links=row.links + links)

    def lose_name(self, batch: BatchLog, inode: int, time_ns: int, lost: Lost) -> None:
        row = self._inodes[inode]
        links = 0 if row.kind == Kind.DIRECTORY else row.links - 1
        self.edit(batch, inode, links=links, ctime_ns=time_ns)
        if links:
            self.drop_words(batch, inode, lost.known.dentry)
        if links == 0 and self.trash_s and inode not in batch.made:
            self.put(batch, self._trash, inode, value=lost)
        keepers = self.awake(batch.session)
        if links == 0 and inode not in batch.made and keepers:
            batch.held.append(inode)
            for session in keepers:
                if (inode, session) not in self._open:
                    self.put(batch, self._open, (inode, session), value=False)
        self.settle(batch, inode)

    def drop_words(self, batch: BatchLog, inode: int, place: int) -> None:
        """What a name is found by goes with it."""
        if inode in self._words:
            self.drop(batch, self._words[inode], place)

    def open(self, batch: BatchLog, inode: int) -> None:
        said = sum(confirmed for (_, session), confirmed in self._open.items() if session == batch.session)
        if said >= protocol.MAX_OPEN:
            raise NoSpace("too many open files")
        self.put(batch, self._open, (inode, batch.session), value=True)

    def awake(self, but: int) -> set[int]:
        """The other sessions that may have something open."""
        return self._sessions - self.asleep - {but}

    def held(self, session: int) -> list[int]:
        """See Namespace."""
        return [inode for inode, holder in self._open if holder == session and self._inodes[inode].links == 0]

    def settle(self, batch: BatchLog, inode: int) -> None:
        row = self._inodes.get(inode)
        if row is None or row.links > 0 or any(held == inode for held, _ in self._open):
            return
        if inode in self._trash:
            was = tuple(table.get(inode) for table in self._tables())
            self.put(batch, self._trash, inode, value=dataclasses.replace(self._trash[inode], was=was))
        for table in self._tables():
            self.drop(batch, table, inode)
        batch.removed.append(inode)

    def unsettle(self, batch: BatchLog, inode: int) -> None:
        """It leaves the trash, for a name or for good."""
        lost = self._trash.get(inode)
        if lost is None:
            raise NotFound("this is not in the trash")
        self.drop(batch, self._trash, inode)
        for table, was in zip(self._tables(), lost.was or (), strict=False):
            if was is not None:
                self.put(batch, table, inode, value=was)

    def _tables(self) -> tuple[dict[int, Any], ...]:
        """All that an inode has; what words it is found by comes last."""
        return self._inodes, self._up, self._names, self._extents, self._cuts, self._xattrs, self._labels, self._words

    def is_below(self, directory: int, ancestor: int) -> bool:
        """Raises Loop: what was told goes round in a circle."""
        seen = set[int]()
        while directory not in (ROOT_INODE, ancestor):
            if directory in seen:
                raise Loop("the directories above this one go round in a circle")
            seen.add(directory)
            directory = self._up[directory]
        return directory == ancestor


def _whole(row: Attributes) -> Attributes:
    return row


def _untold(row: Attributes) -> Attributes:
    return row if row.inline is None else replace(row, inline=UNTOLD)
