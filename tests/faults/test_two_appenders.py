"""Two mounts append to one file: every record survives, once and in one piece, whatever was unsaved when."""

import random
from collections.abc import Sequence

import pytest
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, Unavailable
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import CHUNK_BYTES, KIB, ROOT_INODE, Buffer, ChunkId, InodeId, VolumeId
from p2pfs.vfs.appending import KernelSize
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import Applied, Commit, Operation

pytestmark = pytest.mark.l3

SIZES = [1, 100, 3 * KIB, 16 * KIB, 40 * KIB, 300 * KIB, CHUNK_BYTES - 7, CHUNK_BYTES + 9]


def volume() -> MemoryVolume:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)


async def opened(fs: Filesystem) -> Handle:
    return await fs.open((await fs.lookup(ROOT_INODE, b"log")).id, append=True)


async def append(fs: Filesystem, handle: Handle, data: bytes) -> None:
    """As the kernel does: at the size it was told last."""
    await fs.write(handle, handle.inode.kernel_size.newest, data)


async def content(fs: Filesystem, number: InodeId) -> bytes:
    handle = await fs.open(number)
    try:
        return bytes(await fs.read(handle, 0, 1 << 30))
    finally:
        await fs.release(handle)


@pytest.mark.parametrize("first", [100, 20 * KIB, CHUNK_BYTES + 5])
@pytest.mark.parametrize("second", [100, 20 * KIB, CHUNK_BYTES + 5])
async def test_records_written_at_the_same_end_both_survive(first: int, second: int) -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        theirs = await opened(b)
        await append(a, mine, b"a" * first)
        await append(b, theirs, b"b" * second)
        await b.fsync(theirs)
        await a.fsync(mine)
        whole = await content(b, mine.inode.id)
        assert whole in (b"a" * first + b"b" * second, b"b" * second + b"a" * first)
        assert await content(a, mine.inode.id) == whole


async def test_what_was_appended_after_a_truncation_elsewhere_follows_the_end() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        await append(a, mine, b"old" * 1000)
        await a.fsync(mine)
        await append(a, mine, b"new")
        await b.attributes.set(mine.inode.id, size=10)
        await a.fsync(mine)
        assert await content(a, mine.inode.id) == (b"old" * 4)[:10] + b"new"


async def test_who_opens_sees_what_the_other_closed_although_there_are_unsaved_records() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        theirs = await opened(b)
        await append(a, mine, b"mine")
        await append(b, theirs, b"theirs")
        await b.flush(theirs)
        assert await content(a, mine.inode.id) == b"theirsmine"


async def test_positioned_bytes_written_before_stay_where_they_are() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0))
        await a.write(mine, 0, b"0123456789")
        tail = await opened(a)
        await append(a, tail, b"tail")
        theirs = await opened(b)
        await append(b, theirs, b"x" * 4)
        await b.fsync(theirs)
        await a.fsync(mine)
        assert await content(b, mine.inode.id) == b"0123456789tail"  # b's bytes were overwritten by position


async def test_pages_of_a_mapping_are_no_appends() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as fs:
        handle = await fs.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        await append(fs, handle, bytes(10_000))
        await fs.write(handle, 4096, b"p" * 4096)
        await fs.write(handle, 8192, b"q" * (10_000 - 8192))
        assert await content(fs, handle.inode.id) == bytes(4096) + b"p" * 4096 + b"q" * (10_000 - 8192)


