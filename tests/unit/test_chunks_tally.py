"""How much a store holds: believed at the start, counted anew beside PUTs and deletes."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from sealed import VOLUME, sealed

from p2pfs.chunks import tally as tally_module
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.receipts import sign_for
from p2pfs.chunks.tally import Figures, Tally
from p2pfs.types import GIB, PeerNumber

pytestmark = pytest.mark.l0


async def opened(root: Path, disk: Disk | None = None) -> DirectoryStore:
    return await DirectoryStore.open(root, sign=sign_for(PeerNumber(1)), capacity=GIB, disk=disk)


async def filled(store: DirectoryStore, *numbers: int) -> int:
    """Bytes of so many chunks that were put."""
    chunks = [sealed(number, 1000 + number) for number in numbers]
    for chunk in chunks:
        await store.put(VOLUME, chunk.id, [chunk.data])
    return sum(HEADER_BYTES + chunk.size for chunk in chunks)


def figures(store: DirectoryStore) -> tuple[int, int]:
    return store.usage().chunks, store.usage().used


async def test_a_start_believes_what_was_kept_and_looks_at_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path)
    used = await filled(store, *range(5))
    await store.keep_tally()
    with monkeypatch.context() as patched:
        patched.setattr(tally_module, "_counted", lambda directory: pytest.fail("it looked"))
        assert figures(await opened(tmp_path)) == (5, used)


async def test_what_a_crash_left_uncounted_is_counted_while_it_serves(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    used = await filled(store, 1, 2)
    await store.keep_tally()
    more = await filled(store, 3, 4)
    await store.delete(VOLUME, sealed(1, 1001).id, 1 << 62)
    gone = HEADER_BYTES + sealed(1, 1001).size
    store = await opened(tmp_path)
    assert figures(store) == (2, used)
    more += await filled(store, 5)
    await store.recount()
    assert figures(store) == (4, used + more - gone)
    await store.keep_tally()
    assert figures(await opened(tmp_path)) == (4, used + more - gone)


async def test_less_than_nothing_is_never_told(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.keep_tally()
    await filled(store, 1, 2)
    store = await opened(tmp_path)
    await store.delete(VOLUME, sealed(1, 1001).id, 1 << 62)
    assert figures(store) == (0, 0)
    await store.recount()
    assert figures(store) == (1, HEADER_BYTES + sealed(2, 1002).size)


@pytest.mark.parametrize("damage", [b"", b"[[7,0,[1", b"{}", b'[["x",0,[1,2]]]'], ids=repr)
async def test_a_file_that_cannot_be_read_is_no_reason_not_to_count(tmp_path: Path, damage: bytes) -> None:
    store = await opened(tmp_path)
    used = await filled(store, 1, 2)
    (tmp_path / "tally").write_bytes(damage)
    assert figures(await opened(tmp_path)) == (2, used)


async def test_without_a_claim_nothing_is_believed(tmp_path: Path) -> None:
    """The disk is perhaps another one, or as old as a backup."""
    store = await opened(tmp_path)
    await store.keep_tally()
    used = await filled(store, 1)
    (tmp_path / "put_seq").unlink()
    assert figures(await opened(tmp_path)) == (1, used)


async def test_a_volume_that_is_gone_is_found_to_be(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await filled(store, 1)
    await store.keep_tally()
    shutil.rmtree(tmp_path / f"{VOLUME:016x}")
    store = await opened(tmp_path)
    await store.recount()
    assert figures(store) == (0, 0)


def test_a_count_that_a_change_fell_into_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally, place, count = Tally(tmp_path), (VOLUME, 3), tally_module._counted

    def within(change: Callable[[], None]) -> Figures | None:
        """A count during which this happens."""

        def counted(directory: Path) -> Figures:
            found = count(directory)
            change()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(tally_module, "_counted", counted)
            return tally.count(place)

    def put() -> None:
        with tally.changing(place) as change:
            change.files, change.bytes = 1, 10

    assert within(put) is None
    assert tally.total() == Figures(1, 10)
    with tally.changing(place):
        assert tally.count(place) is None  # begun, and not in the figures yet
    assert tally.count(place) == Figures(-1, -10)  # nothing is there in truth
    assert tally.total() == Figures(0, 0)
    with tally.changing((VOLUME, 4)):
        assert tally.count(place) == Figures(0, 0)  # another directory is not in the way


async def test_counting_beside_puts_ends_right(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    used = await filled(store, *range(40))
    (tmp_path / "tally").write_bytes(b"[]")
    store = await opened(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.recount)
        for number in range(40, 80):
            used += await filled(store, number)
    await store.recount()
    assert figures(store) == (80, used)


class StuckDisk(Disk):
    """Renames wait until they are let go."""

    def __init__(self) -> None:
        self.renaming, self.go = threading.Event(), threading.Event()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        if target.parent.name not in (source.parent.name, "trash"):  # a chunk
            self.renaming.set()
            assert self.go.wait(10)


async def test_a_put_that_is_half_done_is_not_counted_twice(tmp_path: Path) -> None:
    disk = StuckDisk()
    store = await opened(tmp_path, disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(filled, store, 1)
        await trio.to_thread.run_sync(disk.renaming.wait)
        await store.recount()
        disk.go.set()
    assert figures(store) == (1, HEADER_BYTES + sealed(1, 1001).size)
