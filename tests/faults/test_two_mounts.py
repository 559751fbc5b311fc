"""Another mount, or another call, gets in between: at each await of a commit or a read the other side is done first.

Each test holds one step of the first mount at a gate, lets the rest of the world move on, and opens the gate.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Blocks, Check, Released
from p2pfs.errors import NotFound, Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, Buffer, ChunkId, Kind, VolumeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.tree import Owner
from p2pfs.vfs.uploads import LateCopies
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import RENAME_NOREPLACE, Commit, NewChunk

pytestmark = pytest.mark.l3

Step = Callable[[], Awaitable[None]]
RANGE = 256 << 20


class GatedStore:
    """A store whose next put or get waits for a step."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.before_put: Step | None = None
        self.before_get: Step | None = None

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        if self.before_put is not None:
            await self.before_put()
        return await self._inner.put(volume, chunk, parts, released=released)

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        if self.before_get is not None:
            await self.before_get()
        return await self._inner.get(volume, chunk, size, blocks, check=check)

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        return await self._inner.has(volume, chunk)

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        await self._inner.delete(volume, chunk, put_seq)


def volume() -> MemoryVolume:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)


async def made(fs: Filesystem, content: bytes, name: bytes = b"f") -> Handle:
    handle = await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
    await fs.write(handle, 0, content)
    await fs.fsync(handle)
    return handle


async def content(fs: Filesystem, name: bytes = b"f") -> bytes:
    handle = await fs.open((await fs.lookup(ROOT_INODE, name)).id)
    data = bytes(await fs.read(handle, 0, 1 << 20))
    await fs.release(handle)
    return data


async def test_an_inline_commit_that_lost_the_race_becomes_chunks() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        handle = await made(a, b"x" * 100)
        other = await b.open(handle.inode.id)
        await a.write(handle, 0, b"y" * 20_000)
        await a.fsync(handle)
        await b.write(other, 5, b"z" * 10)  # still believes the file is inline
        with trio.fail_after(5):
            await b.fsync(other)
        assert await content(a) == b"yyyyy" + b"z" * 10 + b"y" * (20_000 - 15)


async def test_a_write_beside_a_growing_truncate_is_stored() -> None:
    session, store = volume().session(), MemoryStore()
    async with filesystem(session, store) as fs:
        handle = await made(fs, b"x" * 100)
        asked, go = trio.Event(), trio.Event()
        apply = session.apply

        async def held(operations: Any) -> Any:  # noqa: ANN401
            asked.set()
            await go.wait()
            return await apply(operations)

        async def grow() -> None:
            await fs.attributes.set(handle.inode.id, size=1 << 20)

        session.apply = held  # type: ignore[method-assign]
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(grow)
                await asked.wait()
                await fs.write(handle, 0, b"z" * 10)
                nursery.start_soon(fs.fsync, handle)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
        assert await content(fs) == b"z" * 10 + b"x" * 90 + bytes((1 << 20) - 100)


@pytest.mark.parametrize("case", ["compaction", "outgrowing the metadata"])
async def test_what_another_mount_committed_meanwhile_survives(case: str) -> None:
    shared, store = volume(), GatedStore(MemoryStore())
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store._inner) as b:
        handle = await made(a, b"x" * (200_000 if case == "compaction" else 1000))
        if case == "compaction":
            for step in range(14):
                await a.write(handle, step * 8192, bytes([step + 1]) * 10)
                await a.fsync(handle)
        other = await b.open(handle.inode.id)
        puts = 0

        async def meanwhile() -> None:
            nonlocal puts
            puts += 1
            if puts == 2:  # the one that stores what was committed before, beside the new bytes
                store.before_put = None
                await b.write(other, 500, b"B" * 10)
                await b.fsync(other)
                await a.inode(handle.inode.id)  # a stat in the first mount takes the new state in

        store.before_put = meanwhile
        await a.write(handle, 15 * 8192 if case == "compaction" else 20_000, b"q" * 100)
        await a.fsync(handle)
        async with handle.inode.content:  # compaction goes on behind the fsync, with this lock
            assert puts == 2
        assert (await content(b))[500:510] == b"B" * 10
        assert (await content(a))[500:510] == b"B" * 10


async def test_a_commit_over_two_ranges_survives_a_refresh_between_them() -> None:
    shared, store = volume(), MemoryStore()
    session = shared.session()
    async with filesystem(session, store) as a:
        await made(a, b"")
        handle = await a.open((await a.lookup(ROOT_INODE, b"f")).id)
        await a.write(handle, RANGE - 100, b"a" * 200)
        await a.fsync(handle)
    async with filesystem(shared.session(), store) as b, filesystem(session, store) as a:
        handle, other = await a.open(handle.inode.id), await b.open(handle.inode.id)
        extents, asked = session.extents, 0

        async def interrupted(inode: Any, range_number: int) -> Any:  # noqa: ANN401
            nonlocal asked
            asked += 1
            if asked == 2:
                await b.write(other, 5, b"zz")
                await b.fsync(other)
                await a.inode(inode)
            return await extents(inode, range_number)

        session.extents = interrupted  # type: ignore[method-assign]
        await a.write(handle, RANGE - 100, b"A" * 200)
        await a.fsync(handle)
        assert bytes(await a.read(handle, RANGE - 100, 200)) == b"A" * 200
        assert bytes(await a.read(handle, 5, 2)) == b"zz"


