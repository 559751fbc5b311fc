"""Memory kept to be used again: at most so much, and no longer than it is needed."""

import weakref

import pytest
import trio
from trio.testing import MockClock

from p2pfs.chunks.pages import LARGE_BYTES, PAGE, PagePool
from p2pfs.chunks.spares import LOOK_EVERY, Spares
from p2pfs.errors import Unavailable
from p2pfs.runtime import memory

pytestmark = pytest.mark.l0


def test_the_last_one_put_is_taken_first_and_no_more_than_so_many_are_kept() -> None:
    spares = Spares[str](2)
    assert spares.take() is None
    for thing in ("one", "two", "three"):
        spares.put(thing)
    assert len(spares) == 2
    assert [spares.take(), spares.take(), spares.take()] == ["two", "one", None]


def busy(spares: Spares[object], at_once: int, times: int) -> None:
    for _ in range(times):
        for thing in [spares.take() or object() for _ in range(at_once)]:
            spares.put(thing)


def test_what_only_the_busiest_moment_needed_goes_again() -> None:
    spares = Spares[object](16)
    busy(spares, 16, 1)
    assert len(spares) == 16
    busy(spares, 3, 2 * LOOK_EVERY)
    assert len(spares) == 3


def test_what_is_needed_now_and_then_within_a_look_stays() -> None:
    spares = Spares[object](16)
    busy(spares, 5, 1)
    kept = {id(thing) for thing in spares._things}
    for _ in range(20):
        busy(spares, 1, 20)
        busy(spares, 5, 1)
    assert {id(thing) for thing in spares._things} == kept


async def test_what_nobody_takes_any_more_goes_too_and_the_heap_with_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []

    class Library:
        malloc_trim = trims.append

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: Library)
    spares = Spares[object](16)
    busy(spares, 16, 1)
    async with memory.thrifty():
        await trio.sleep(2.5 * memory.EVERY_S)
        assert len(spares) == 0
        assert trims == [0, 0]


@pytest.mark.usefixtures("uncollected")
def test_what_only_garbage_keeps_goes_too() -> None:
    """Found: mounts at rest kept 3 to 12 MiB of chunks that requests had failed for, until there was load again."""
    memory_of_chunk = PagePool().lend(LARGE_BYTES - 3 * PAGE)
    lent = weakref.ref(memory_of_chunk.obj)

    def fail(chunk: memoryview) -> Unavailable:
        try:
            raise Unavailable(f"{len(chunk)} bytes did not come")
        except Unavailable as error:
            kept = error  # with its traceback, which has this frame, which has it
            return kept

    fail(memory_of_chunk)
    del memory_of_chunk
    memory.give_back(None)
    assert lent() is not None
    spares = Spares[object](16)
    busy(spares, 16, 1)
    memory.give_back(None, comes_to_rest=True)
    assert lent() is None
    assert len(spares) == 0


async def test_garbage_is_looked_for_once_when_a_process_comes_to_rest(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    used = iter([0.0, 9.0, 9.1, 9.2, 20.0, 20.1, 20.2])  # seconds of a processor, each half a minute
    monkeypatch.setattr(memory, "process_time", lambda: next(used))
    monkeypatch.setattr(memory.gc, "collect", lambda: looks.append(trio.current_time()))
    began_s = trio.current_time()
    async with memory.thrifty():
        await trio.sleep(6.5 * memory.EVERY_S)
    assert [round(at_s - began_s) for at_s in looks] == [2 * memory.EVERY_S, 5 * memory.EVERY_S]


async def test_where_malloc_cannot_trim_spares_go_all_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: object())
    spares = Spares[object](16)
    busy(spares, 16, 1)
    async with memory.thrifty():
        await trio.sleep(2.5 * memory.EVERY_S)
    assert len(spares) == 0
