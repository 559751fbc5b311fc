"""The namespace as dictionaries: an independent second implementation of the rules, for tests of what is above it.

Nothing persists and nothing is deferred: what is cut or removed is gone at once. Shares no code with the SQL engine, so
that the conformance suite compares two readings of the contract.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from msgspec.structs import replace

from p2pfs.errors import (
    Conflict,
    Denied,
    Exists,
    Fenced,
    Gone,
    Invalid,
    IsDirectory,
    Loop,
    Misuse,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from p2pfs.types import INDICES_PER_RANGE, MAX_FILE_BYTES, ROOT_INODE, ChunkId, DentryId, InodeId, Kind, VolumeId
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    AddReplicas,
    Applied,
    Attributes,
    ChunkPlace,
    Commit,
    DirectoryPage,
    Entry,
    ExtentPage,
    ExtentRow,
    Link,
    Make,
    NewChunk,
    Opened,
    Operation,
    Released,
    Rename,
    SetAttributes,
    Space,
    Unlink,
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_NONE: Any = object()
_VOLUME = VolumeId(1)


@dataclass(frozen=True, slots=True)
class _Name:
    dentry: int
    tag: bytes
    inode: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    size: int
    holders: frozenset[int]


@dataclass(slots=True)
class _Batch:
    """What one batch changed: how to take it back, and what to tell."""

    session: int
    undo: list[Callable[[], object]] = field(default_factory=list)
    touched: dict[int, None] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)


class MemoryVolume:
    """One volume's state, shared by the sessions opened on it."""

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
    ) -> None:
        self.volume = volume
        self.verify = verify
        self.wanted_min = wanted_min
        self.room = room
        self.purging: set[bytes] = set()  # chunks a commit may not name: tests put them here
        self._next_id = ROOT_INODE + 1
        self._sessions: set[int] = set()
        self._session_numbers = itertools.count(1)
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
        self._names: dict[int, dict[bytes, _Name]] = {ROOT_INODE: {}}
        self._extents: dict[int, dict[tuple[int, int], ExtentRow]] = {}
        self._cuts: dict[int, tuple[tuple[int, int], ...]] = {}
        self._chunks: dict[bytes, _Chunk] = {}
        self._open: dict[tuple[int, int], bool] = {}  # (inode, session)

    def session(self, *, read_only: bool = False) -> "MemoryNamespace":
        """A new session."""
        number = next(self._session_numbers)
        self._sessions.add(number)
        return MemoryNamespace(self, number, read_only=read_only)

    def end(self, number: int) -> None:
        """End a session; nameless inodes only it held open go."""
        self._sessions.discard(number)
        batch = _Batch(number)
        for inode, session in [key for key in self._open if key[1] == number]:
            del self._open[inode, session]
            self._settle(batch, inode)

    @property
    def charged_bytes(self) -> int:
        """Sum of all sizes."""
        return sum(row.size for row in self._inodes.values())

    # ---- what sessions call -----------------------------------------------------------------------------------------

    def require(self, session: int) -> None:
        """Raises Fenced when the session is over."""
        if session not in self._sessions:
            raise Fenced("this session is over")

    def apply(self, session: int, operations: Sequence[Operation]) -> Applied:
        """All operations or none."""
        batch = _Batch(session)
        try:
            for operation in operations:
                self._do(batch, operation)
        except BaseException:
            for take_back in reversed(batch.undo):
                take_back()
            raise
        return Applied([self._inodes[i] for i in batch.touched if i in self._inodes], batch.removed)

    def grant_ids(self, count: int) -> range:
        """Numbers never granted before."""
        if count < 1:
            raise Misuse("at least one number is granted")
        first = self._next_id
        self._next_id += count
        return range(first, self._next_id)

    def lookup(self, parent: int, name: bytes) -> Entry:
        """See Namespace."""
        self._directory(parent, removed_too=True)
        found = self._names[parent].get(name)
        if found is None:
            raise NotFound("there is no such name")
        return Entry(found.dentry, name, found.tag, self._inodes[found.inode])

    def attributes(self, inode: int) -> Attributes:
        """See Namespace."""
        if inode not in self._inodes:
            raise NotFound("there is no such inode")
        return self._inodes[inode]

    def directory(self, inode: int, after: int, limit: int) -> DirectoryPage:
        """See Namespace."""
        self._directory(inode, removed_too=True)
        if limit < 1:
            raise Misuse("a page has at least one entry")
        behind = sorted((n.dentry, name, n) for name, n in self._names[inode].items() if n.dentry > after)
        entries = [Entry(n.dentry, name, n.tag, self._inodes[n.inode]) for _, name, n in behind[:limit]]
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
        known = [(chunk, self._chunks[chunk]) for chunk in chunks if chunk in self._chunks]
        return [ChunkPlace(chunk, place.size, sorted(place.holders)) for chunk, place in known]

    def space(self) -> Space:
        """See Namespace."""
        return Space(*self.room, len(self._inodes))

    # ---- changes that can be taken back -----------------------------------------------------------------------------

    def _put(self, batch: _Batch, into: dict[K, V], key: K, *, value: V) -> None:
        old = into.get(key, _NONE)
        batch.undo.append((lambda: into.pop(key)) if old is _NONE else (lambda: into.__setitem__(key, old)))
        into[key] = value

    def _pop(self, batch: _Batch, out_of: dict[K, V], key: K) -> None:
        if key in out_of:
            old = out_of.pop(key)
            batch.undo.append(lambda: out_of.__setitem__(key, old))

    def _edit(self, batch: _Batch, inode: int, **fields: Any) -> None:  # noqa: ANN401 - fields of Attributes
        row = self._inodes[inode]
        if not fields.get("ctime_ns", 1):
            del fields["ctime_ns"]
        self._put(batch, self._inodes, inode, value=replace(row, attr_change=row.attr_change + 1, **fields))
        batch.touched[inode] = None

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _directory(self, inode: int, *, removed_too: bool = False) -> Attributes:
        row = self.attributes(inode)
        if row.kind != Kind.DIRECTORY:
            raise NotDirectory("this is not a directory")
        if row.links == 0 and not removed_too:
            raise NotFound("the directory was removed")
        return row

    def _named(self, parent: int, name: bytes, inode: int) -> _Name:
        found = self._names[parent].get(name)
        if found is None:
            raise NotFound("there is no such name")
        if found.inode != inode:
            raise Conflict("the name leads elsewhere")
        return found

    def _add_name(self, batch: _Batch, parent: int, name: bytes, new: _Name) -> None:
        if name in self._names[parent]:
            raise Exists("the name is taken")
        self._check_number(new.dentry)
        if any(other.dentry == new.dentry for other in self._names[parent].values()):
            raise Misuse("the dentry number is in use")
        self._put(batch, self._names[parent], name, value=new)

    def _check_number(self, number: int) -> None:
        if not ROOT_INODE < number < self._next_id:
            raise Misuse("the number was never granted")

    def _touch_parent(self, batch: _Batch, parent: int, time_ns: int, links: int = 0) -> None:
        row = self._inodes[parent]
        self._edit(batch, parent, mtime_ns=time_ns, ctime_ns=time_ns, links=row.links + links)

    def _lose_name(self, batch: _Batch, inode: int, time_ns: int) -> None:
        row = self._inodes[inode]
        links = 0 if row.kind == Kind.DIRECTORY else row.links - 1
        self._edit(batch, inode, links=links, ctime_ns=time_ns)
        self._settle(batch, inode)

    def _settle(self, batch: _Batch, inode: int) -> None:
        row = self._inodes.get(inode)
        if row is None or row.links > 0 or any(held == inode for held, _ in self._open):
            return
        tables: tuple[dict[int, Any], ...] = (self._inodes, self._up, self._names, self._extents, self._cuts)
        for table in tables:
            self._pop(batch, table, inode)
        batch.removed.append(inode)

    def _is_below(self, directory: int, ancestor: int) -> bool:
        while directory not in (ROOT_INODE, ancestor):
            directory = self._up[directory]
        return directory == ancestor

    # ---- operations -------------------------------------------------------------------------------------------------

    def _do(self, batch: _Batch, operation: Operation) -> None:
        match operation:
            case Make():
                self._make(batch, operation)
            case Link():
                self._link(batch, operation)
            case Unlink():
                self._unlink(batch, operation)
            case Rename():
                self._rename(batch, operation)
            case SetAttributes():
                self._set(batch, operation)
            case Commit():
                self._commit(batch, operation)
            case AddReplicas():
                for new in operation.chunks:
                    self._verify(new)
                    if new.chunk in self._chunks and new.chunk not in self.purging:
                        self._add_holders(batch, new)
            case Opened():
                self.attributes(operation.inode)
                self._put(batch, self._open, (operation.inode, batch.session), value=True)
                batch.touched[operation.inode] = None
            case Released():
                if (operation.inode, batch.session) in self._open:
                    self._pop(batch, self._open, (operation.inode, batch.session))
                    self._settle(batch, operation.inode)

    def _make(self, batch: _Batch, op: Make) -> None:
        _check_name(op.name)
        if op.kind not in set(Kind) or (op.target is not None) != (op.kind == Kind.SYMLINK):
            raise Misuse("this is no inode")
        self._directory(op.parent)
        self._add_name(batch, op.parent, op.name, _Name(op.dentry, op.dentry_tag, op.inode))
        self._check_number(op.inode)
        if op.inode in self._inodes or op.inode in batch.removed:
            raise Misuse("the inode number is in use")
        is_directory = op.kind == Kind.DIRECTORY
        row = Attributes(
            op.inode, op.kind, op.mode & 0o7777, op.uid, op.gid, op.rdev, 2 if is_directory else 1, 0, FIRST_CHANGE, 0,
            op.time_ns, op.time_ns, op.time_ns, op.head, None, op.target,
        )  # fmt: skip
        self._put(batch, self._inodes, op.inode, value=row)
        batch.touched[op.inode] = None
        if is_directory:
            self._put(batch, self._up, op.inode, value=op.parent)
            self._put(batch, self._names, op.inode, value={})
        self._touch_parent(batch, op.parent, op.time_ns, links=int(is_directory))
        if op.opened:
            self._put(batch, self._open, (op.inode, batch.session), value=True)

    def _link(self, batch: _Batch, op: Link) -> None:
        _check_name(op.name)
        self._directory(op.parent)
        row = self.attributes(op.inode)
        if row.kind == Kind.DIRECTORY:
            raise IsDirectory("a directory has one name")
        if row.links == 0:
            raise NotFound("the file has no name")
        self._add_name(batch, op.parent, op.name, _Name(op.dentry, op.dentry_tag, op.inode))
        if row.links >= 65_000:
            raise TooLarge("too many names")
        self._edit(batch, op.inode, links=row.links + 1, ctime_ns=op.time_ns)
        self._touch_parent(batch, op.parent, op.time_ns)

    def _unlink(self, batch: _Batch, op: Unlink) -> None:
        self._directory(op.parent)
        self._named(op.parent, op.name, op.inode)
        is_directory = self._inodes[op.inode].kind == Kind.DIRECTORY
        if op.directory and not is_directory:
            raise NotDirectory("this is not a directory")
        if is_directory and not op.directory:
            raise IsDirectory("this is a directory")
        if op.directory and self._names[op.inode]:
            raise NotEmpty("the directory is not empty")
        self._pop(batch, self._names[op.parent], op.name)
        self._touch_parent(batch, op.parent, op.time_ns, links=-1 if op.directory else 0)
        self._lose_name(batch, op.inode, op.time_ns)

    def _rename(self, batch: _Batch, op: Rename) -> None:
        if op.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise Invalid("these flags do not go together")
        _check_name(op.new_name)
        self._directory(op.parent)
        self._directory(op.new_parent)
        source = self._named(op.parent, op.name, op.inode)
        target = self._names[op.new_parent].get(op.new_name)
        if op.flags == RENAME_NOREPLACE and target is not None:
            raise Exists("the new name is taken")
        if op.flags == RENAME_EXCHANGE and target is None:
            raise NotFound("there is nothing to exchange with")
        if op.replaced != (target.inode if target else 0):
            raise Conflict("the new name leads elsewhere")
        if target is not None and target.inode == op.inode:
            batch.touched[op.inode] = None
            return
        self._check_loop(op.inode, op.new_parent)
        if op.flags == RENAME_EXCHANGE and target is not None:
            self._check_loop(target.inode, op.parent)
            self._put(batch, self._names[op.parent], op.name, value=_Name(source.dentry, op.back_tag, target.inode))
            self._put(
                batch, self._names[op.new_parent], op.new_name, value=_Name(target.dentry, op.dentry_tag, op.inode)
            )
            self._move(batch, target.inode, op.new_parent, op.parent, op.time_ns)
        else:
            if target is not None:
                self._replace(batch, op, target)
            self._pop(batch, self._names[op.parent], op.name)
            self._add_name(batch, op.new_parent, op.new_name, _Name(op.dentry, op.dentry_tag, op.inode))
        self._move(batch, op.inode, op.parent, op.new_parent, op.time_ns)
        self._touch_parent(batch, op.parent, op.time_ns)
        if op.parent != op.new_parent:
            self._touch_parent(batch, op.new_parent, op.time_ns)

    def _check_loop(self, moved: int, into: int) -> None:
        if self._inodes[moved].kind == Kind.DIRECTORY and self._is_below(into, moved):
            raise Loop("a directory cannot be moved below itself")

    def _replace(self, batch: _Batch, op: Rename, target: _Name) -> None:
        moved, other = self._inodes[op.inode], self._inodes[target.inode]
        if moved.kind == Kind.DIRECTORY and other.kind != Kind.DIRECTORY:
            raise NotDirectory("a directory cannot replace what is none")
        if moved.kind != Kind.DIRECTORY and other.kind == Kind.DIRECTORY:
            raise IsDirectory("only a directory can replace one")
        if other.kind == Kind.DIRECTORY and self._names[other.inode]:
            raise NotEmpty("the directory is not empty")
        self._pop(batch, self._names[op.new_parent], op.new_name)
        if other.kind == Kind.DIRECTORY:
            self._touch_parent(batch, op.new_parent, op.time_ns, links=-1)
        self._lose_name(batch, other.inode, op.time_ns)

    def _move(self, batch: _Batch, inode: int, source: int, target: int, time_ns: int) -> None:
        self._edit(batch, inode, ctime_ns=time_ns)
        if self._inodes[inode].kind == Kind.DIRECTORY and source != target:
            self._put(batch, self._up, inode, value=target)
            self._touch_parent(batch, source, time_ns, links=-1)
            self._touch_parent(batch, target, time_ns, links=1)

    def _set(self, batch: _Batch, op: SetAttributes) -> None:
        self.attributes(op.inode)
        given = {
            "mode": None if op.mode is None else op.mode & 0o7777,
            "uid": op.uid,
            "gid": op.gid,
            "atime_ns": op.atime_ns,
            "mtime_ns": op.mtime_ns,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        self._edit(batch, op.inode, ctime_ns=op.ctime_ns, **fields)

    # ---- content ----------------------------------------------------------------------------------------------------

    def _commit(self, batch: _Batch, op: Commit) -> None:
        row = self.attributes(op.inode)
        if row.kind == Kind.DIRECTORY:
            raise IsDirectory("a directory has no content")
        if row.kind != Kind.FILE:
            raise Invalid("only a file has content")
        if row.change != op.base_change:
            raise Conflict("the file changed")
        if op.size > MAX_FILE_BYTES:
            raise TooLarge("the file would be too large")
        if op.size < 0 or (op.inline is not None and op.clear_inline):
            raise Misuse("this commit contradicts itself")
        self._name_chunks(batch, op)
        self._lay(batch, op)
        inline = op.inline if op.inline is not None else None if op.clear_inline else row.inline
        fields: dict[str, Any] = {"mode": op.mode & 0o7777} if op.mode is not None else {}
        if op.time_ns:
            fields["mtime_ns"] = op.time_ns
        self._edit(
            batch,
            op.inode,
            size=op.size,
            head=op.head,
            change=row.change + 1,
            inline=inline,
            ctime_ns=op.time_ns,
            **fields,
        )

    def _name_chunks(self, batch: _Batch, op: Commit) -> None:
        named = {extent.chunk for extent in op.extents if extent.chunk is not None}
        for new in op.chunks:
            self._verify(new)
            if new.chunk not in named:
                raise Misuse("no extent names this chunk")
        fresh = {new.chunk: new for new in op.chunks}
        for chunk in named:
            if chunk in self.purging:
                raise Gone("the chunk is being deleted")
            if chunk in fresh:
                self._add_holders(batch, fresh[chunk])
                if len(self._chunks[chunk].holders) < self.wanted_min:
                    raise Misuse("too few peers hold the chunk")
            elif chunk not in self._chunks:
                raise Misuse("nobody has stored this chunk")

    def _lay(self, batch: _Batch, op: Commit) -> None:
        if op.inode not in self._extents:
            self._put(batch, self._extents, op.inode, value={})
        layers = self._extents[op.inode]
        cuts = self._cuts.get(op.inode, ())
        if op.cut_index >= 0:
            cuts += ((op.cut_index, op.cut_seq),)
        for extent in op.extents:
            place = extent.index, extent.seq
            if extent.index < 0 or place in layers or any(i <= place[0] and place[1] < s for i, s in cuts):
                raise Misuse("this extent cannot be")
            self._put(batch, layers, place, value=extent)
        gone = [(i, s) for i, s in layers if i >= op.cut_index >= 0 and s < op.cut_seq]
        for place in [*op.drop, *gone]:
            self._pop(batch, layers, place)
        self._put(batch, self._cuts, op.inode, value=cuts)

    def _verify(self, new: NewChunk) -> None:
        if self.verify is not None:
            self.verify(self.volume, new)

    def _add_holders(self, batch: _Batch, new: NewChunk) -> None:
        known = self._chunks.get(new.chunk, _Chunk(new.size, frozenset()))
        if known.size != new.size:
            raise Misuse("the chunk has another size")
        holders = known.holders | {receipt.peer for receipt in new.receipts}
        self._put(batch, self._chunks, new.chunk, value=_Chunk(new.size, holders))


class MemoryNamespace:
    """One session on a MemoryVolume. See Namespace."""

    def __init__(self, volume: MemoryVolume, number: int, *, read_only: bool) -> None:
        self._volume = volume
        self._read_only = read_only
        self.number = number

    async def _begin(self) -> MemoryVolume:
        await trio.lowlevel.checkpoint()
        self._volume.require(self.number)
        return self._volume

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """See Namespace."""
        return (await self._begin()).lookup(parent, name)

    async def attributes(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return (await self._begin()).attributes(inode)

    async def directory(self, inode: InodeId, after: DentryId, limit: int) -> DirectoryPage:
        """See Namespace."""
        return (await self._begin()).directory(inode, after, limit)

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """See Namespace."""
        return (await self._begin()).extents(inode, range_number)

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """See Namespace."""
        return (await self._begin()).locate(chunks)

    async def space(self) -> Space:
        """See Namespace."""
        return (await self._begin()).space()

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """See Namespace."""
        volume = await self._begin()
        if self._read_only:
            raise Denied("the volume is mounted read-only")
        return volume.apply(self.number, operations)

    async def new_ids(self, count: int) -> range:
        """See Namespace."""
        return (await self._begin()).grant_ids(count)


def _check_name(name: bytes) -> None:
    if len(name) > 512:
        raise TooLarge("the name is too long")
    if not name:
        raise Misuse("this is no sealed name")
