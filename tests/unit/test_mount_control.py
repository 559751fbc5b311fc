"""The mount's unix socket: who asked it to leave hears what came of it."""

import json
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from p2pfs_mount import life


async def test_who_asked_to_leave_is_told_what_is_lost_before_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    left = trio.Event()

    async def leave(_report: Callable[[int], None]) -> str:
        left.set()  # the kernel has let go, and the process is about to end
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        return "3 changes were lost"

    control = life.Control(leave, dict)
    heard = b""

    async def ask() -> None:
        nonlocal heard
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"op":"umount"}\n')
            async for part in stream:
                heard += part

    with trio.fail_after(5):
        async with trio.open_nursery() as asking, trio.open_nursery() as nursery:
            nursery.start_soon(control.serve, path)
            while not path.exists():
                await trio.lowlevel.checkpoint()
            asking.start_soon(ask)
            await left.wait()
            await control.everybody_told()
            nursery.cancel_scope.cancel()
    assert json.loads(heard.splitlines()[-1]) == {"done": True, "lost": "3 changes were lost"}


async def test_who_does_not_listen_keeps_nobody(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "socket"
    asked = trio.Event()

    async def leave(_report: Callable[[int], None]) -> str:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    control = life.Control(leave, dict)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, path)
        while not path.exists():
            await trio.lowlevel.checkpoint()
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"op":"umount"}\n')
            await asked.wait()
            started = trio.current_time()
            await control.everybody_told()
            assert trio.current_time() - started == life.TELL_S
        nursery.cancel_scope.cancel()
