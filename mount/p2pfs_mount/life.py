"""A mount's life around the FUSE loop: may it begin here, who asks it to end, and how it leaves.

Leaving in order: store everything, take the mount away from the kernel, store what came meanwhile. Called by `main`.
"""

import contextlib
import ctypes
import errno
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from p2pfs import exitcodes
from p2pfs.errors import PoolError, UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.requests import answer_one, read_request

log = logging.getLogger(__name__)

REQUEST_BYTES: Final = 1 << 16
_AUTOMOUNT: Final = "autofs"
UNMOUNT_S: Final = 20.0
TELL_S: Final = 5.0
AGAIN_S: Final = 20.0
"""How often who waits for the end is told the same while it stores, which may take longer than they bear silence."""
READ_AHEAD_KIB: Final = 1024

Say = Callable[[dict[str, object]], Awaitable[None]]
Command = Callable[[dict[str, Any], Say], Awaitable[None]]
"""What answers a request line by line. Raises PoolError."""


def require_fuse() -> None:
    """Raises UserError (NO_FUSE) when this machine cannot mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UserError(
            "/dev/fuse is missing or not accessible: load the kernel module (`modprobe fuse`) or pass the device on",
            exitcodes.NO_FUSE,
        )
    if shutil.which("fusermount3") is None:
        raise UserError("fusermount3 is missing: install the package fuse3", exitcodes.NO_FUSE)


def require_mount_point(path: Path) -> None:
    """Check the directory; a mount that a killed process left there is taken away first.

    Raises:
        UserError: BAD_MOUNT_POINT, saying why.
    """
    if mounts.mounted_type(path) == mounts.KERNEL_TYPE and _is_stale(path):
        log.info("%s was left mounted by a process that is gone: unmounting it", path)
        detach(path)
    problem = ""
    kind = mounts.mounted_type(path)
    if kind not in (None, _AUTOMOUNT):
        problem = "is a mount already: unmount it or choose another directory"
    elif not path.exists():
        problem = f"does not exist: create it with `mkdir {path}`"
    elif not path.is_dir():
        problem = "is not a directory"
    elif kind != _AUTOMOUNT and any(path.iterdir()):  # which would wait for this very mount
        problem = "is not empty: choose an empty directory"
    if problem:
        raise UserError(f"{path} {problem}", exitcodes.BAD_MOUNT_POINT)


def _is_stale(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    record = mounts.find(path)
    return record is not None and not record.alive()


def unmount(path: Path) -> None:
    """Take the mount away. Raises UserError (BUSY) while somebody uses it."""
    result = subprocess.run(
        ["fusermount3", "-u", "--", str(path)], capture_output=True, text=True, timeout=UNMOUNT_S, check=False
    )
    if result.returncode and mounts.mounted_type(path) == mounts.KERNEL_TYPE:
        raise UserError(f"{path} is in use: leave it and try again ({result.stderr.strip()})", exitcodes.BUSY)


def detach(path: Path) -> None:
    """Take the mount out of the tree even while it is used; the last user's files stay usable until closed."""
    subprocess.run(["fusermount3", "-u", "-z", "--", str(path)], capture_output=True, timeout=UNMOUNT_S, check=False)


def write_back(path: Path) -> None:
    """Have the kernel send the written pages that it keeps; on return they are on their way, not yet answered. Blocks
    while requests do."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def raise_read_ahead(path: Path) -> None:
    """Let the kernel ask for a whole chunk at once instead of 128 KiB, where we may: a fifth less CPU a MiB read."""
    # Behind an automount, asking the mount itself would wait until systemd knows that it is there.
    minor = mounts.device(path) if mounts.is_automount(path) else os.minor(os.stat(path).st_dev)
    setting = Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb")
    with contextlib.suppress(OSError):  # only root may
        setting.write_text(str(READ_AHEAD_KIB))


async def keep_fresh(record: Path) -> None:
    """Let the record's time say that the mount lives. Runs until cancelled."""
    while True:
        await trio.sleep(mounts.REFRESHED_S)
        with contextlib.suppress(OSError):  # it is forgotten, or another's
            os.utime(record)


