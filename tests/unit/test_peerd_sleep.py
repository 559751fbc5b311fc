"""Sleep and shutdown are announced: a real message bus of our own, with a login1 on it that does as told."""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.trio import DBusConnection, open_dbus_connection

from p2pfs.errors import Unavailable
from p2pfs_peerd import sleep

pytestmark = pytest.mark.l0

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
"""
_MANAGER = DBusAddress("/org/freedesktop/login1", interface="org.freedesktop.login1.Manager")


@contextlib.asynccontextmanager
async def _bus(directory: Path) -> AsyncIterator[str]:
    """Its address."""
    config = directory / "bus.conf"
    config.write_text(_CONFIG.format(path=directory / "bus"))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with trio.fail_after(20):
            address = (await process.stdout.receive_some()).decode().strip()
        yield address
    finally:
        process.kill()
        await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


@dataclass
class Login1:
    """Takes inhibitors and tells when they are let go of."""

    connection: DBusConnection
    held: list[int] = field(default_factory=list)  # our ends of the pipes, whose other ends are the locks
    asked: list[tuple[str, ...]] = field(default_factory=list)
    taken: trio.Event = field(default_factory=trio.Event)

    async def serve(self) -> None:
        while True:
            message = await self.connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            if message.header.fields[HeaderFields.member] != "Inhibit":
                await self.connection.send(new_error(message, "org.example.No"))
                continue
            ours, theirs = os.pipe()
            await self.connection.send(new_method_return(message, "h", (theirs,)))
            os.close(theirs)
            self.held.append(ours)
            self.asked.append(message.body)
            self.taken.set()

    async def tell(self, name: str, is_before: bool) -> None:
        self.taken = trio.Event()
        await self.connection.send(new_signal(_MANAGER, name, "b", (is_before,)))

    async def released(self, number: int) -> None:
        """The lock was let go of: its pipe has no writer any more."""
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(self.held[number])
        assert os.read(self.held[number], 1) == b""


@contextlib.asynccontextmanager
async def _login1(address: str) -> AsyncIterator[Login1]:
    connection = await open_dbus_connection(address, enable_fds=True)
    async with connection, trio.open_nursery() as nursery:
        async with connection.router() as router:
            await router.send_and_get_reply(message_bus.RequestName("org.freedesktop.login1"))
        login1 = Login1(connection)
        nursery.start_soon(login1.serve)
        yield login1
        nursery.cancel_scope.cancel()
        for descriptor in login1.held:
            os.close(descriptor)


class Told:
    """What the coordinator was told."""

    def __init__(self) -> None:
        self.send, self.heard = trio.open_memory_channel[float](10)
        self.fails = False

    async def away(self, for_s: float) -> None:
        self.send.send_nowait(for_s)
        if self.fails:
            raise Unavailable("nobody answers")

    async def next(self) -> float:
        with trio.fail_after(20):
            return await self.heard.receive()


@pytest.mark.parametrize("fails", [False, True])
async def test_sleep_is_told_before_the_lock_is_let_go_and_waking_after_a_new_one(tmp_path: Path, fails: bool) -> None:
    told = Told()
    told.fails = fails
    async with _bus(tmp_path) as address, _login1(address) as login1, trio.open_nursery() as nursery:
        nursery.start_soon(sleep.watch, told.away, 60.0, address)
        with trio.fail_after(20):
            await login1.taken.wait()
        assert login1.asked[0][0::3] == ("sleep:shutdown", "delay")
        for night in range(2):
            await login1.tell("PrepareForSleep", True)
            assert await told.next() == 60.0
            await login1.released(night)
            await login1.tell("PrepareForSleep", False)
            assert await told.next() == 0.0
            assert login1.taken.is_set()
        await login1.tell("PrepareForShutdown", True)
        assert await told.next() == 60.0
        await login1.released(2)
        nursery.cancel_scope.cancel()


async def test_the_lock_is_held_until_the_coordinator_was_told(tmp_path: Path) -> None:
    asked, answer = trio.Event(), trio.Event()

    async def away(_for_s: float) -> None:
        asked.set()
        await answer.wait()

    async with _bus(tmp_path) as address, _login1(address) as login1, trio.open_nursery() as nursery:
        nursery.start_soon(sleep.watch, away, 60.0, address)
        with trio.fail_after(20):
            await login1.taken.wait()
            await login1.tell("PrepareForSleep", True)
            await asked.wait()
        os.set_blocking(login1.held[0], False)
        with pytest.raises(BlockingIOError):  # a pipe that still has a writer
            os.read(login1.held[0], 1)
        answer.set()
        await login1.released(0)
        nursery.cancel_scope.cancel()


async def test_a_stranger_on_the_bus_puts_nobody_to_sleep(tmp_path: Path) -> None:
    told = Told()
    async with _bus(tmp_path) as address, _login1(address) as login1, trio.open_nursery() as nursery:
        nursery.start_soon(sleep.watch, told.away, 60.0, address)
        with trio.fail_after(20):
            await login1.taken.wait()
        async with await open_dbus_connection(address) as stranger:
            for name in await _unique_names(stranger):  # straight at each, past what the bus would filter
                signal = new_signal(_MANAGER, "PrepareForSleep", "b", (True,))
                signal.header.fields[HeaderFields.destination] = name
                await stranger.send(signal)
            await _round_trip(stranger)
        await login1.tell("PrepareForSleep", False)
        assert await told.next() == 0.0
        nursery.cancel_scope.cancel()


async def _unique_names(connection: DBusConnection) -> list[str]:
    async with connection.router() as router:
        reply: Message = await router.send_and_get_reply(message_bus.ListNames())
    return [name for name in reply.body[0] if name.startswith(":")]


async def _round_trip(connection: DBusConnection) -> None:
    await _unique_names(connection)


async def test_without_a_bus_or_login1_there_is_one_line_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="p2pfs_peerd.sleep")
    told = Told()
    with trio.fail_after(20):
        await sleep.watch(told.away, 60.0, f"unix:path={tmp_path / 'nothing'}")
        assert len(caplog.messages) == 1
        async with _bus(tmp_path) as address:
            await sleep.watch(told.away, 60.0, address)
    assert len(caplog.messages) == 2
    assert all("not announced" in message for message in caplog.messages)
