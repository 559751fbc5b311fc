"""The mount's unix socket: who asked it to leave hears what came of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing
from plugins.checklogs import Claims

from p2pfs_mount import life


async def test_a_mount_that_lives_says_so_by_its_records_time(tmp_path: Path, autojump_clock: object) -> None:
    """Records of a week ago are removed when nobody lives any more: a mount of years may be killed today."""
    record = tmp_path / "record"
    record.touch()
    os.utime(record, (0, 0))
    with trio.move_on_after(86_400 * 1.5):
        await life.keep_fresh(record)
    assert record.stat().st_mtime > 0
    record.unlink()
    with trio.move_on_after(86_400 * 1.5):
        await life.keep_fresh(record)
    assert not record.exists()


async def nothing(_report: Callable[[int], None]) -> None:
    await trio.lowlevel.checkpoint()


async def test_who_asked_to_leave_is_told_what_is_lost_before_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    left = trio.Event()

    async def leave() -> str:
        left.set()  # the kernel has let go, and the process is about to end
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        return "3 changes were lost"

    control = life.Control(nothing, leave, dict)
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

    async def leave() -> str:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    control = life.Control(nothing, leave, dict)
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


async def test_who_waits_for_the_end_is_told_again_while_storing_takes_its_time_and_no_longer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "socket"

    async def store(report: Callable[[int], None]) -> None:
        report(7)
        await trio.sleep(3.5 * life.AGAIN_S)

    async def leave() -> str:
        await trio.sleep(10 * life.AGAIN_S)  # a fusermount3 that nothing ends: who asked gives up in the silence
        return ""

    control = life.Control(store, leave, dict)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.serve, path)
        while not path.exists():
            await trio.lowlevel.checkpoint()
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"op":"umount"}\n')
            heard = b"".join([part async for part in stream]).splitlines()
        nursery.cancel_scope.cancel()
    assert [json.loads(line) for line in heard] == [{"pending_bytes": 7}] * 4 + [{"done": True, "lost": ""}]


async def test_a_command_that_fails_as_nobody_expects_ends_its_connection_and_no_mount(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is not understood", count=1)
    claim_logs("a command's request failed unexpectedly", count=1)
    path = tmp_path / "socket"

    async def overflow(_request: dict[str, Any], _say: life.Say) -> None:
        raise OverflowError

    async def fail(_request: dict[str, Any], _say: life.Say) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(overflow, {}, _say)

    async def leave() -> str:
        return ""

    async def ask(text: bytes) -> bytes:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(text + b"\n")
            return b"".join([part async for part in stream])

    control = life.Control(nothing, leave, dict, {"overflow": overflow, "fail": fail})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.serve, path)
            while not path.exists():
                await trio.lowlevel.checkpoint()
            assert json.loads(await ask(b'{"op":"overflow"}'))["code"] == "Misuse"
            assert await ask(b'{"op":"fail"}') == b""
            for odd in (b"[" * 60_000, b'{"op":"overflow","inode":1%s}' % (b"0" * 30), b'{"op":"overflow","n":1e400}'):
                assert json.loads(await ask(odd)) == {"error": "this request is not known"}
            assert await ask(b'{"op":"stats"}') == b"{}\n"
            nursery.cancel_scope.cancel()
