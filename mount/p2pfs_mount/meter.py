"""What the kernel asks of a mount, counted, and shown line by line to whoever reads the access log.

Counting is two readings of the clock and two additions a request. Of the access log nothing is kept, and nothing is
made, while nobody reads; names in it go to the mount's own socket, which is its owner's, and nowhere else. Filled by
`guard`, read by `figures` and through `life.Control`.
"""

import errno
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import trio
from pyfuse3 import RequestContext

from p2pfs.errors import Busy
from p2pfs.runtime.latency import Latency
from p2pfs.runtime.terminal import printable
from p2pfs_mount.life import Say

log = logging.getLogger(__name__)

MOST_READERS: Final = 4
MOST_LINES: Final = 4096
"""Kept for a reader that is slow; of more the oldest are missed, and how many is told."""
_TAKEN_WITHIN_S: Final = 60.0
"""A reader that takes nothing for so long is given up."""
_SIGN_OF_LIFE_S: Final = 5.0
_BY_HANDLE: Final = frozenset({"read", "write", "flush", "fsync", "release", "readdir", "releasedir", "fsyncdir"})


class Meter:
    """Of one mount, since it began. `errors` is by operation and errno."""

    def __init__(self, inode_of: Callable[[int], int | None]) -> None:
        """`inode_of` knows what a handle is open on."""
        self.latencies: dict[str, Latency] = {}
        self.errors: Counter[tuple[str, int]] = Counter()
        self.read_bytes = self.written_bytes = 0
        self.access = AccessLog(inode_of)

    def note(self, operation: str, took_ns: int, number: int) -> None:
        """One request was answered, with errno `number` or 0."""
        latency = self.latencies.get(operation)
        if latency is None:
            latency = self.latencies[operation] = Latency()
        latency.note(took_ns)
        if number:
            self.errors[operation, number] += 1


class _Reader:
    """Who reads, and what it has not taken yet."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque()
        self.missed = 0
        self.news = trio.Event()

    def add(self, line: str) -> None:
        if len(self.lines) == MOST_LINES:
            self.lines.popleft()
            self.missed += 1
        self.lines.append(line)
        self.news.set()

    def take(self) -> tuple[list[str], int]:
        taken = list(self.lines), self.missed
        self.lines.clear()
        self.missed, self.news = 0, trio.Event()
        return taken


class AccessLog:
    """`is_read` is asked before a line is made."""

    def __init__(self, inode_of: Callable[[int], int | None]) -> None:
        self._inode_of = inode_of
        self._readers: list[_Reader] = []

    @property
    def is_read(self) -> bool:
        return bool(self._readers)

    def inode_of(self, operation: str, arguments: Sequence[Any]) -> int | None:
        """What a request by handle is about, while the handle is open."""
        return self._inode_of(arguments[0]) if operation in _BY_HANDLE and arguments else None

    def note(
        self, operation: str, arguments: Sequence[Any], took_ns: int, number: int, inode: int | None = None
    ) -> None:
        """A line for everybody who reads. `inode`: what `inode_of` said before the request, if it was asked."""
        if operation in _BY_HANDLE and arguments:
            inode = self.inode_of(operation, arguments) if inode is None else inode
            arguments = (*([] if inode is None else [inode]), f"handle {arguments[0]}", *arguments[1:])
        try:
            line = described(datetime.now(UTC), operation, arguments, took_ns=took_ns, number=number)
        except Exception:  # what leaves a handler ends the mount, and this line is worth none
            log.exception("the access log cannot say what %s was", operation)
            return
        for reader in self._readers:
            reader.add(line)

    async def follow(self, _request: dict[str, Any], say: Say) -> None:
        """{"op": "access log"} → {"lines": […], "missed": N} again and again, until the reader hangs up or takes
        nothing. Raises Busy."""
        if len(self._readers) == MOST_READERS:
            raise Busy(f"{MOST_READERS} read the access log of this mount already")
        reader = _Reader()
        self._readers.append(reader)
        try:
            while True:
                lines, missed = reader.take()
                with trio.move_on_after(_TAKEN_WITHIN_S) as taking:
                    await say({"lines": lines, "missed": missed})
                if taking.cancelled_caught:
                    return
                with trio.move_on_after(_SIGN_OF_LIFE_S):
                    await reader.news.wait()
        finally:
            self._readers.remove(reader)


def described(now: datetime, operation: str, arguments: Sequence[Any], *, took_ns: int, number: int) -> str:
    """`2026-11-22T20:15:03.123456Z uid=0 gid=0 pid=42 lookup (1, "bill.pdf"): OK <0.000123>`, on one line."""
    who, shown = "", []
    for argument in arguments:
        if isinstance(argument, RequestContext):
            who = f"uid={argument.uid} gid={argument.gid} pid={argument.pid} "
        elif isinstance(argument, bool):
            continue
        elif isinstance(argument, int | str):
            shown.append(str(argument))
        elif operation == "write" or (operation == "setxattr" and argument is arguments[2]):
            shown.append(f"{len(argument)} bytes")  # content is not for logs
        elif isinstance(argument, bytes):
            shown.append(json.dumps(printable(os.fsdecode(argument)), ensure_ascii=False))
    outcome = errno.errorcode.get(number, str(number)) if number else "OK"
    time = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{time} {who}{operation} ({', '.join(shown)}): {outcome} <{took_ns / 1e9:.6f}>"
