"""The directory store beyond the conformance suite: damage, slow disks, restarts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from bits import flipped
from directories import StuckDisk, file_of, opened
from plugins.checklogs import Claims
from sealed import OTHER_VOLUME, VOLUME, sealed

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.header import HEADER_BYTES, Header, pack, unpack
from p2pfs.chunks.protocol import Blocks
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.errors import Corrupt, NoSpace, NotFound, Unavailable
from p2pfs.format.chunk import block_hashes
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import KIB, MIB, Buffer, PeerNumber, PoolId

pytestmark = pytest.mark.l0

DAY_S = 86400
BLOCK = 64 * KIB + 16


# ---- what is on the disk --------------------------------------------------------------------------------------------


async def test_a_chunk_is_a_header_page_and_its_sealed_bytes(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
    data = (tmp_path / f"{VOLUME:016x}" / chunk.id.hex()[:2] / chunk.id.hex()[2:]).read_bytes()
    assert data[HEADER_BYTES:] == chunk.data
    expected = Header(VOLUME, chunk.id, chunk.size, receipt.put_seq, tuple(block_hashes(chunk.data)))
    assert unpack(data[:HEADER_BYTES]) == expected


def test_every_bit_of_a_header_is_checked() -> None:
    chunk = sealed(1, 70_000)
    page = bytearray(HEADER_BYTES)
    pack(Header(VOLUME, chunk.id, chunk.size, 7, tuple(block_hashes(chunk.data))), memoryview(page))
    unpack(page)
    for bit in range(0, 8 * HEADER_BYTES, 3):
        with pytest.raises(Corrupt):
            unpack(flipped(bytes(page), bit))


def test_a_header_of_another_chunk_is_refused_even_with_a_right_sum() -> None:
    chunk, other = sealed(1, 70_000), sealed(2, 70_000)
    page = bytearray(HEADER_BYTES)
    pack(Header(VOLUME, chunk.id, chunk.size, 7, tuple(block_hashes(other.data))), memoryview(page))
    with pytest.raises(Corrupt):
        unpack(page)


@pytest.mark.parametrize("at", [0, 100, HEADER_BYTES, HEADER_BYTES + 69_999], ids=str)
async def test_a_damaged_file_is_quarantined_reported_and_replaced_by_a_put(
    at: int, tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    path = file_of(tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 8 * at))
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    assert not await store.has(VOLUME, chunk.id)
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert (store.usage().used, store.usage().chunks) == (0, 0)
    assert store.damaged() == [(VOLUME, chunk.id)]
    store.acknowledge(store.damaged())
    assert store.damaged() == []
    await store.put(VOLUME, chunk.id, [chunk.data])
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:HEADER_BYTES], lambda data: data[:100], lambda _: b""],
    ids=["a byte", "the body", "most of the header", "everything"],
)
async def test_a_file_cut_short_is_damage(damage: Callable[[bytes], bytes], tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    path = file_of(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    assert not path.exists()


async def test_a_chunk_under_another_name_is_damage(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=2)
    store, chunk, other = await opened(tmp_path), sealed(1, 1000), sealed(2, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    data = file_of(tmp_path).read_bytes()
    for volume, name in ((OTHER_VOLUME, chunk.id), (VOLUME, other.id)):
        await store.put(volume, name, [chunk.data if name == chunk.id else other.data])
        (tmp_path / f"{volume:016x}" / name.hex()[:2] / name.hex()[2:]).write_bytes(data)
        with pytest.raises(Corrupt):
            await store.get(volume, name, chunk.size, chunk.whole)


async def test_a_chunk_put_again_is_no_longer_reported_as_damaged(tmp_path: Path, claim_logs: Claims) -> None:
    """The coordinator would take the new copy for the damaged one."""
    claim_logs("moved to quarantine", count=2)
    store, chunk, other = await opened(tmp_path), sealed(1, 1000), sealed(2, 1000)
    for each in (chunk, other):
        await store.put(VOLUME, each.id, [each.data])
        file_of(tmp_path).write_bytes(b"")
        with pytest.raises(Corrupt):
            await store.get(VOLUME, each.id, each.size, each.whole)
    await store.put(VOLUME, chunk.id, [chunk.data])
    assert store.damaged() == [(VOLUME, other.id)]


async def test_the_quarantine_stays_small(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=70)
    store = await opened(tmp_path)
    for seed in range(70):
        chunk = sealed(seed, 100)
        await store.put(VOLUME, chunk.id, [chunk.data])
        file_of(tmp_path).write_bytes(b"")
        with pytest.raises(Corrupt):
            await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    assert len(list((tmp_path / "quarantine").iterdir())) == 64
    assert len(store.damaged()) == 70


async def test_a_wrong_size_asked_for_is_not_held_against_the_copy(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size + 1, Blocks(0, 1))
    assert await store.has(VOLUME, chunk.id)
    assert store.damaged() == []


async def test_a_restarted_store_knows_what_it_has(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    chunks = [sealed(seed, 1000 * seed + 1) for seed in range(1, 20)]
    receipts = [(await store.put(VOLUME, chunk.id, [chunk.data]))[0] for chunk in chunks]
    await store.delete(VOLUME, chunks[0].id, receipts[0].put_seq)
    (tmp_path / "temp" / "17").write_bytes(b"left by a crash")
    again = await opened(tmp_path)
    assert again.usage() == store.usage()
    assert not list((tmp_path / "temp").iterdir())
    (newer,) = await again.put(VOLUME, chunks[1].id, [chunks[1].data])
    assert newer.put_seq > max(receipt.put_seq for receipt in receipts)


async def test_files_are_made_where_others_delete_nothing(tmp_path: Path) -> None:
    """ext4 passes over freed inodes one by one, and looks for free ones near the directory: stores of one disk must not
    have theirs in one place, nor near whatever else is made and deleted there."""

    class Watched(Disk):
        def __init__(self) -> None:
            self.spread_out: list[Path] = []
            self.made: list[str] = []

        def spread(self, directory: Path) -> None:
            self.spread_out.append(directory)
            super().spread(directory)

        def make_directory(self, path: Path) -> None:
            if path.name.startswith("temp"):
                assert path.parent in self.spread_out
                self.made.append(path.name)
            super().make_directory(path)

    disks = [Watched(), Watched()]
    for number, disk in enumerate(disks):
        await opened(tmp_path / str(number), disk)
        assert (tmp_path / str(number) / "temp").is_dir()
    assert disks[0].made != disks[1].made, "ext4 places a directory by the hash of its name"


async def test_a_temporary_directory_left_half_made_is_removed(tmp_path: Path) -> None:
    await opened(tmp_path)
    (tmp_path / "temp.0123456789abcdef").mkdir()
    await opened(tmp_path)
    assert set(os.listdir(tmp_path)) == {"temp", "trash", "quarantine"}


# ---- receipts -------------------------------------------------------------------------------------------------------


def test_receipts_are_those_the_coordinator_checks() -> None:
    from p2pfs.coordinator import receipts
    from p2pfs.types import NodeId
    from p2pfs.wire.namespace import NewChunk

    pool, peer, chunk = PoolId("ab" * 16), PeerNumber(3), sealed(1, 1000)
    key = receipts.receipt_key(bytes(32), peer, NodeId("cd" * 16))
    receipt = ReceiptKey(pool, peer, key).sign(VOLUME, chunk.id, chunk.size, 9)
    checker = receipts.ReceiptChecker(pool, {peer: key})
    checker.verify(VOLUME, NewChunk(chunk.id, chunk.size, [receipt]))
    assert key.hex() not in repr(ReceiptKey(pool, peer, key))


# ---- slow and stuck disks -------------------------------------------------------------------------------------------


async def test_a_stuck_disk_is_unavailable_and_its_buffer_is_not_used_again(tmp_path: Path) -> None:
    disk = StuckDisk()
    store, chunk, other = await opened(tmp_path, disk, buffers=1), sealed(1), sealed(2)
    await store.put(VOLUME, other.id, [other.data])
    disk.is_stuck = True
    async with store.lend() as buffer:
        pass
    patience_s, store._disk_timeout_s = store._disk_timeout_s, 0.05
    with pytest.raises(Unavailable):
        await store.put(VOLUME, chunk.id, [chunk.data])
    store._disk_timeout_s = patience_s
    assert buffer.forfeited
    assert await store.get(VOLUME, other.id, other.size, other.whole) == other.data  # reads do not wait for it
    async with store.lend() as fresh:
        assert fresh is not buffer
    disk.let_go.set()
    disk.is_stuck = False
    with trio.fail_after(5):
        while not await store.has(VOLUME, chunk.id):
            await trio.lowlevel.checkpoint()
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
    assert await (await opened(tmp_path)).get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data


class SlowToRead(Disk):
    """Once told so, it takes reads of the page cache only."""

    def __init__(self) -> None:
        self.is_stuck = False
        self.direct: list[bool] = []

    def open(self, path: Path, *, direct: bool = False) -> int:
        self.direct.append(direct)
        assert not self.is_stuck
        return super().open(path, direct=direct)


async def test_blocks_read_before_come_from_the_page_cache_without_a_thread(tmp_path: Path) -> None:
    disk = SlowToRead()
    store, chunk, other = await opened(tmp_path, disk), sealed(1), sealed(2)
    for each in (chunk, other):
        await store.put(VOLUME, each.id, [each.data])
    few = Blocks(2, 3)
    start, stop = runs.span(chunk.size, few)
    assert await store.get(VOLUME, chunk.id, chunk.size, few) == chunk.data[start:stop]
    disk.is_stuck = True
    assert await store.get(VOLUME, chunk.id, chunk.size, few) == chunk.data[start:stop]
    with pytest.raises(Corrupt, match="not"):  # still only what was asked for
        await store.get(VOLUME, chunk.id, chunk.size - 1, Blocks(2, 1))
    with pytest.raises(AssertionError):
        await store.get(VOLUME, other.id, other.size, few)
    disk.is_stuck = False
    await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    assert disk.direct[-1] == store._files._direct, "a whole chunk goes past the page cache"


async def test_what_the_page_cache_has_is_verified_too(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path), sealed(1)
    await store.put(VOLUME, chunk.id, [chunk.data])
    await store.get(VOLUME, chunk.id, chunk.size, Blocks(1, 1))
    path = file_of(tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 8 * (HEADER_BYTES + 70_000)))
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, Blocks(1, 1))
    assert store.damaged() == [(VOLUME, chunk.id)]


async def test_a_chunk_that_was_removed_is_not_served_from_the_page_cache(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1)
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
    await store.get(VOLUME, chunk.id, chunk.size, Blocks(1, 1))
    await store.delete(VOLUME, chunk.id, receipt.put_seq)
    with pytest.raises(NotFound):
        await store.get(VOLUME, chunk.id, chunk.size, Blocks(1, 1))


async def test_a_delete_is_over_when_it_is_answered_however_long_the_disk_takes(tmp_path: Path) -> None:
    """Told that it failed, the coordinator would count on the copy again."""
    disk = StuckDisk()
    store, chunk, other = await opened(tmp_path, disk), sealed(1), sealed(2)
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
    disk.is_stuck = True
    patience_s, store._disk_timeout_s = store._disk_timeout_s, 0.05
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.delete, VOLUME, chunk.id, receipt.put_seq)
        await trio.to_thread.run_sync(disk.stuck.wait, 10)
        with pytest.raises(Unavailable):  # what keeps to the limit has given up by now
            await store.put(VOLUME, other.id, [other.data])
        disk.let_go.set()
    store._disk_timeout_s = patience_s
    assert not await store.has(VOLUME, chunk.id)


async def test_a_buffer_is_used_again_after_a_put_whether_it_succeeds_or_not(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path, capacity=100 * KIB), sealed(1, 1000)
    async with store.lend() as buffer:
        pass
    await store.put(VOLUME, chunk.id, [chunk.data])
    with pytest.raises(NoSpace):
        await store.put(VOLUME, sealed(2).id, [sealed(2).data])
    async with store.lend() as again:
        assert again is buffer


async def test_a_put_during_the_read_of_a_damaged_copy_is_kept(tmp_path: Path) -> None:
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    path = file_of(tmp_path)
    whole = path.read_bytes()

    class Racing(Disk):
        def open(self, path: Path, *, direct: bool = False) -> int:
            fd = super().open(path, direct=direct)
            fresh = path.with_name("fresh")
            fresh.write_bytes(whole)
            fresh.rename(path)
            return fd

    path.write_bytes(flipped(whole, 8 * 50_000))
    store._files._disk = Racing()
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    store._files._disk = Disk()
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
    assert store.damaged() == []


async def test_two_puts_of_one_chunk_leave_the_newer_number(tmp_path: Path) -> None:
    """However they interleave, a DELETE that means the older one is void."""
    store, chunk = await opened(tmp_path), sealed(1, 70_000)
    seqs: list[int] = []

    async def put() -> None:
        seqs.append((await store.put(VOLUME, chunk.id, [chunk.data]))[0].put_seq)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(put)
    assert unpack(file_of(tmp_path).read_bytes()[:HEADER_BYTES]).put_seq == max(seqs)
    await store.delete(VOLUME, chunk.id, sorted(seqs)[-2])
    assert await store.has(VOLUME, chunk.id)
    assert store.settled_seq() == max(seqs)


async def test_a_number_is_settled_only_when_its_put_is_in_the_books(tmp_path: Path) -> None:
    disk = StuckDisk()
    store, first, second = await opened(tmp_path, disk), sealed(1, 1000), sealed(2, 1000)
    (receipt,) = await store.put(VOLUME, first.id, [first.data])
    disk.is_stuck = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, VOLUME, second.id, [second.data])
        await trio.to_thread.run_sync(disk.stuck.wait, 5)
        assert store.settled_seq() == receipt.put_seq
        disk.let_go.set()
    assert store.settled_seq() == receipt.put_seq + 1
    assert store.usage().chunks == 2


async def test_buffers_bound_what_is_received_at_once(tmp_path: Path) -> None:
    store = await opened(tmp_path, buffers=2)
    async with store.lend() as one, store.lend() as two:
        assert one is not two
        assert len(one.body) == MIB + 16 * 16
        with trio.move_on_after(0.01) as scope:
            async with store.lend():
                pass
        assert scope.cancelled_caught
    async with store.lend() as again:
        assert again in (one, two)


async def test_short_writes_and_reads_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    write, preadv = os.write, os.preadv
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[: 60 * KIB]))
    monkeypatch.setattr(os, "preadv", lambda fd, views, *at: preadv(fd, [views[0][: 48 * KIB]], *at))
    store, chunk = await opened(tmp_path), sealed(1)
    await store.put(VOLUME, chunk.id, [chunk.data])
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data


async def test_an_unreadable_sector_is_damage(tmp_path: Path, claim_logs: Claims) -> None:
    import errno

    class BadSector(Disk):
        def read_into(self, fd: int, view: memoryview, offset: int, enough: int) -> int:
            if offset + enough > HEADER_BYTES:
                raise OSError(errno.EIO, "bad sector")
            return super().read_into(fd, view, offset, enough)

    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path, BadSector()), sealed(1, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    with pytest.raises(NotFound):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)


def test_disk_writes_are_whole(tmp_path: Path) -> None:
    disk, data = Disk(), bytes(range(256)) * 100
    fd = disk.create(tmp_path / "new")
    parts: list[Buffer] = [data[:1000], bytearray(data[1000:2000]), memoryview(data)[2000:]]
    for part in parts:
        disk.write(fd, part)
    disk.close(fd)
    assert (tmp_path / "new").read_bytes() == data
    with pytest.raises(FileExistsError):
        disk.create(tmp_path / "new")


# ---- the disk is emptied under it -----------------------------------------------------------------------------------


async def test_receipts_after_the_store_was_deleted_are_newer_than_all_before(tmp_path: Path) -> None:
    clock, chunk = FakeClock(), sealed(1, 70_000)
    seqs = []
    for _ in range(3):
        store = await opened(tmp_path / "chunks", clock=clock)
        seqs.append((await store.put(VOLUME, chunk.id, [chunk.data]))[0].put_seq)
        shutil.rmtree(tmp_path / "chunks")
        clock.advance(1)
    assert seqs == sorted(set(seqs))
    assert max(seqs) < 1 << 63


async def test_receipts_after_an_older_disk_came_back_are_newer_than_all_before(tmp_path: Path) -> None:
    """As from a backup, or another peer's: its claim knows nothing of what was given since."""
    clock, chunk = FakeClock(), sealed(1, 70_000)
    await (await opened(tmp_path / "chunks", clock=clock)).put(VOLUME, chunk.id, [chunk.data])
    shutil.copytree(tmp_path / "chunks", tmp_path / "older")
    clock.advance(1)
    store = await opened(tmp_path / "chunks", clock=clock)
    given = [(await store.put(VOLUME, chunk.id, [chunk.data]))[0].put_seq for _ in range(3)]
    clock.advance(1)
    (receipt,) = await (await opened(tmp_path / "older", clock=clock)).put(VOLUME, chunk.id, [chunk.data])
    assert receipt.put_seq > max(given)


