"""What a directory store has given up: its trash and its quarantine, also at odd moments, and the books of it."""

from pathlib import Path

import pytest
import trio
from bits import flipped
from directories import StuckDisk, file_of, opened
from plugins.checklogs import Claims
from sealed import VOLUME, sealed

from p2pfs.chunks.disk import Disk
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.ledger import Ledger, Trashed
from p2pfs.errors import Corrupt, NoSpace, Unavailable
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import GIB

pytestmark = pytest.mark.l0

DAY_S = 86400


async def test_the_trash_is_emptied_after_its_time_and_not_before(tmp_path: Path) -> None:
    clock = FakeClock()
    store, chunk = await opened(tmp_path, clock=clock), sealed(1, 1000)
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
    await store.delete(VOLUME, chunk.id, receipt.put_seq)
    clock.advance(7 * DAY_S - 10)
    assert await store.empty_trash() == 0
    assert store.usage().trash == chunk.size + HEADER_BYTES
    clock.advance(20)
    assert await (await opened(tmp_path, clock=clock)).empty_trash() == 1
    assert not list((tmp_path / "trash").iterdir())


def test_trash_makes_room_oldest_first_but_only_so_much_a_day() -> None:
    ledger = Ledger(1000, 0, 0.25)
    for at in range(8):
        ledger.found(100)
        ledger.trashed(Trashed(at, f"{at}", 100))
    granted, victims = ledger.claim(300, GIB, 0)
    assert (granted, [entry.name for entry in victims]) == (True, ["0"])
    ledger.stored(300, None)
    granted, victims = ledger.claim(100, GIB, 10)
    assert (granted, [entry.name for entry in victims]) == (True, ["1"])
    ledger.abandoned(100)
    granted, victims = ledger.claim(200, GIB, 20)
    assert (granted, victims) == (False, [])
    assert ledger.usage(20).purge_bound
    assert not ledger.usage(DAY_S).purge_bound
    granted, victims = ledger.claim(200, GIB, DAY_S)
    assert (granted, [entry.name for entry in victims]) == (True, ["2"])


def test_room_for_writes_under_way_is_not_promised_twice() -> None:
    ledger = Ledger(250, 0, 0)
    assert ledger.claim(100, GIB, 0)[0]
    assert ledger.claim(100, GIB, 0)[0]
    assert not ledger.claim(100, GIB, 0)[0]
    ledger.abandoned(100)
    assert ledger.claim(100, GIB, 0)[0]
    ledger.stored(100, None)
    ledger.stored(100, 100)
    assert (ledger.usage(0).used, ledger.usage(0).chunks) == (100, 1)