@pytest.mark.parametrize("who", ["reader", "writer"])
async def test_a_file_that_another_mount_makes_small_meanwhile_is_no_damage(who: str) -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as b:
        await made(b, b"x" * 200_000)
        session = shared.session()
        async with filesystem(session, store) as a:
            handle = await a.open((await a.lookup(ROOT_INODE, b"f")).id)
            extents = session.extents

            async def meanwhile(inode: Any, range_number: int) -> Any:  # noqa: ANN401
                session.extents = extents  # type: ignore[method-assign]
                other = await b.open(inode, truncate=True)
                await b.write(other, 0, b"small")
                await b.fsync(other)
                return await extents(inode, range_number)

            session.extents = meanwhile  # type: ignore[method-assign]
            if who == "reader":
                assert bytes(await a.read(handle, 0, 10)) == b"small"
            else:
                await a.write(handle, 100_000, b"large")
                await a.fsync(handle)
                assert await content(a) == b"small" + bytes(99_995) + b"large"


async def test_a_rename_goes_by_what_is_there_not_by_what_was_seen() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        await made(a, b"1")
        await made(a, b"2", b"g")
        await a.lookup(ROOT_INODE, b"g")
        await b.remove(ROOT_INODE, b"g", directory=False)
        await a.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", RENAME_NOREPLACE)
        assert await content(b, b"g") == b"1"
        gone = await a.tree.make(ROOT_INODE, b"d", Kind.DIRECTORY, 0o755, Owner(0, 0))
        await b.remove(ROOT_INODE, b"d", directory=True)
        with pytest.raises(NotFound):
            await a.rename(ROOT_INODE, b"g", gone.id, b"g", 0)


async def test_renames_of_one_name_by_many_at_once_end_in_what_happened() -> None:
    async with filesystem(volume().session(), MemoryStore()) as fs:
        await made(fs, b"1")
        other = await fs.tree.make(ROOT_INODE, b"d", Kind.DIRECTORY, 0o755, Owner(0, 0))
        await fs.rename(ROOT_INODE, b"f", other.id, b"f", 0)
        outcomes: list[str] = []

        async def move(name: bytes) -> None:
            try:
                await fs.rename(other.id, b"f", ROOT_INODE, name, 0)
                outcomes.append("moved")
            except NotFound:
                outcomes.append("gone")

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(move, b"%d" % number)
        assert sorted(outcomes) == ["gone"] * 4 + ["moved"]


async def test_a_read_never_misses_a_write_that_returned_before_it() -> None:
    shared, store = volume(), GatedStore(MemoryStore())
    limits = Limits(memory_cache=1)
    async with filesystem(shared.session(), store, limits=limits) as fs:
        handle = await made(fs, b"o" * 200_000)
    async with filesystem(shared.session(), store, limits=limits) as fs:
        handle = await fs.open(handle.inode.id)
        await fs.write(handle, 0, b"N" * 100)

        async def meanwhile() -> None:
            store.before_get = None
            await fs.fsync(handle)

        store.before_get = meanwhile
        assert bytes(await fs.read(handle, 0, 200)) == b"N" * 100 + b"o" * 100


async def test_leaving_tries_every_file_whatever_failed_before() -> None:
    async with filesystem(volume().session(), MemoryStore()) as fs:
        first = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        second = await fs.create(ROOT_INODE, b"g", 0o644, Owner(0, 0))
        await fs.write(first, 0, b"x" * 100)
        await fs.write(second, 0, b"y" * 100)
        first.inode.fail(Unavailable("an upload was delayed a minute ago"))
        await fs.settler.settle_all()
        assert fs.writer.unsaved_bytes() == 0
        assert (await content(fs), await content(fs, b"g")) == (b"x" * 100, b"y" * 100)


async def test_a_renamed_file_has_its_data_when_the_mount_is_killed() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as fs:
        await made(fs, b"old content", b"conf")
        handle = await fs.create(ROOT_INODE, b"conf.tmp", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"new content")
        await fs.rename(ROOT_INODE, b"conf.tmp", ROOT_INODE, b"conf", 0)
    async with filesystem(shared.session(), store) as fs:
        assert await content(fs, b"conf") == b"new content"