async def test_a_lost_claim_never_goes_below_the_chunks_that_are_there(tmp_path: Path) -> None:
    clock, chunks = FakeClock(), [sealed(number, 70_000) for number in (1, 2)]
    (first,) = await (await opened(tmp_path, clock=clock)).put(VOLUME, chunks[0].id, [chunks[0].data])
    (tmp_path / "put_seq").unlink()
    clock.set_time(0.0)  # and the clock is wrong
    (second,) = await (await opened(tmp_path, clock=clock)).put(VOLUME, chunks[1].id, [chunks[1].data])
    assert second.put_seq > first.put_seq


@pytest.mark.parametrize("what", [".", "temp", f"{VOLUME:016x}"])
async def test_a_store_that_is_emptied_while_it_runs_goes_on(what: str, tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("are gone: made anew", count=1)
    root = tmp_path / "chunks"
    store, chunks = await opened(root), [sealed(number, 70_000) for number in (1, 2)]
    (first,) = await store.put(VOLUME, chunks[0].id, [chunks[0].data])
    shutil.rmtree(root / what)
    with pytest.raises(Unavailable, match="No such file"):
        await store.put(VOLUME, chunks[1].id, [chunks[1].data])
    (second,) = await store.put(VOLUME, chunks[1].id, [chunks[1].data])
    assert second.put_seq > first.put_seq
    assert bytes(await store.get(VOLUME, chunks[1].id, chunks[1].size, runs.whole(chunks[1].size))) == chunks[1].data


async def test_what_a_store_that_is_gone_holds_cannot_be_told(tmp_path: Path) -> None:
    store = await opened(tmp_path / "chunks")
    shutil.rmtree(tmp_path / "chunks")
    with pytest.raises(Unavailable, match="listing"):
        await store.digests()
    with pytest.raises(Unavailable, match="listing"):
        await store.listed(0)


async def test_where_an_open_may_wait_the_event_loop_opens_nothing(tmp_path: Path) -> None:
    class Network(Disk):
        def opens_in_memory(self, path: Path) -> bool:
            return False

        def open_cached(self, path: str) -> int | None:
            raise AssertionError("a server may be asked")

    store, chunk = await opened(tmp_path, Network()), sealed(1)
    await store.put(VOLUME, chunk.id, [chunk.data])
    for _ in range(2):
        assert await store.get(VOLUME, chunk.id, chunk.size, Blocks(3, 1)) == chunk.data[3 * BLOCK : 4 * BLOCK]


async def test_the_second_read_of_a_few_blocks_takes_no_thread(tmp_path: Path) -> None:
    class Watched(Disk):
        opens = 0

        def opens_in_memory(self, path: Path) -> bool:
            return True

        def open(self, path: Path, *, direct: bool = False) -> int:
            self.opens += 1
            return super().open(path, direct=direct)

    disk = Watched()
    store, chunk = await opened(tmp_path, disk), sealed(1)
    if not store._files._cached:
        pytest.skip("this system cannot tell what is cached")
    await store.put(VOLUME, chunk.id, [chunk.data])
    disk.opens = 0
    for _ in range(3):
        assert await store.get(VOLUME, chunk.id, chunk.size, Blocks(3, 1)) == chunk.data[3 * BLOCK : 4 * BLOCK]
    assert disk.opens == 1


async def test_where_nothing_is_cached_few_reads_look_for_it(tmp_path: Path) -> None:
    class Cold(Disk):
        looks = 0

        def opens_in_memory(self, path: Path) -> bool:
            return True

        def open_cached(self, path: str) -> int | None:
            self.looks += 1
            return super().open_cached(path) if path.endswith(".tmp") else None

    disk = Cold()
    store, chunk = await opened(tmp_path, disk), sealed(1)
    if not store._files._cached:
        pytest.skip("this system cannot tell what is cached")
    await store.put(VOLUME, chunk.id, [chunk.data])
    disk.looks = 0
    for _ in range(24):
        assert await store.get(VOLUME, chunk.id, chunk.size, Blocks(3, 1)) == chunk.data[3 * BLOCK : 4 * BLOCK]
    assert disk.looks == 10
