"""Requests of this machine's commands to a process of this user: one line of JSON over a Unix socket.

Who can connect is this user or root, and still whatever comes in must not end a mount or a peer. Used by both.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

_log = logging.getLogger(__name__)

_LARGEST: Final = (1 << 63) - 1


async def read_request(stream: trio.abc.ReceiveStream, most_bytes: int) -> dict[str, Any]:
    """The object in the line that comes; empty for what is no request. The caller's cancel scope bounds the wait."""
    data = b""
    while b"\n" not in data and len(data) < most_bytes:
        part = await stream.receive_some(most_bytes)
        if not part:
            break
        data += part
    return parse_request(data)


def parse_request(data: bytes) -> dict[str, Any]:
    """As `read_request`. Numbers are finite and fit into 64 bits: databases and the wire take no others."""
    try:
        request = json.loads(data, parse_int=_integer, parse_float=_fraction, parse_constant=_fraction)
    except (ValueError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


async def answer_one(stream: trio.SocketStream, answer: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Serve one connection and close it. Whoever hangs up ends it; an unexpected failure is logged and ends nothing
    else."""
    try:
        async with stream:
            await answer(stream)
    except* trio.BrokenResourceError:
        _log.debug("who asked went away")
    except* Exception:
        _log.exception("a command's request failed unexpectedly")


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) > _LARGEST:
        raise ValueError("a number is too large")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not abs(number) <= _LARGEST:  # nor what is no number
        raise ValueError("a number is too large")
    return number
