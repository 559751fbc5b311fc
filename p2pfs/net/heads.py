"""HTTP/1.1 heads: bytes ⇄ values, stricter than the standard asks, because both ends are ours.

Pure. httptools judges the grammar; on top of it nothing ambiguous passes: exactly one message, no bare CR or LF, no
repeated header, no transfer coding, one plain Content-Length, printable ASCII. What one end would read otherwise than
the other is refused, which leaves request smuggling nothing to work with.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httptools

from p2pfs.errors import Misuse
from p2pfs.types import KIB

MAX_HEAD_BYTES: Final = 16 * KIB
END: Final = b"\r\n\r\n"
RAW_PROTOCOL: Final = "p2pfs-raw"
"""The one protocol a connection may switch to: bytes without a meaning here (`net.raw`)."""
ASK_RAW: Final = (("connection", "upgrade"), ("upgrade", RAW_PROTOCOL))
"""The headers of who asks for it, and of who agrees."""
SWITCHING: Final = 101

_PLAIN_HEADERS: Final = rb"\r\n(?:[a-z-]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\r\n)*\r\n"
_PLAIN_REQUEST: Final = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) (/[A-Za-z0-9._~/-]*) HTTP/1\.1" + _PLAIN_HEADERS)
_PLAIN_RESPONSE: Final = re.compile(rb"HTTP/1\.1 [2-5]\d\d [A-Za-z -]*" + _PLAIN_HEADERS)
"""As our clients and servers write it; httptools takes three to ten times as long to say the same of it."""
_JUDGED: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_PRINTABLE: Final = re.compile(rb"[\t\x20-\x7e]*")
_TARGET: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%/?-]*))?")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class BadHead(Misuse):
    """A head that is refused, with the status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """`path` has no query; header names are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    content_length: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """`content_length` is None where the head names none (a HEAD answer, 204)."""

    status: int
    headers: Mapping[str, str]
    content_length: int | None
    keep_alive: bool


class _Collector:
    """httptools' callbacks. A fresh one and a fresh parser for each head: no state outlives a message."""

    __slots__ = ("completed", "headers", "is_whole", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.is_whole = False
        self.completed = 0

    def on_message_begin(self) -> None:
        if self.is_whole:
            raise BadHead(400, "there is more than one message in one head")

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        key = name.decode("ascii").lower()
        if key in self.headers:
            raise BadHead(400, f"the header {key} comes twice")
        self.headers[key] = (value or b"").decode("ascii").strip(" \t")

    def on_headers_complete(self) -> None:
        self.is_whole = True

    def on_body(self, _body: bytes) -> None:
        raise BadHead(400, "the head ends before its end")

    def on_message_complete(self) -> None:
        self.completed += 1


def parse_request(head: bytes) -> RequestHead:
    """The request whose head is exactly `head`, its final empty line included.

    Raises:
        BadHead: It is refused.
    """
    plain = _plain_request(head)
    if plain is not None:
        return plain
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    _feed(parser, collector, head)
    if parser.get_http_version() != "1.1":
        raise BadHead(505, "only HTTP/1.1 is spoken here")
    headers = collector.headers
    target = _TARGET.fullmatch(collector.target.decode("ascii"))
    if target is None:
        raise BadHead(400, "the target is no plain path")
    if "host" not in headers:
        raise BadHead(400, "the header host is missing")
    if "expect" in headers:
        raise BadHead(417, "send the body without waiting")
    length = _content_length(headers)
    return RequestHead(
        method=parser.get_method().decode("ascii"),
        path=target[1],
        query=target[2] or "",
        headers=headers,
        content_length=length or 0,
        keep_alive=_keeps_alive(headers),
    )


def parse_response(head: bytes) -> ResponseHead:
    """The response whose head is exactly `head`. Raises BadHead."""
    headers = _plain_headers(head) if _PLAIN_RESPONSE.fullmatch(head) else None
    if headers is not None:
        return ResponseHead(int(head[9:12]), headers, _content_length(headers), True)
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    _feed(parser, collector, head)
    status = parser.get_status_code()
    if parser.get_http_version() != "1.1" or not (200 <= status <= 599 or status == SWITCHING):
        raise BadHead(400, "this is no final HTTP/1.1 response")
    headers = collector.headers
    return ResponseHead(status, headers, _content_length(headers), _keeps_alive(headers))


def _plain_request(head: bytes) -> RequestHead | None:
    """A request with nothing in it that needs judging; None of any other."""
    line = _PLAIN_REQUEST.fullmatch(head)
    headers = _plain_headers(head) if line is not None else None
    if line is None or headers is None or "host" not in headers or "expect" in headers:
        return None
    length = _content_length(headers)
    return RequestHead(line[1].decode("ascii"), line[2].decode("ascii"), "", headers, length or 0, True)


def _plain_headers(head: bytes) -> dict[str, str] | None:
    """The headers of a head that is written plainly, unless one of them needs judging."""
    lines = head.decode("ascii").split("\r\n")[1:-2]
    headers = dict([line.split(": ", 1) for line in lines])
    return headers if len(headers) == len(lines) and headers.keys().isdisjoint(_JUDGED) else None


def _feed(
    parser: httptools.HttpRequestParser | httptools.HttpResponseParser, collector: _Collector, head: bytes
) -> None:
    if head.find(END) != len(head) - len(END):
        raise BadHead(400, "this is not one whole HTTP head")
    if not _PRINTABLE.fullmatch(head.replace(b"\r\n", b"")):  # catches bare CR and LF too
        raise BadHead(400, "the head holds bytes that no head of ours has")
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        if collector.headers.get("upgrade") != RAW_PROTOCOL:
            raise BadHead(400, "no other protocol is spoken here") from None
    except httptools.HttpParserError as error:
        cause = error.__context__
        raise (cause if isinstance(cause, BadHead) else BadHead(400, "this is no HTTP head")) from None
    if not collector.is_whole or collector.completed > 1:
        raise BadHead(400, "this is not one whole HTTP head")


def _content_length(headers: Mapping[str, str]) -> int | None:
    if "transfer-encoding" in headers:
        raise BadHead(501, "bodies come with a content length, never with a transfer coding")
    text = headers.get("content-length")
    if text is None:
        return None
    if not _LENGTH.fullmatch(text):
        raise BadHead(400, "the content length is no plain number")
    return int(text)


def _keeps_alive(headers: Mapping[str, str]) -> bool:
    connection = headers.get("connection")
    return connection is None or "close" not in connection.lower()


def request_head(
    method: str, path: str, host: str, *, length: int | None = None, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """The head of a request; `length` None: no body is meant. Raises Misuse on values that would break it."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(path):
        raise Misuse(f"{method} {path} is no request that can be sent")
    lines = [f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n"]
    if length is not None:
        lines.append(f"content-length: {length}\r\n")
    return _with_headers(lines, headers)


def response_head(
    status: int, *, length: int | None, headers: Iterable[tuple[str, str]] = (), keep_alive: bool = True
) -> bytes:
    """The head of a response. Raises Misuse on header values that would break it."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n"]
    if length is not None:
        lines.append(f"content-length: {length}\r\n")
    if not keep_alive:
        lines.append("connection: close\r\n")
    return _with_headers(lines, headers)


def _with_headers(lines: list[str], headers: Iterable[tuple[str, str]]) -> bytes:
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Misuse(f"the header {name!r} cannot be sent with this value")
        lines.append(f"{name.lower()}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("ascii")
