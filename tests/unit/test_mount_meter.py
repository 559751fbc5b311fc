"""What a mount counts of the kernel's requests, and who may read them one by one."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pyfuse3
import pytest
import trio
import trio.testing
from plugins.checklogs import Claims

from p2pfs.errors import Busy, NotFound
from p2pfs_mount import life
from p2pfs_mount.meter import MOST_LINES, MOST_READERS, AccessLog, Meter
from p2pfs_mount.operations import Operations

pytestmark = pytest.mark.l0


def operations() -> Operations:
    return Operations(MagicMock(), io_timeout_s=30.0)


async def test_requests_are_counted_with_their_errors(claim_logs: Claims) -> None:
    claim_logs("getattr failed unexpectedly", count=1)
    handlers = operations()

    async def stat(number: int) -> Any:  # noqa: ANN401 - it never returns
        raise (NotFound if number == 7 else ValueError)("bill.pdf")

    handlers._fs.stat = stat  # type: ignore[method-assign]
    for number, code in ((7, errno.ESTALE), (8, errno.EIO)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await handlers.getattr(pyfuse3.InodeT(number), MagicMock())
        assert caught.value.errno in (code, errno.ENOENT)
    assert handlers.meter.latencies["getattr"].count == 2
    assert sum(handlers.meter.errors.values()) == 2
    assert handlers.meter.errors["getattr", errno.EIO] == 1


async def test_a_request_that_was_cancelled_is_no_success() -> None:
    handlers = operations()

    async def stat(_number: int) -> None:
        await trio.sleep_forever()

    handlers._fs.stat = stat  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handlers.getattr, pyfuse3.InodeT(7), MagicMock())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert handlers.meter.errors == {("getattr", errno.EINTR): 1}


@pytest.mark.parametrize("operation", ["release", "releasedir"])
async def test_closing_a_handle_names_what_it_was_open_on(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    handlers, listener = operations(), Listener()
    handlers._fs.release = AsyncMock()  # type: ignore[method-assign]
    handlers._files[3] = MagicMock(inode=MagicMock(id=77))
    handlers._directories[3] = MagicMock(inode=77)
    if operation == "release":
        handlers._directories.clear()
    else:
        handlers._files.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handlers.meter.access.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        await getattr(handlers, operation)(pyfuse3.FileHandleT(3))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (line,) = listener.lines
    assert f"{operation} (77, handle 3): OK" in line


class Listener:
    """Who reads the log."""

    def __init__(self, *, takes: bool = True) -> None:
        self.lines: list[str] = []
        self.missed = 0
        self.takes = takes

    async def say(self, told: dict[str, Any]) -> None:
        if not self.takes:
            await trio.sleep_forever()
        self.lines += told["lines"]
        self.missed += told["missed"]


def note(log: AccessLog, name: bytes = b"bill.pdf") -> None:
    log.note("unlink", (1, name), 1_500_000, errno.ENOENT)


async def test_nothing_is_made_while_nobody_reads(autojump_clock: trio.testing.MockClock) -> None:
    log, listener = AccessLog(lambda _: None), Listener()
    assert not log.is_read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        assert log.is_read
        note(log)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not log.is_read
    (line,) = listener.lines
    assert line.endswith('unlink (1, "bill.pdf"): ENOENT <0.001500>')


async def test_a_slow_reader_misses_the_oldest_and_is_told(autojump_clock: trio.testing.MockClock) -> None:
    log, listener = AccessLog(lambda _: None), Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(MOST_LINES + 5):
            note(log, b"%d" % number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (len(listener.lines), listener.missed) == (MOST_LINES, 5)
    assert '"5"' in listener.lines[0]


async def test_who_takes_nothing_is_given_up_and_more_than_a_few_are_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log, listener = AccessLog(lambda _: None), Listener(takes=False)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_READERS):
            nursery.start_soon(log.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await log.follow({}, listener.say)
    assert not log.is_read  # all of them, by and by


@pytest.mark.parametrize(
    ("operation", "arguments", "shown"),
    [
        ("read", (3, 4096, 100), "read (77, handle 3, 4096, 100)"),
        ("read", (4, 4096, 100), "read (handle 4, 4096, 100)"),
        ("write", (3, 0, b"secret content"), "write (77, handle 3, 0, 14 bytes)"),
        ("setxattr", (1, b"user.tag", b"secret content"), 'setxattr (1, "user.tag", 14 bytes)'),
        ("lookup", (1, b'a"b\n\x1b[31m\xff'), 'lookup (1, "a\\"b\N{REPLACEMENT CHARACTER}'),
    ],
)
async def test_lines_say_what_was_asked_and_no_content(
    operation: str, arguments: tuple[Any, ...], shown: str, autojump_clock: trio.testing.MockClock
) -> None:
    log, listener = AccessLog({3: 77}.get), Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        log.note(operation, arguments, 0, 0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert shown in listener.lines[0]
    assert "secret" not in listener.lines[0]
    assert listener.lines[0].isprintable()


async def test_over_the_socket_a_reader_that_hangs_up_is_forgotten(tmp_path: Path) -> None:
    path, one = tmp_path / "socket", Meter(lambda _: None)

    async def store(_report: Callable[[int], None]) -> None:
        raise AssertionError

    async def leave() -> str:
        raise AssertionError

    control = life.Control(store, leave, dict, {"access log": one.access.follow})
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.serve, path)
            while not path.exists():
                await trio.lowlevel.checkpoint()
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(b'{"op": "access log"}\n')
                assert json.loads(await stream.receive_some()) == {"lines": [], "missed": 0}
                note(one.access)
                (line,) = json.loads(await stream.receive_some())["lines"]
                assert "bill.pdf" in line
            while one.access.is_read:  # it is noticed when there is something to tell
                note(one.access)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_request_that_cannot_be_told_costs_its_line_only(
    autojump_clock: trio.testing.MockClock, claim_logs: Claims
) -> None:
    """What leaves a handler ends the mount."""
    claim_logs("the access log cannot say", count=1)
    log, listener = AccessLog(lambda _: None), Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.follow, {}, listener.say)
        await trio.testing.wait_all_tasks_blocked()
        log.note("setxattr", (1, b"user.x", object()), 1000, 0)
        note(log)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [line.split()[1] for line in listener.lines][-1] == "unlink"
