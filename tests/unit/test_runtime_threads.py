"""Work in threads: what it returns and raises, how much of it at once, and who gives up waiting."""

import threading

import pytest
import trio

from p2pfs.errors import Unavailable
from p2pfs.runtime.threads import Threads

pytestmark = pytest.mark.l0


async def test_what_the_work_returns_or_raises_comes_back() -> None:
    threads = Threads(1)
    assert await threads.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    assert await threads.run(lambda: "again") == "again"


async def test_no_more_than_the_limit_run_at_once() -> None:
    threads, let_go, begun = Threads(2), threading.Event(), threading.Semaphore(0)
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        begun.release()
        let_go.wait(5)
        with lock:
            now -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(threads.run, work)
        for _ in range(2):
            assert await trio.to_thread.run_sync(begun.acquire, True, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert now == 2
        let_go.set()
    assert most == 2


async def test_who_gives_up_leaves_the_thread_running_and_its_place_taken() -> None:
    threads, let_go, ended = Threads(1), threading.Event(), threading.Event()

    def work() -> None:
        let_go.wait(5)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, work)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not ended.is_set()
    with trio.move_on_after(0):
        await threads.run(lambda: pytest.fail("there is no place for this"))
    let_go.set()
    with trio.fail_after(5):
        await threads.run(lambda: None)
    assert ended.is_set()


async def test_a_thread_that_cannot_start_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(1)
    with monkeypatch.context() as patched:
        patched.setattr(trio.lowlevel, "start_thread_soon", refuse)
        for _ in range(2):
            with trio.fail_after(5), pytest.raises(Unavailable):
                await threads.run(lambda: None)
    with trio.fail_after(5):
        assert await threads.run(lambda: 1) == 1


def test_a_thread_that_outlives_the_event_loop_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    let_go, ended = threading.Event(), threading.Event()

    def work() -> None:
        let_go.wait(5)
        threading.Timer(0, ended.set).start()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await Threads(1).run(work)

    trio.run(main)
    let_go.set()
    assert ended.wait(5)
    assert capfd.readouterr().err == ""
