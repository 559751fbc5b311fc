"""Mends what was found, through a session like any other's: a mount that holds the volume's delegation is asked for it.

Nothing is ever destroyed that could still be read. The coordinator counts again from its own rows; what nobody vouched
for gets a name in `lost+found`, and the rest stays as it was. One finding that cannot be mended does not keep others
from it.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from p2pfs.chunks.remote import RemoteStore
from p2pfs.errors import Conflict, Corrupt, NotDirectory, NotFound, PoolError
from p2pfs.format.extents import open_extent
from p2pfs.format.heads import Head, add, inline_digest, open_head, row_digest, seal_head
from p2pfs.format.names import dentry_tag, seal_name
from p2pfs.format.values import ValueKind, open_value
from p2pfs.meta.protocol import InDoubt, Namespace
from p2pfs.types import (
    DIGEST_RANGE_BYTES,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    ROOT_INODE,
    ChunkId,
    InodeId,
    Kind,
    PeerNumber,
)
from p2pfs.vfs.fsck.asking import Asked
from p2pfs.vfs.fsck.content import Inspector, ranges
from p2pfs.vfs.fsck.copies import Chunks
from p2pfs.vfs.fsck.findings import Code, Finding, Remedy, Spot, State
from p2pfs.vfs.space import Space
from p2pfs.wire.fsck import Adopt, DropDangling, Recount, Reseal
from p2pfs.wire.namespace import (
    FIRST_CHANGE,
    RENAME_NOREPLACE,
    AddReplicas,
    Attributes,
    ChunkPlace,
    Commit,
    ExtentPage,
    ExtentRow,
    GetAttributes,
    Locate,
    Make,
    NewChunk,
    Operation,
    ReadExtents,
    Rename,
)

LOST_FOUND: Final = b"lost+found"
_MODE: Final = 0o700
_MOST: Final = 1 << 63
_ORDER: Final = (
    Remedy.RECOUNT, Remedy.RESEAL, Remedy.RESIZE, Remedy.COPY, Remedy.DROP, Remedy.SALVAGE, Remedy.MOVE, Remedy.ADOPT,
)  # fmt: skip
"""Links first, as an inode without any is not there for the others."""


class Mender:
    """One repair. `owner` is (uid, gid) of a new lost+found."""

    def __init__(
        self,
        asked: Asked,
        namespace: Namespace,
        chunks: Chunks,
        stores: Callable[[PeerNumber], RemoteStore | None],
        space: Space,
        *,
        owner: tuple[int, int],
        now_ns: Callable[[], int],
    ) -> None:
        self._asked, self._namespace, self._chunks, self._stores = asked, namespace, chunks, stores
        self._space, self._owner, self._now_ns = space, owner, now_ns
        self._lost_found: InodeId | None = None
        self._touched: set[InodeId] = set()  # directories whose links may have become wrong

    async def run(self, findings: Sequence[Finding]) -> None:
        """Mend these, each with its remedy. Whether that was possible is said in each."""
        acts: dict[Remedy, Callable[[Finding], Awaitable[None]]] = {
            Remedy.RECOUNT: self._recount, Remedy.RESEAL: self._reseal, Remedy.RESIZE: self._resize,
            Remedy.COPY: self._copy, Remedy.DROP: self._drop, Remedy.SALVAGE: self._salvage, Remedy.MOVE: self._move,
            Remedy.ADOPT: self._adopt,
        }  # fmt: skip
        counters = [one for one in findings if one.code is Code.COUNTERS]
        for remedy in _ORDER:
            for finding in findings:
                if finding.remedy is remedy and finding.code is not Code.COUNTERS:
                    await self._try(acts[remedy], finding)
        for directory in sorted(self._touched):
            with contextlib.suppress(PoolError):  # the next check finds what is left of it
                await self._namespace.apply([Recount(directory)])
        for finding in counters:
            await self._try(self._recount, finding)

    async def _try(self, act: Callable[[Finding], Awaitable[None]], finding: Finding) -> None:
        try:
            await act(finding)
        except PoolError as error:
            finding.leave(str(error))
        else:
            if finding.state is State.FOUND:
                finding.state = State.MENDED

    async def _apply(self, *operations: Operation) -> None:
        try:
            await self._namespace.apply(operations)
        except InDoubt as error:  # another check tells what became of it
            error.give_up()
            raise

    # ---- what is counted again

    async def _recount(self, finding: Finding) -> None:
        await self._apply(Recount(finding.inode or 0))

    # ---- what is sealed again

    async def _reseal(self, finding: Finding) -> None:
        """The head of what has no content says its kind, which its name vouches for, and its size."""
        inode = _inode(finding)
        attributes = await self._asked.ask(GetAttributes(inode), Attributes)
        kind, size = Kind(attributes.kind), 0
        if kind is Kind.SYMLINK:
            if attributes.target is None:
                raise Corrupt("its target is missing too")
            size = len(open_value(self._asked.keys, ValueKind.TARGET, self._asked.volume, inode, attributes.target))
        await self._apply(Reseal(inode, self._sealed(inode, Head(attributes.change, size, kind))))

    async def _resize(self, finding: Finding) -> None:
        """A commit that changes nothing but the size that the coordinator counts with."""
        inode = _inode(finding)
        attributes = await self._asked.ask(GetAttributes(inode), Attributes)
        head = open_head(self._asked.keys, self._asked.volume, inode, attributes.head)
        if head.change != attributes.change:
            raise Corrupt("its row is of another change than its head")
        await self._apply(self._commit(inode, attributes, head.size, head.digests))

    def _commit(
        self,
        inode: InodeId,
        before: Attributes,
        size: int,
        digests: tuple[int, ...],
        drop: Sequence[tuple[int, int]] = (),
    ) -> Commit:
        head = self._sealed(inode, Head(before.change + 1, size, Kind.FILE, digests))
        return Commit(inode, before.change, size, head, 0, drop=list(drop))

    def _sealed(self, inode: InodeId, head: Head) -> bytes:
        if not (0 <= head.change < _MOST and 0 <= head.size <= MAX_FILE_BYTES):
            raise Corrupt("its row says a change or size that nothing has")
        return seal_head(self._asked.keys, self._asked.volume, inode, head)

    async def _salvage(self, finding: Finding) -> None:
        """Vouch for what opens of a file's content, and move it to lost+found at the same time: nobody vouched for it
        under its name. Rows that do not open hold the only keys to what they name: they are of no use to anybody, and
        go. What is whole by now stays where it is."""
        inode = _inode(finding)
        attributes = await self._asked.ask(GetAttributes(inode), Attributes)
        pages = [] if attributes.inline is not None else await self._pages(inode, self._size(inode, attributes))
        if any(page.attributes.change != attributes.change for page in pages):
            raise Conflict("somebody writes it: check again")
        if not self._is_whole(attributes, pages):
            commit = self._kept(inode, attributes, pages)
            moves = [await self._to_lost_found(finding)] if finding.spot is not None else []
            await self._apply(commit, *moves)
            self._touched.update(InodeId(move.parent) for move in moves)

    def _is_whole(self, attributes: Attributes, pages: Sequence[ExtentPage]) -> bool:
        inspector = Inspector(self._asked.keys, self._asked.volume)
        head = inspector.head(attributes)
        if not isinstance(head, Head):
            return False
        if attributes.inline is not None:
            return inspector.inline(attributes, head) is None
        if len(pages) < len(ranges(attributes, head)):
            return False
        return all(inspector.extents(page, head, number) is None for number, page in enumerate(pages))

    def _kept(self, inode: InodeId, attributes: Attributes, pages: Sequence[ExtentPage]) -> Commit:
        """A commit of what opens. Raises Corrupt: nothing does."""
        keys, volume, size = self._asked.keys, self._asked.volume, self._size(inode, attributes)
        if attributes.inline is not None:
            plain = open_value(keys, ValueKind.INLINE, volume, inode, attributes.inline)
            digest = inline_digest(keys, volume, inode, attributes.inline)
            return self._commit(inode, attributes, max(size, len(plain)), (digest,))
        kept, lost = self._sorted(inode, pages)
        if not kept and (lost or size):
            raise Corrupt("nothing of its content is there that opens")
        digests = [0] * max((1 + row.index // _RANGE for row in kept), default=0)
        for row in kept:
            at = row.index // _RANGE
            digests[at] = add(digests[at], row_digest(keys, volume, inode, row))
        return self._commit(inode, attributes, size, tuple(digests), [(row.index, row.seq) for row in lost])

    def _size(self, inode: InodeId, attributes: Attributes) -> int:
        """As its head says, else as the coordinator counts it."""
        try:
            size = open_head(self._asked.keys, self._asked.volume, inode, attributes.head).size
        except Corrupt:
            size = attributes.size
        if not 0 <= size <= MAX_FILE_BYTES:
            raise Corrupt("its row says a size that no file has")
        return size

    async def _pages(self, inode: InodeId, size: int) -> list[ExtentPage]:
        return [
            await self._asked.ask(ReadExtents(inode, number), ExtentPage)
            for number in range(max(1, -(-size // DIGEST_RANGE_BYTES)))
        ]

    def _sorted(self, inode: InodeId, pages: Sequence[ExtentPage]) -> tuple[list[ExtentRow], list[ExtentRow]]:
        """(extents that open, those that do not)."""
        kept, lost = list[ExtentRow](), list[ExtentRow]()
        for page in pages:
            for row in page.extents:
                try:
                    open_extent(self._asked.keys, self._asked.volume, inode, row)
                except Corrupt:
                    lost.append(row)
                else:
                    kept.append(row)
        return kept, lost

    # ---- names

    async def _drop(self, finding: Finding) -> None:
        spot = _spot(finding)
        await self._apply(DropDangling(spot.parent, spot.dentry))
        self._touched.add(spot.parent)

    async def _move(self, finding: Finding) -> None:
        await self._apply(await self._to_lost_found(finding))
        self._touched.add(_spot(finding).parent)

    async def _to_lost_found(self, finding: Finding) -> Rename:
        """Under a name that says what it was called and which inode it is."""
        spot, inode = _spot(finding), _inode(finding)
        kind = finding.kind
        if kind is None:
            kind = Kind((await self._asked.ask(GetAttributes(inode), Attributes)).kind)
        place = await self._place()
        tail = b"-%d-%d" % (inode, spot.dentry)
        name = (spot.name or b"nameless")[: MAX_NAME_BYTES - len(tail)] + tail
        (dentry,) = await self._namespace.new_ids(1)
        sealed, tag = self._seal(place, name), self._tag(place, name, inode, kind)
        return Rename(spot.parent, spot.raw, inode, place, sealed, dentry, tag, 0, RENAME_NOREPLACE, self._now_ns())

    async def _adopt(self, finding: Finding) -> None:
        inode, kind = _inode(finding), finding.kind
        assert kind is not None
        place, name = await self._place(), b"#%d" % inode
        if finding.spot is not None and finding.spot.name:  # in a directory that is gone
            tail = b"-%d" % inode
            name = finding.spot.name[: MAX_NAME_BYTES - len(tail)] + tail
        (dentry,) = await self._namespace.new_ids(1)
        sealed, tag = self._seal(place, name), self._tag(place, name, inode, kind)
        await self._apply(Adopt(inode, place, sealed, dentry, tag, self._now_ns()))

    def _seal(self, parent: InodeId, name: bytes) -> bytes:
        return seal_name(self._asked.keys, self._asked.volume, parent, name)

    def _tag(self, parent: InodeId, name: bytes, inode: InodeId, kind: Kind) -> bytes:
        return dentry_tag(self._asked.keys, self._asked.volume, parent, name, inode, kind)

    async def _place(self) -> InodeId:
        """lost+found in the root, made if it is not there."""
        if self._lost_found is None:
            sealed = self._seal(ROOT_INODE, LOST_FOUND)
            try:
                entry = await self._namespace.lookup(ROOT_INODE, sealed)
            except NotFound:
                self._lost_found = await self._make(sealed)
            else:
                inode = InodeId(entry.attributes.inode)
                if entry.tag != self._tag(ROOT_INODE, LOST_FOUND, inode, Kind.DIRECTORY):
                    raise NotDirectory("/lost+found is there, and no directory that a member made")
                self._lost_found = inode
        return self._lost_found

    async def _make(self, sealed: bytes) -> InodeId:
        ids = await self._namespace.new_ids(2)
        inode, dentry = InodeId(ids[0]), ids[1]
        tag = self._tag(ROOT_INODE, LOST_FOUND, inode, Kind.DIRECTORY)
        head = self._sealed(inode, Head(FIRST_CHANGE, 0, Kind.DIRECTORY))
        uid, gid = self._owner
        await self._apply(
            Make(
                ROOT_INODE, sealed, dentry, tag, inode, Kind.DIRECTORY, _MODE, uid, gid, 0, head, self._now_ns()
            )
        )  # fmt: skip
        return inode

    # ---- copies

    async def _copy(self, finding: Finding) -> None:
        """Store a copy again where it should be, from one that is whole, and read it back."""
        chunk, bad = finding.chunk, finding.peer
        assert chunk is not None
        assert bad is not None
        places = await self._asked.ask(Locate([chunk]), list[ChunkPlace])
        if not places:
            return  # nothing names it any more
        sealed = await self._whole(chunk, places[0], but=bad)
        store = self._stores(bad)
        if store is None:
            raise NotFound("its peer is no member any more: the pool makes the copy elsewhere")
        await self._space.cover(len(sealed))
        receipts = await store.put(self._asked.volume, chunk, [sealed])
        await self._apply(AddReplicas([NewChunk(chunk, len(sealed), receipts)]))
        await self._chunks.fetch(bad, chunk, len(sealed))

    async def _whole(self, chunk: ChunkId, place: ChunkPlace, *, but: PeerNumber) -> memoryview:
        trouble: PoolError = NotFound("no other copy is whole")
        for holder in map(PeerNumber, place.holders):
            if holder != but:
                try:
                    return await self._chunks.fetch(holder, chunk, place.size)
                except PoolError as error:
                    trouble = error
        raise trouble


_RANGE: Final = DIGEST_RANGE_BYTES >> 20


def _inode(finding: Finding) -> InodeId:
    assert finding.inode is not None
    return finding.inode


def _spot(finding: Finding) -> Spot:
    assert finding.spot is not None
    return finding.spot
