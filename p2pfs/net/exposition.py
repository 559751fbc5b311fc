"""`GET /metrics` for Prometheus, in the clear and for everybody who can dial: only where `metrics_listen` says so.

A listener of its own that knows this one request: no TLS, no bodies, one request a connection. Few connections at once,
each with a deadline; for whoever comes while all are taken the oldest is hung up on, so that a few that say nothing
keep nobody out. Used by the coordinator, the peer and the mount.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from p2pfs.errors import UserError
from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.enrolment import expires_s
from p2pfs.net.heads import END, BadHead, parse_request
from p2pfs.net.server import Server
from p2pfs.net.wires import TOTAL
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.metrics import Exposition, Figure, counter, gauge, process_figures
from p2pfs.types import KIB

_log = logging.getLogger(__name__)

AT_ONCE: Final = 8
DEADLINE_S: Final = 10.0
_HEAD_BYTES: Final = 8 * KIB
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def expose(
    listen: str,
    figures: Sequence[Figure],
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer at the addresses of `listen` until cancelled; empty: not at all. A port that is taken is a warning: nobody
    loses a mount because two of them were to be watched at one port.

    Raises:
        Invalid: `listen` is no list of addresses.
    """
    if not listen:
        task_status.started([])
        return
    try:
        listeners = await open_listeners(listen)
    except UserError as error:
        _log.warning("no metrics are served: %s", error)
        task_status.started([])
        return
    bound = bound_addresses(listeners)
    _log.info("metrics are served at %s", ", ".join(bound))
    task_status.started(bound)
    await trio.serve_listeners(partial(_serve, Exposition(figures).text, {}), listeners)


def common_figures(part: str, home: NodeHome) -> list[Figure]:
    """What every process of a node has to say."""
    return [
        *process_figures(part),
        counter(
            "p2pfs_network_bytes_total",
            "Bytes through its connections to other nodes, TLS included.",
            lambda: {"in": TOTAL.received, "out": TOTAL.sent},
            "direction",
        ),
        gauge(
            "p2pfs_certificate_expiry_timestamp_seconds",
            "UTC; when this node's certificate ends, unless it is renewed.",
            _expiry(home),
        ),
    ]


def _expiry(home: NodeHome) -> Callable[[], float]:
    """Reads the certificate only when its file is another."""
    known: tuple[tuple[int, int], float] | None = None

    def read() -> float:
        nonlocal known
        state = home.certificate_path.stat()
        which = state.st_ino, state.st_mtime_ns
        if known is None or known[0] != which:
            known = which, expires_s(home)
        return known[1]

    return read


def server_figures(server: Server) -> list[Figure]:
    """What every process with a server has to say."""
    return [
        counter(
            "p2pfs_requests_total",
            "Requests answered, by route and first digit of the status.",
            lambda: {(route, f"{digit}xx"): float(count) for (route, digit), count in server.answers.items()},
            "route",
            "status",
        ),
        counter("p2pfs_request_failures_total", "Unexpected failures: bugs.", lambda: server.failures),
        gauge("p2pfs_connections", "Open connections of others.", lambda: server.connections),
    ]


async def _serve(
    text: Callable[[], bytes], served: dict[trio.CancelScope, None], stream: trio.abc.HalfCloseableStream
) -> None:
    """`served` has those of other connections, oldest first."""
    if len(served) >= AT_ONCE:
        oldest = next(iter(served))
        del served[oldest]
        oldest.cancel()
    try:
        with trio.move_on_after(DEADLINE_S) as scope:
            served[scope] = None
            try:
                await stream.send_all(_answer(await _head(stream), text))
                await stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                _log.debug("who asked for metrics went away")
            except Exception:  # nobody loses a mount for want of figures
                _log.exception("metrics could not be told")
            finally:
                served.pop(scope, None)
    finally:
        await trio.aclose_forcefully(stream)


async def _head(stream: trio.abc.ReceiveStream) -> bytes:
    """Up to the empty line, or as much as a head may have."""
    head = b""
    while END not in head and len(head) < _HEAD_BYTES:
        some = await stream.receive_some(_HEAD_BYTES)
        if not some:
            break
        head += some
    return head


def _answer(head: bytes, text: Callable[[], bytes]) -> bytes:
    status, body = "200 OK", b""
    try:
        request = parse_request(head)
    except BadHead:
        status = "400 Bad Request"
    else:
        if request.path != "/metrics":
            status = "404 Not Found"
        elif request.method != "GET" or request.content_length:
            status = "405 Method Not Allowed"
        else:
            body = text()
    lines = [
        f"HTTP/1.1 {status}",
        f"content-type: {_CONTENT_TYPE}",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
