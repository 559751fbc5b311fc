"""The daemon's Unix socket in its home, for commands of the same user: one JSON request a connection, one line back.

{"op": "status"} → what `Absence.state` says
{"op": "trash"} → {"trash": BYTES}
{"op": "share"} → what `Offers.state` says; with {"set": {KIND: RULE, …}} it offers that from now on, or {"error": "…"}
{"op": "empty_trash"} → {"removed": CHUNKS, "freed": BYTES} or {"error": "…"}
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import PoolError
from p2pfs.runtime import mounts
from p2pfs.runtime.requests import answer_one, read_request

log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 4096
_REQUEST_S: Final = 10.0

Share = Callable[[Mapping[str, object]], Awaitable[dict[str, object]]]
"""Answers a request about what this peer offers."""


async def serve(path: Path, store: DirectoryStore, state: Callable[[], dict[str, object]], share: Share) -> None:
    """Answer until cancelled. Without the socket the peer does all the same."""
    try:
        listening = mounts.listen(path)
    except OSError as error:
        log.info("commands of this machine cannot reach this daemon: %s", error)
        return

    async def answer(stream: trio.SocketStream) -> None:
        asked: Mapping[str, object] = {}
        with trio.move_on_after(_REQUEST_S):
            asked = await read_request(stream, _REQUEST_BYTES)
        reply = await _answer(asked, store, state, share)
        await stream.send_all(json.dumps(reply).encode() + b"\n")

    try:
        await trio.serve_listeners(
            partial(answer_one, answer=answer), [trio.SocketListener(trio.socket.from_stdlib_socket(listening))]
        )
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _answer(
    asked: Mapping[str, object], store: DirectoryStore, state: Callable[[], dict[str, object]], share: Share
) -> dict[str, object]:
    request = asked.get("op")
    if request == "status":
        return state()
    if request == "share":
        return await share(asked)
    before = store.usage().trash
    if request == "trash":
        return {"trash": before}
    if request != "empty_trash":
        return {"error": "this request is not known"}
    try:
        removed = await store.empty_trash(0)
    except PoolError as error:
        return {"error": str(error)}
    log.info("emptied the trash of %d chunks by command", removed)
    return {"removed": removed, "freed": before - store.usage().trash}
