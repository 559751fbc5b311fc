"""How tasks take turns at reading: with pyfuse3's loop written out (`read_on`), and a socket as the device."""

import contextlib
import inspect
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from p2pfs.runtime.inspection import lines
from p2pfs_mount.fuse_loop import AWAKE_NS, SHARED_NS, SPIN_NS, FuseLoop, poller
from p2pfs_mount.views import ViewOperations, ViewXattrOperations

pytestmark = pytest.mark.l1

MOST = 12


class Device:
    """Requests of one byte, which handlers answer. `FuseLoop` stands where pyfuse3 has trio."""

    def __init__(self, loop: FuseLoop, handle: Callable[[int], Awaitable[None]]) -> None:
        self.loop = loop
        self._handle = loop.turn.passing_on(handle)  # type: ignore[arg-type]  # a coroutine function
        self._kernel, self._ours = socket.socketpair()
        self._ours.setblocking(False)
        self.tasks = self.waiting = 0
        self.readers: list[tuple[int, trio.lowlevel.Task]] = []
        self.is_closed = False

    def ask(self, *requests: int) -> None:
        self._kernel.sendall(bytes(requests))

    def close(self) -> None:
        self._kernel.close()

    async def read_on(self, nursery: trio.Nursery, most_idle: int, most: int) -> None:
        """pyfuse3's _session_loop and _wait_fuse_readable."""
        self.tasks += 1
        while not self.is_closed and self.waiting <= most_idle:
            self.waiting += 1
            try:
                async with self.loop.Lock():
                    if self.is_closed:
                        break
                    await self.loop.wait_readable(self._ours.fileno())
            finally:
                self.waiting -= 1
            request = self._ours.recv(1)
            if not self.waiting and self.tasks < most:
                nursery.start_soon(self.read_on, nursery, most_idle, most, name="task")
            if not request:
                self.is_closed = True
                break
            self.readers.append((request[0], trio.lowlevel.current_task()))
            await self._handle(request[0])
        self.tasks -= 1

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async def main() -> None:
            async with self.loop.open_nursery() as nursery:
                nursery.start_soon(self.read_on, nursery, 2, MOST, name="task")

        with self._kernel, self._ours, trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(main)
                yield
                self.close()


class Clock:
    """`step_ns` pass with each look at it."""

    def __init__(self, step_ns: int = 0) -> None:
        self.now_ns, self.step_ns = 0, step_ns

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns


async def test_who_does_not_suspend_reads_the_next_one_too() -> None:
    answered = list[int]()

    async def handle(request: int) -> None:
        answered.append(request)

    device = Device(FuseLoop(), handle)
    async with device.served():
        device.ask(*range(50))
        while len(answered) < 50:
            await trio.lowlevel.checkpoint()
    assert answered == list(range(50))
    assert len({task for _, task in device.readers}) == 1


async def test_while_one_waits_others_are_answered_and_it_reads_again_later() -> None:
    answered, held = list[int](), trio.Event()

    async def handle(request: int) -> None:
        if request == 1:
            await held.wait()
            await trio.lowlevel.checkpoint()  # suspending again passes nothing on: the turn is another's
        answered.append(request)

    device = Device(FuseLoop(), handle)
    async with device.served():
        device.ask(1, 2, 3)
        while len(answered) < 2:
            await trio.lowlevel.checkpoint()
        held.set()
        while len(answered) < 3:
            await trio.lowlevel.checkpoint()
        device.ask(4)
        while len(answered) < 4:
            await trio.lowlevel.checkpoint()
    assert answered == [2, 3, 1, 4]