@pytest.mark.parametrize("seed", range(30))
async def test_random_records_all_survive(seed: int) -> None:
    chance = random.Random(seed)
    shared, store = volume(), MemoryStore()
    records: list[bytes] = []
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        await a.release(await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0)))
        handles = [(fs, await opened(fs)) for fs in (a, b)]
        for number in range(60):
            fs, handle = chance.choice(handles)
            match chance.randrange(8):
                case 0:
                    await fs.fsync(handle)
                case 1:
                    fs.writer.freeze(handle.inode)
                case 2:
                    handle.inode.stat()  # the kernel learns the size this mount knows
                case 3:
                    await fs.stat(handle.inode.id)
                case _:
                    size = max(8, chance.choice(SIZES))
                    record = b"<%06d" % number + bytes([65 + number % 26]) * (size - 8) + b">"
                    records.append(record)
                    await append(fs, handle, record)
        for fs, handle in handles:
            await fs.fsync(handle)
        whole = await content(a, handle.inode.id)
        assert len(whole) == sum(map(len, records))
        assert [whole.count(record) for record in records] == [1] * len(records)
        assert await content(b, handle.inode.id) == whole


async def test_bytes_written_by_position_behind_appended_ones_stay_where_they_are() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        await append(a, mine, b"one")
        placed = await a.open(mine.inode.id)
        await a.write(placed, 1000, b"placed")
        await a.write(mine, 1006, b"two")
        theirs = await opened(b)
        await append(b, theirs, b"theirs")
        await b.fsync(theirs)
        await a.fsync(mine)
        whole = await content(b, mine.inode.id)
        assert (whole[:9], whole[1000:]) == (b"theirsone", b"placedtwo")


async def test_a_record_stays_in_one_piece_when_a_write_by_position_fills_its_first_mib() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0))
        await a.write(mine, 100, b"-" * (CHUNK_BYTES - 200))
        tail = await opened(a)
        record = b"<" + b"r" * 1000 + b">"
        await append(a, tail, record)
        await a.write(mine, 0, b"-" * 100)  # the first MiB is full now
        await wait_all_tasks_blocked(0.01)
        theirs = await opened(b)
        await append(b, theirs, b"theirs")
        await b.fsync(theirs)
        await a.fsync(mine)
        assert record in await content(b, mine.inode.id)