async def test_the_limit_can_be_lowered_below_what_is_there(tmp_path: Path) -> None:
    store, chunk, other = await opened(tmp_path), sealed(1, 1000), sealed(2, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    store.limit(100)
    with pytest.raises(NoSpace):
        await store.put(VOLUME, other.id, [other.data])
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data


async def test_damage_not_yet_told_is_told_after_a_restart(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("moved to quarantine", count=2)
    store, lost, renewed = await opened(tmp_path), sealed(1, 1000), sealed(2, 1000)
    for chunk in (lost, renewed):
        await store.put(VOLUME, chunk.id, [chunk.data])
        file_of(tmp_path).write_bytes(b"")
        with pytest.raises(Corrupt):
            await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    await store.put(VOLUME, renewed.id, [renewed.data])
    again = await opened(tmp_path)
    assert again.damaged() == [(VOLUME, lost.id)]
    await again.put(VOLUME, lost.id, [lost.data])
    assert again.damaged() == []


async def test_what_is_in_quarantine_counts_nowhere_and_is_bounded_at_a_start_too(tmp_path: Path) -> None:
    await opened(tmp_path)
    for number in range(70):
        (tmp_path / "quarantine" / f"{VOLUME:016x}-{number:064x}").write_bytes(b"damaged")
    (tmp_path / "quarantine" / "something else").write_bytes(b"")
    store = await opened(tmp_path)
    assert len(list((tmp_path / "quarantine").iterdir())) == 64
    usage = store.usage()
    assert (usage.used, usage.trash, usage.chunks) == (0, 0, 0)


async def test_a_quarantine_emptied_by_others_at_the_same_time_is_no_failure(
    tmp_path: Path, claim_logs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path), sealed(1, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    path = file_of(tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 8 * HEADER_BYTES))
    scandir = os.scandir

    def racing(path: Path) -> list[os.DirEntry[str]]:
        entries = list(scandir(path))
        for entry in entries:
            if "quarantine" in entry.path:
                os.unlink(entry.path)
        return entries

    monkeypatch.setattr(os, "scandir", racing)
    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)


async def test_a_delete_waits_for_a_put_under_way_and_is_then_void(tmp_path: Path) -> None:
    disk = StuckDisk()
    store, chunk = await opened(tmp_path, disk), sealed(1, 1000)
    (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
    disk.is_stuck = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, VOLUME, chunk.id, [chunk.data])
        await trio.to_thread.run_sync(disk.stuck.wait, 5)
        nursery.start_soon(store.delete, VOLUME, chunk.id, receipt.put_seq)
        await trio.testing.wait_all_tasks_blocked(0.05)
        disk.let_go.set()
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
    assert store.usage().trash == 0


async def test_a_chunk_in_the_trash_is_put_again_as_any_other(tmp_path: Path) -> None:
    clock = FakeClock()
    store, chunk = await opened(tmp_path, clock=clock), sealed(1, 1000)
    seqs = []
    for _ in range(3):  # within one second
        (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
        seqs.append(receipt.put_seq)
        await store.delete(VOLUME, chunk.id, receipt.put_seq)
    (newest,) = await store.put(VOLUME, chunk.id, [chunk.data])
    for seq in seqs:
        await store.delete(VOLUME, chunk.id, seq)
    assert await store.has(VOLUME, chunk.id)
    assert store.usage().trash == 3 * (chunk.size + HEADER_BYTES)
    assert await (await opened(tmp_path, clock=clock)).empty_trash(0) == 3
    assert await store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
    await store.delete(VOLUME, chunk.id, newest.put_seq)
    assert not await store.has(VOLUME, chunk.id)


async def test_a_delete_of_a_copy_that_does_not_say_which_put_it_is_of_is_reported_as_damage(
    tmp_path: Path, claim_logs: Claims
) -> None:
    """It may be of a newer PUT, whose receipt counts: then the coordinator must hear that the copy is gone."""
    claim_logs("moved to quarantine", count=1)
    store, chunk = await opened(tmp_path), sealed(1, 1000)
    (first,) = await store.put(VOLUME, chunk.id, [chunk.data])
    await store.put(VOLUME, chunk.id, [chunk.data])
    path = file_of(tmp_path)
    path.write_bytes(flipped(path.read_bytes(), 8 * 30))
    await store.delete(VOLUME, chunk.id, first.put_seq)
    assert store.damaged() == [(VOLUME, chunk.id)]
    assert (store.usage().used, store.usage().trash, store.usage().chunks) == (0, 0, 0)


async def test_the_trash_can_be_emptied_at_once_and_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.chunks.directory._REMOVED", 4)
    store = await opened(tmp_path, clock=FakeClock())
    for seed in range(10):
        chunk = sealed(seed, 10)
        (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
        await store.delete(VOLUME, chunk.id, receipt.put_seq)
    assert await store.empty_trash(0) == 10
    assert store.usage().trash == 0
    assert not list((tmp_path / "trash").iterdir())


async def test_trash_that_cannot_be_removed_stays_in_the_books(tmp_path: Path) -> None:
    import errno

    class Stubborn(Disk):
        left = 1

        def remove(self, path: Path) -> None:
            if path.parent.name == "trash":
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.EROFS, "read-only")
            super().remove(path)

    disk = Stubborn()
    store = await opened(tmp_path, disk)
    for seed in range(3):
        chunk = sealed(seed, 10)
        (receipt,) = await store.put(VOLUME, chunk.id, [chunk.data])
        await store.delete(VOLUME, chunk.id, receipt.put_seq)
    with pytest.raises(Unavailable):
        await store.empty_trash(0)
    assert store.usage().trash == sum(path.stat().st_size for path in (tmp_path / "trash").iterdir())
    disk.left = 10
    assert await store.empty_trash(0) == 2


def test_a_clock_that_was_wrong_does_not_keep_the_trash_behind_it() -> None:
    ledger = Ledger(1000, 0, 1)
    for deleted_s in (9_999_999, 10, 20):
        ledger.found(100)
        ledger.trashed(Trashed(deleted_s, f"{deleted_s}", 100))
    assert [entry.name for entry in ledger.expired(15, 100)] == ["10"]
    assert [entry.name for entry in ledger.expired(1e9, 1)] == ["9999999"]
    assert ledger.usage(0).trash == 100
