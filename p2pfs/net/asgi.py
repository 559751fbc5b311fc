"""Runs an ASGI application behind our own server: a handler like any other, so every limit of the server holds for it.

Each request and each answer is whole before it is handed on: an application gets no streams, no web sockets and no
lifespan, and cannot answer more than it was allowed. Called by whoever serves pages for people.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import trio

from p2pfs.net.messages import Handler, Request, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

IDENTITY: Final = "p2pfs.identity"
"""The key in the scope of who asks (`net.identity.Identity`), None without a certificate. It may have expired."""


def asgi_handler(application: Application, *, answer_bytes: int) -> Handler:
    """A handler that answers with what `application` answers, up to `answer_bytes`. What it raises goes through."""

    async def handle(request: Request) -> Response:
        exchange = _Exchange(bytes(await request.body()), answer_bytes)
        await application(_scope(request), exchange.receive, exchange.send)
        return exchange.response()

    return handle


def _scope(request: Request) -> Message:
    path = request.route.path.format_map(request.parameters)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.route.method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "root_path": "",
        "query_string": request.query.encode("ascii"),
        "headers": [(name.encode("ascii"), value.encode("ascii")) for name, value in request.headers.items()],
        "client": None,
        "server": None,
        "state": {},
        IDENTITY: request.identity,
    }


class _Exchange:
    """One request on its way to the application, and the answer on its way back."""

    def __init__(self, body: bytes, most: int) -> None:
        self._body: bytes | None = body
        self._most = most
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._answered = trio.Event()

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        self._parts.append(part := bytes(message.get("body", b"")))
        self._size += len(part)
        if self._size > self._most:
            raise RuntimeError(f"the application answers more than {self._most} bytes")
        if not message.get("more_body", False):
            self._answered.set()

    def response(self) -> Response:
        if not self._status or not self._answered.is_set():
            raise RuntimeError("the application did not answer")
        kind = next((value for name, value in self._headers if name == "content-type"), "application/octet-stream")
        others = tuple((name, value) for name, value in self._headers if name not in ("content-type", "content-length"))
        return Response(self._status, self._parts, kind, others)