async def test_a_record_moves_without_being_stored_again() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        theirs = await opened(b)
        puts = 0
        put = store.put

        async def counted(volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer]) -> list[Receipt]:
            nonlocal puts
            receipts = await put(volume, chunk, parts)
            if sum(map(len, parts)) > CHUNK_BYTES // 2:  # the record, not what it lies on
                puts += 1
                for _ in range(5):  # the file grows elsewhere while this is stored
                    await append(b, theirs, b"theirs")
                    await b.fsync(theirs)
            return receipts

        store.put = counted  # type: ignore[method-assign,assignment]
        await append(a, mine, b"m" * (CHUNK_BYTES // 2))
        await a.fsync(mine)
        store.put = put  # type: ignore[method-assign]
        assert await content(a, mine.inode.id) == b"theirs" * 5 + b"m" * (CHUNK_BYTES // 2)
        assert puts == 1


@pytest.mark.parametrize("size", [100, 40 * KIB])
@pytest.mark.parametrize("done", [True, False])
async def test_a_record_is_there_once_although_no_answer_to_its_commit_came(size: int, done: bool) -> None:
    shared, store = volume(), MemoryStore()
    namespace = Doubtful(shared, shared.session().number, read_only=False)
    async with filesystem(namespace, store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        theirs = await opened(b)
        namespace.lose = done
        await append(a, mine, b"m" * size)
        with pytest.raises(CoordinatorAway):
            await a.fsync(mine)
        await append(b, theirs, b"theirs")
        await b.fsync(theirs)
        namespace.lose = None
        await a.fsync(mine)
        whole = await content(b, mine.inode.id)
        assert whole == (b"m" * size + b"theirs" if done else b"theirs" + b"m" * size)
        assert namespace.open_doubts == 0


class Doubtful(MemoryNamespace):
    """Commits get no answer while `lose` is True (they are done) or False (they are not)."""

    lose: bool | None = None
    open_doubts = 0

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if self.lose is None or not any(isinstance(operation, Commit) for operation in operations):
            return await super().apply(operations)
        answer = await super().apply(operations) if self.lose else None
        self.open_doubts += 1

        async def again() -> Applied:
            if self.lose is not None:
                raise CoordinatorAway("still away")
            self.open_doubts -= 1
            return answer or await super(Doubtful, self).apply(operations)

        def give_up() -> None:
            self.open_doubts -= 1

        raise InDoubt("away", again, give_up)


async def test_an_append_is_never_taken_for_a_page_while_the_kernel_may_not_know_the_size_yet() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        await a.write(mine, 0, b"a" * 4096)
        await a.fsync(mine)
        theirs = await opened(b)
        await append(b, theirs, b"B" * 4096)
        await b.fsync(theirs)
        await a.stat(mine.inode.id)  # the answer to another program: the kernel may drop it
        await a.write(mine, 4096, b"c" * 4096)
        await a.fsync(mine)
        assert await content(b, mine.inode.id) == b"a" * 4096 + b"B" * 4096 + b"c" * 4096


async def test_pages_of_a_mapping_are_none_after_the_size_was_set_or_only_told() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        await a.stat(mine.inode.id)
        await a.attributes.set(mine.inode.id, size=30_000)
        await a.stat(mine.inode.id)
        await a.write(mine, 16_384, b"p" * 4096)
        await a.fsync(mine)
        theirs = await opened(b)
        theirs.inode.stat()
        await b.write(theirs, 4096, b"q" * 4096)
        await b.fsync(theirs)
        whole = await content(b, theirs.inode.id)
        assert (whole[4096:8192], whole[16_384:20_480], len(whole)) == (b"q" * 4096, b"p" * 4096, 30_000)


async def test_a_record_stays_behind_bytes_written_by_position_when_the_file_is_cut_elsewhere() -> None:
    shared, store = volume(), MemoryStore()
    async with filesystem(shared.session(), store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0))
        await a.write(mine, 0, b"." * 2000)
        await a.fsync(mine)
        await a.write(mine, 0, b"0123456789")
        tail = await opened(a)
        tail.inode.stat()
        await append(a, tail, b"tail")
        await b.attributes.set(mine.inode.id, size=0)
        await a.fsync(mine)
        assert await content(b, mine.inode.id) == b"0123456789tail"


def test_what_the_kernel_was_told_while_it_wrote_is_never_taken_for_certain() -> None:
    size = KernelSize()
    size.wrote(4096, 0.0, is_end=True)
    size.tell(8192, 0.1)  # overtaken by the write: the kernel passes over it
    assert not size.is_page(4096, 4096, 60.0)
    size.tell(8192, 70.0)
    assert not size.is_page(4096, 4096, 71.0)
    assert size.is_page(4096, 4096, 80.0)
    for number in range(40):
        size.tell(100_000 + number, 90.0)
    assert not size.is_page(8192, 4096, 91.0)


async def test_a_doubt_is_resolved_although_nothing_can_be_stored() -> None:
    shared, store = volume(), MemoryStore()
    namespace = Doubtful(shared, shared.session().number, read_only=False)
    async with filesystem(namespace, store) as a, filesystem(shared.session(), store) as b:
        mine = await a.create(ROOT_INODE, b"log", 0o644, Owner(0, 0), append=True)
        namespace.lose = False
        await append(a, mine, b"m" * 100)
        with pytest.raises(CoordinatorAway):
            await a.fsync(mine)
        theirs = await b.open(mine.inode.id)
        await b.write(theirs, 0, b"t" * 40 * KIB)
        await b.fsync(theirs)
        await a.stat(mine.inode.id)

        async def refuse(*_: object, **__: object) -> list[Receipt]:
            raise Unavailable("no peer")

        put, store.put = store.put, refuse  # type: ignore[method-assign,assignment]
        namespace.lose = None
        with pytest.raises(Unavailable):
            await a.fsync(mine)
        assert namespace.open_doubts == 0
        store.put = put  # type: ignore[method-assign]
        await a.fsync(mine)
        assert await content(b, mine.inode.id) == b"t" * 40 * KIB + b"m" * 100