async def test_a_copy_that_comes_before_its_put_returned_is_committed_with_it() -> None:
    session, inner = volume().session(), MemoryStore()
    async with trio.open_nursery() as nursery:
        copies = LateCopies(session, nursery)

        class EarlyThird(GatedStore):
            async def put(
                self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
            ) -> list[Receipt]:
                receipts = await super().put(volume, chunk, parts, released=released)
                copies.late(volume, NewChunk(chunk, sum(map(len, parts)), [Receipt(7, 1, b"")]))
                await trio.lowlevel.checkpoint()
                return receipts

        async with filesystem(session, EarlyThird(inner), copies=copies) as fs:
            handle = await made(fs, b"x" * 100_000)
            page = await session.extents(handle.inode.id, 0)
            assert sorted(page.places[0].holders) == [1, 7]


async def test_equal_chunks_under_way_together_name_each_peer_once() -> None:
    """A file of zeros: every MiB is the same chunk, and each put of it has its own late receipt."""
    session, inner = volume().session(), MemoryStore()
    named: list[list[int]] = []
    async with trio.open_nursery() as nursery:
        copies = LateCopies(session, nursery)
        apply = session.apply

        class LateThird(GatedStore):
            puts = 0

            async def put(
                self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
            ) -> list[Receipt]:
                self.puts += 1
                late = NewChunk(chunk, sum(map(len, parts)), [Receipt(7, self.puts, b"")])
                receipts = await super().put(volume, chunk, parts, released=released)
                copies.late(volume, late)
                return receipts

        async def watched(operations: Any) -> Any:  # noqa: ANN401
            for operation in operations:
                chunks = operation.chunks if isinstance(operation, Commit) else ()
                named.extend([receipt.peer for receipt in new.receipts] for new in chunks)
            return await apply(operations)

        session.apply = watched  # type: ignore[method-assign]
        async with filesystem(session, LateThird(inner), copies=copies) as fs:
            handle = await fs.create(ROOT_INODE, b"zeros", 0o644, Owner(0, 0))
            await fs.write(handle, 0, bytes(8 << 20))
            await fs.fsync(handle)
    assert named
    assert all(len(set(peers)) == len(peers) for peers in named), named


@pytest.mark.parametrize("when", ["before the commit", "after it"])
async def test_a_late_copy_is_recorded_whenever_it_comes(when: str) -> None:
    session, store = volume().session(), GatedStore(MemoryStore())
    async with trio.open_nursery() as nursery:
        copies = LateCopies(session, nursery)
        async with filesystem(session, store, copies=copies) as fs:
            handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
            chunk: NewChunk | None = None
            apply = session.apply

            async def watched(operations: Any) -> Any:  # noqa: ANN401
                nonlocal chunk
                for operation in operations:
                    for new in operation.chunks if isinstance(operation, Commit) else ():
                        chunk = chunk or NewChunk(new.chunk, new.size, [Receipt(7, 1, b"")])
                        if when == "before the commit" and len(new.receipts) == 1:
                            copies.late(VOLUME, chunk)
                return await apply(operations)

            session.apply = watched  # type: ignore[method-assign]
            await fs.write(handle, 0, b"x" * 100_000)
            await fs.fsync(handle)
            assert chunk is not None
            if when == "after it":
                copies.late(VOLUME, chunk)
            await trio.testing.wait_all_tasks_blocked()
            (place,) = await session.locate([ChunkId(chunk.chunk)])
            assert 7 in place.holders


async def test_files_that_were_only_looked_at_do_not_fill_the_memory() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as fs:
        for number in range(1500):
            handle = await fs.create(ROOT_INODE, b"%d" % number, 0o644, Owner(0, 0))
            await fs.write(handle, 0, b"%d" % number * 4000)
            await fs.fsync(handle)
            fs.refer(handle.inode)
            await fs.release(handle)
        kept = [len(inode.attributes.inline or b"") for inode in fs._table.all()]
        assert sum(kept) <= 16 << 20
        assert kept.count(0) > 100
        assert (await content(fs, b"3"))[:10] == b"3" * 10
        first = await fs.open((await fs.lookup(ROOT_INODE, b"0")).id)
        assert bytes(await fs.read(first, 0, 10)) == b"0" * 10


async def test_a_file_open_here_lives_on_when_its_last_name_goes() -> None:
    async with filesystem(volume().session(), MemoryStore()) as fs:
        handle = await made(fs, b"content")
        await fs.tree.link(handle.inode.id, ROOT_INODE, b"second")
        await fs.tree.remove(ROOT_INODE, b"f", directory=False)
        await fs.tree.remove(ROOT_INODE, b"second", directory=False)
        assert bytes(await fs.read(handle, 0, 10)) == b"content"
        await fs.write(handle, 0, b"C")
        await fs.fsync(handle)
        await fs.release(handle)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NotFound):
            await fs.tree.inode(handle.inode.id)


async def test_a_truncation_to_the_size_that_was_known_cuts_what_another_mount_wrote_since() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await made(a, b"12345")
        theirs = await b.open((await b.lookup(ROOT_INODE, b"f")).id)
        await a.write(mine, 5, b"more")
        await a.fsync(mine)
        await b.attributes.set(theirs.inode.id, size=5)
        assert await content(a) == b"12345"