async def test_a_handlers_failure_and_result_are_its_own() -> None:
    turn = FuseLoop().turn

    async def fails(*, late: bool) -> int:
        if late:
            await trio.lowlevel.checkpoint()
        raise OSError("disk")

    async def succeeds(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number

    for late in (False, True):
        with pytest.raises(OSError, match="disk"):
            await turn.passing_on(lambda late=late: fails(late=late))()
    assert await turn.passing_on(succeeds)(7) == 7


async def test_all_that_may_wait_wait_and_the_next_that_is_done_reads() -> None:
    answered, held = list[int](), trio.Event()

    async def handle(request: int) -> None:
        if request < MOST:
            await held.wait()
        answered.append(request)

    device = Device(FuseLoop(), handle)
    async with device.served():
        device.ask(*range(MOST), 100)
        await trio.testing.wait_all_tasks_blocked()
        assert ([request for request, _ in device.readers], answered) == (list(range(MOST)), [])
        held.set()
        while len(answered) <= MOST:
            await trio.lowlevel.checkpoint()
    assert sorted(answered) == [*range(MOST), 100]


async def test_who_is_cancelled_while_it_waits_for_its_turn_does_not_get_it() -> None:
    turn, order = FuseLoop().turn, list[str]()

    async def take(name: str) -> None:
        async with turn:
            order.append(name)
        turn.pass_on()

    async with trio.open_nursery() as nursery, turn:
        nursery.cancel_scope.deadline = trio.current_time() + 20
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as given_up:
                nursery.start_soon(take, "stays")
                await trio.testing.wait_all_tasks_blocked()
                given_up.start_soon(take, "given up")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        turn.pass_on()
    assert order == ["stays"]


@pytest.mark.parametrize("seed", range(20))
async def test_every_request_is_answered_whoever_waits_for_what(seed: int) -> None:
    chance, answered, held = random.Random(seed), set[int](), list[trio.Event]()

    async def handle(request: int) -> None:
        for _ in range(chance.choice((0, 0, 0, 1, 3))):
            await trio.lowlevel.checkpoint()
        if chance.random() < 0.2 and len(held) < MOST - 1:
            event = trio.Event()
            held.append(event)
            await event.wait()
        answered.add(request)

    device = Device(FuseLoop(), handle)
    async with device.served():
        asked = 0
        for _ in range(40):
            count = chance.randint(1, 6)
            device.ask(*range(asked, asked + count))
            asked += count
            for _ in range(chance.randint(0, 8)):
                await trio.lowlevel.checkpoint()
            while held and chance.random() < 0.5:
                held.pop(chance.randrange(len(held))).set()
        while len(answered) < asked:
            while held:
                held.pop().set()
            await trio.lowlevel.checkpoint()


async def lets_others_run(loop: FuseLoop) -> bool:
    """Whether a task that kept its turn does so before it reads. Nothing ever comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs, trio.CancelScope() as scope:
        async with loop.turn, loop.turn:  # kept
            scope.cancel()
            await loop.wait_readable(ours.fileno())
    return scope.cancelled_caught


async def test_a_request_that_is_about_to_come_is_waited_for_awake() -> None:
    clock, looks, comes_at_ns = Clock(1000), 0, SPIN_NS // 2

    def is_ready(_: int) -> bool:
        nonlocal looks
        looks += 1
        return clock.now_ns >= comes_at_ns

    loop = FuseLoop(is_ready=is_ready, now_ns=clock)
    assert not await lets_others_run(loop)
    assert looks == 10
    comes_at_ns, found = 1 << 62, []
    for _ in range(64):
        looks, clock.now_ns = 0, 0
        assert await lets_others_run(loop)
        found.append(looks)
    assert found[:8] == [SPIN_NS // 1000] * 8
    assert found[8:] == ([1] * 7 + [SPIN_NS // 1000]) * 7  # in vain: seldom
    looks, clock.now_ns, comes_at_ns = 0, 0, 1
    assert not await lets_others_run(loop)
    assert looks == 1  # to see what is there already is always worth it


@pytest.mark.parametrize(("suspended", "limit_ns"), [(0, AWAKE_NS), (1, SHARED_NS)])
async def test_other_tasks_run_after_a_while_however_many_requests_there_are(suspended: int, limit_ns: int) -> None:
    clock = Clock()
    loop = FuseLoop(is_ready=lambda _: True, now_ns=clock)
    loop.turn.suspended = suspended
    clock.now_ns = limit_ns
    assert not await lets_others_run(loop)
    clock.now_ns += 1
    assert await lets_others_run(loop)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        async with loop.turn:
            await loop.wait_readable(ours.fileno())
    assert not await lets_others_run(loop)  # they have


async def test_handlers_count_while_they_wait_for_something() -> None:
    turn = FuseLoop().turn

    async def waits(event: trio.Event) -> None:
        await event.wait()

    async def fails(event: trio.Event) -> None:
        await event.wait()
        raise OSError("disk")

    async def answers() -> None:
        assert turn.suspended == expected

    async def run(handler: Callable[[trio.Event], Coroutine[Any, Any, None]], event: trio.Event) -> None:
        with contextlib.suppress(OSError):
            await turn.passing_on(handler)(event)

    for handler in (waits, fails):
        event, expected = trio.Event(), 0
        await turn.passing_on(answers)()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, handler, event)
            await trio.testing.wait_all_tasks_blocked()
            expected = 1
            await turn.passing_on(answers)()
            event.set()
        assert turn.suspended == 0
    with trio.move_on_after(0):
        await turn.passing_on(waits)(trio.Event())
    assert turn.suspended == 0


def test_a_descriptor_at_its_end_is_ready() -> None:
    ours, theirs = socket.socketpair()
    is_ready = poller()
    with ours:
        with theirs:
            assert not is_ready(ours.fileno())
            theirs.send(b"x")
            assert is_ready(ours.fileno())
            ours.recv(1)
            assert not is_ready(ours.fileno())
        assert is_ready(ours.fileno())


def test_everything_that_pyfuse3_takes_from_trio_is_there() -> None:
    sources = Path(inspect.getfile(pyfuse3)).parent
    texts = [path.read_text() for path in (*sources.glob("*.pyx"), *sources.glob("*.pxi"))]
    used = {name for text in texts for name in re.findall(r"\btrio\.(\w+(?:\.\w+)?)", text)}
    assert {"Lock", "lowlevel.wait_readable", "open_nursery"} <= used
    for name in used - {"run"}:  # of its documentation
        owner, _, last = name.rpartition(".")
        if hasattr(trio, owner or last):
            assert hasattr(getattr(FuseLoop(), owner) if owner else FuseLoop(), last), name


async def test_handlers_pass_the_turn_on_and_what_else_there_is_stays() -> None:
    class Own(pyfuse3.Operations):
        enable_writeback_cache = True
        supports_dot_lookup = False

        async def lookup(self, parent: int, name: bytes, ctx: object) -> Any:  # noqa: ANN401
            assert loop.turn.suspended == 0
            await trio.lowlevel.checkpoint()
            assert loop.turn.suspended == 1
            return name

    own, loop = Own(), FuseLoop()
    given = loop.of(own)
    assert given.enable_writeback_cache
    assert not given.supports_dot_lookup
    assert given.init == own.init
    found: object = await given.lookup(pyfuse3.InodeT(1), pyfuse3.FileNameT(b"name"), None)  # type: ignore[arg-type]
    assert found == b"name"


@pytest.mark.parametrize("kind", [ViewOperations, ViewXattrOperations])
def test_what_is_no_handler_is_known(kind: type[pyfuse3.Operations]) -> None:
    names = [name for name in dir(pyfuse3.Operations) if not name.startswith("_")]
    called = {name for name in names if callable(getattr(kind, name))}
    assert {name for name in called if not inspect.iscoroutinefunction(getattr(kind, name))} == {"init", "stacktrace"}


async def test_pyfuse3_is_told_whom_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()

    async def main(min_tasks: int = 1, max_tasks: int = 99) -> None:
        asked.extend((pyfuse3.trio, min_tasks, max_tasks))  # type: ignore[attr-defined]

    monkeypatch.setattr(pyfuse3, "trio", pyfuse3.trio)  # type: ignore[attr-defined]  # put back behind the test
    monkeypatch.setattr(pyfuse3, "main", main)
    loop = FuseLoop()
    await loop.serve()
    assert asked == [loop, 8, 99]


async def test_the_tree_of_tasks_shows_where_a_handler_waits() -> None:
    async def wait_for_a_peer() -> None:
        await trio.sleep_forever()

    async def handle(request: int) -> None:
        with trio.move_on_after(1000) as scope:
            scopes.append(scope)
            await wait_for_a_peer()

    scopes: list[trio.CancelScope] = []
    device = Device(FuseLoop(), handle)
    async with device.served():
        device.ask(1)
        await trio.testing.wait_all_tasks_blocked()
        assert [line for line in lines() if "handle" in line and "wait_for_a_peer" in line]
        scopes[0].cancel()


async def test_what_is_thrown_reaches_the_handler_and_one_given_up_counts_no_more() -> None:
    turn, seen = FuseLoop().turn, list[str]()

    async def handle() -> None:
        try:
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
        except LookupError:
            seen.append("thrown")
        except GeneratorExit:
            seen.append("given up")
            raise

    answer = turn.passing_on(handle)()
    next(answer)
    with pytest.raises(StopIteration):
        answer.throw(LookupError())
    assert (seen, turn.suspended) == (["thrown"], 0)
    answer = turn.passing_on(handle)()
    next(answer)
    assert turn.suspended == 1
    answer.close()
    assert (seen, turn.suspended) == (["thrown", "given up"], 0)