class Control:
    """Answers the mount's unix socket: one JSON request a connection, JSON lines back.

    {"op": "umount"} → {"pending_bytes": N} … then {"done": true, "lost": "…"} or {"error": "…"}.
    {"op": "stats"} → one line of numbers.
    {"op": one of `commands`, …} → its lines, then {"done": true} or {"error": "…", "code": class of p2pfs.errors}.
    """

    def __init__(
        self,
        store: Callable[[Callable[[int], None]], Awaitable[None]],
        leave: Callable[[], Awaitable[str]],
        stats: Callable[[], dict[str, int]],
        commands: Mapping[str, Command] | None = None,
    ) -> None:
        """`store` is told whom to report unsaved bytes to; `leave` comes after it, and returns what can never be
        stored."""
        self._store, self._leave = store, leave
        self._stats, self._commands = stats, commands or {}
        self._leaving = 0  # who asked to leave and has not been told what came of it
        self._told = trio.Event()

    async def everybody_told(self) -> None:
        """Wait until all who asked to leave know what came of it; not for ever, should one not listen. The kernel has
        let go before they know, and who hears nothing does not learn of a loss."""
        with trio.move_on_after(TELL_S):
            while self._leaving:
                await self._told.wait()

    async def serve(self, path: Path) -> None:
        """Runs until cancelled; removes the socket then."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(mounts.listen(path)))
        try:
            await trio.serve_listeners(partial(answer_one, answer=self._answer), [listener])
        finally:
            _remove(path)

    async def _answer(self, stream: trio.SocketStream) -> None:
        request: dict[str, Any] = {}
        with trio.move_on_after(10):
            request = await read_request(stream, REQUEST_BYTES)
            if request.get("op") == "stats":
                await _say(stream, dict(self._stats()))
                return
        command = self._commands.get(str(request.get("op")))
        if request.get("op") == "umount":
            self._leaving += 1
            try:
                await self._umount(stream)
            finally:
                self._leaving -= 1
                self._told.set()
                self._told = trio.Event()
        elif command is not None:
            await self._run(stream, command, request)
        else:
            await _say(stream, {"error": "this request is not known"})

    async def _run(self, stream: trio.SocketStream, command: Command, request: dict[str, Any]) -> None:
        """Who hangs up ends it, between two lines."""
        try:
            await command(request, partial(_say, stream))
            answer: dict[str, object] = {"done": True}
        except PoolError as error:
            answer = {"error": str(error), "code": type(error).__name__}
        except (KeyError, TypeError, ValueError, OverflowError):
            log.warning("a command's request is not understood", exc_info=True)
            answer = {"error": "this request is not understood", "code": "Misuse"}
        await _say(stream, answer)

    async def _umount(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            tell, told = trio.open_memory_channel[int](1)

            def pending(count: int) -> None:
                with contextlib.suppress(trio.WouldBlock):
                    tell.send_nowait(count)

            nursery.start_soon(_report, stream, told)
            try:
                with tell:
                    await self._store(pending)
                # Nothing is told from here on: what cannot end, the kernel's unmounting, is given up by who waits.
                answer: dict[str, object] = {"done": True, "lost": await self._leave()}
            except (PoolError, OSError, subprocess.SubprocessError) as error:
                answer = {"error": str(error), "exit_code": getattr(error, "exit_code", exitcodes.DATA_NOT_STORED)}
        await _say(stream, answer)


async def _report(stream: trio.SocketStream, told: trio.MemoryReceiveChannel[int]) -> None:
    """Pass on what is unsaved, the same again where nothing new is told for `AGAIN_S`; until the other end closes."""
    unsaved: int | None = None
    while True:
        try:
            with trio.move_on_after(AGAIN_S):
                unsaved = await told.receive()
        except trio.EndOfChannel:
            return
        if unsaved is None:
            continue
        with contextlib.suppress(trio.BrokenResourceError):  # who asked went away: go on leaving
            await _say(stream, {"pending_bytes": unsaved})


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _say(stream: trio.SocketStream, message: dict[str, object]) -> None:
    await stream.send_all(json.dumps(message).encode() + b"\n")
