"""The parser seam: what is a head, what is refused, and that nothing else ever happens."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pfs.errors import Misuse
from p2pfs.net import heads
from p2pfs.net.heads import BadHead, parse_request, parse_response, request_head, response_head

pytestmark = pytest.mark.l0


def _request(*lines: str, first: str = "PUT /volumes/1/chunks/2 HTTP/1.1", host: bool = True) -> bytes:
    return "\r\n".join([first, *(["Host: x"] if host else []), *lines, "", ""]).encode("latin-1")


def test_a_plain_request_is_read() -> None:
    head = parse_request(_request("Content-Length: 17", "X-Y:  a b\t", first="POST /a/%20b/c?x=1&y=%2F HTTP/1.1"))
    assert (head.method, head.path, head.query) == ("POST", "/a/%20b/c", "x=1&y=%2F")
    assert head.headers == {"host": "x", "content-length": "17", "x-y": "a b"}
    assert (head.content_length, head.keep_alive) == (17, True)


def test_a_request_without_a_body_has_length_zero() -> None:
    assert parse_request(_request(first="GET / HTTP/1.1")).content_length == 0


def test_close_is_heard() -> None:
    assert not parse_request(_request("Connection: Close")).keep_alive
    assert parse_request(_request("Connection: keep-alive")).keep_alive


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(_request("Content-Length: 3", "Content-Length: 3"), 400, id="a length twice"),
        pytest.param(_request("Content-Length: 3", "Content-Length: 4"), 400, id="two lengths"),
        pytest.param(_request("Content-Length: 3, 3"), 400, id="a list of lengths"),
        pytest.param(_request("Content-Length: +3"), 400, id="a signed length"),
        pytest.param(_request("Content-Length: -3"), 400, id="a negative length"),
        pytest.param(_request("Content-Length: 0x3"), 400, id="a hexadecimal length"),
        pytest.param(_request("Content-Length: 1_0"), 400, id="a length as Python writes it"),
        pytest.param(_request("Content-Length: 99999999999999999999"), 400, id="an endless length"),
        pytest.param(_request("Content-Length:"), 400, id="no length"),
        pytest.param(_request("Transfer-Encoding: chunked"), 501, id="chunked"),
        pytest.param(_request("Transfer-Encoding: identity"), 400, id="identity"),
        pytest.param(_request("Content-Length: 3", "Transfer-Encoding: chunked"), 400, id="length and chunked"),
        pytest.param(_request("Transfer-Encoding : chunked"), 400, id="a space before the colon"),
        pytest.param(_request("X: a", " Transfer-Encoding: chunked"), 400, id="a folded line"),
        pytest.param(_request("X: a\rY: b"), 400, id="a bare CR"),
        pytest.param(_request("X: a\nY: b"), 400, id="a bare LF"),
        pytest.param(_request("X: a\n\nGET / HTTP/1.1"), 400, id="an early end by bare LF"),
        pytest.param(_request("X: a\x00b"), 400, id="a NUL"),
        pytest.param(_request("X: \xe9"), 400, id="not ASCII"),
        pytest.param(_request("X\xe9: 1"), 400, id="a name not ASCII"),
        pytest.param(_request(": a"), 400, id="no name"),
        pytest.param(_request("X a"), 400, id="no colon"),
        pytest.param(_request("Host: y"), 400, id="two hosts"),
        pytest.param(_request(host=False), 400, id="no host"),
        pytest.param(_request("Expect: 100-continue"), 417, id="expect"),
        pytest.param(_request("Connection: upgrade", "Upgrade: h2c"), 400, id="upgrade"),
        pytest.param(_request(first="CONNECT a:1 HTTP/1.1"), 400, id="connect"),
        pytest.param(_request(first="PRI * HTTP/2.0"), 400, id="HTTP/2"),
        pytest.param(_request(first="GET / HTTP/1.0"), 505, id="HTTP/1.0"),
        pytest.param(_request(first="GET / HTTP/9.9"), 400, id="HTTP/9.9"),
        pytest.param(_request(first="GET /"), 505, id="HTTP/0.9"),
        pytest.param(_request(first="GET http://x/ HTTP/1.1"), 400, id="absolute form"),
        pytest.param(_request(first="OPTIONS * HTTP/1.1"), 400, id="asterisk form"),
        pytest.param(_request(first="GET /a b HTTP/1.1"), 400, id="a space in the target"),
        pytest.param(_request(first="GET /a#b HTTP/1.1"), 400, id="a fragment"),
        pytest.param(_request(first="GET /\\..\\ HTTP/1.1"), 400, id="backslashes"),
        pytest.param(_request(first='GET /"<> HTTP/1.1'), 400, id="odd characters"),
        pytest.param(_request(first="get / HTTP/1.1"), 400, id="a lower-case method"),
        pytest.param(_request(first="STEAL / HTTP/1.1"), 400, id="an unknown method"),
        pytest.param(b"\r\n\r\n", 400, id="nothing"),
        pytest.param(b"", 400, id="not even that"),
        pytest.param(_request()[:-2], 400, id="half a head"),
        pytest.param(_request(first="GET / HTTP/1.1") * 2, 400, id="two heads"),
        pytest.param(_request("Content-Length: 1") + b"a", 400, id="a head and a body"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, id="TLS in TLS"),
    ],
)
def test_what_could_be_read_two_ways_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadHead) as raised:
        parse_request(head)
    assert raised.value.status == status


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    for head in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n" + data + b"\r\n\r\n"):
        with contextlib.suppress(BadHead):
            parsed = parse_request(head)
            assert head.endswith(b"\r\n\r\n")
            assert head.count(b"\r\n\r\n") == 1
            assert parsed.path.startswith("/")


_FRAGMENTS = st.sampled_from(
    [
        *("GET", "PUT", "HEAD", " ", "/", "/a/b", "?q=1", "#", "HTTP/1.1", "HTTP/1.0", "\r\n", "\n", "\r", ":", "\t"),
        *(
            "Host",
            "host: x\r\n",
            "Content-Length: 3\r\n",
            "content-length:",
            "1",
            "3",
            "Transfer-Encoding: chunked\r\n",
        ),
        *(
            "Connection: close\r\n",
            "Connection: upgrade\r\n",
            "Upgrade: x\r\n",
            "Expect: x\r\n",
            "\x00",
            "é",
            "%00",
            ",",
        ),
    ]
)


@given(st.lists(_FRAGMENTS, max_size=20))
def test_fragments_of_heads_are_a_request_or_refused(fragments: list[str]) -> None:
    head = "".join(fragments).encode("latin-1") + b"\r\n\r\n"
    for parse in (parse_request, parse_response):
        with contextlib.suppress(BadHead):
            parse(head)


@given(st.binary(min_size=1, max_size=3), st.integers(0, 1000), st.booleans())
def test_a_mutated_head_never_has_another_length_unseen(noise: bytes, position: int, insert: bool) -> None:
    """Wherever bytes are changed, the head is refused or its length is what its only content-length line says."""
    head = bytearray(_request("Content-Length: 17", "X: y"))
    position %= len(head)
    head[position : position + (0 if insert else len(noise))] = noise
    try:
        parsed = parse_request(bytes(head))
    except BadHead:
        return
    lines = [line.lower() for line in bytes(head).split(b"\r\n")]
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    assert lengths in ([], [parsed.content_length])
    assert lengths or parsed.content_length == 0


def test_a_response_is_read_as_it_was_written() -> None:
    head = response_head(206, length=5, headers=(("X-Y", "z"),), keep_alive=False)
    assert head == b"HTTP/1.1 206 Partial Content\r\ncontent-length: 5\r\nconnection: close\r\nx-y: z\r\n\r\n"
    parsed = parse_response(head)
    assert (parsed.status, parsed.content_length, parsed.keep_alive) == (206, 5, False)
    assert parse_response(response_head(204, length=None)).content_length is None


def test_a_request_is_read_as_it_was_written() -> None:
    head = request_head("PUT", "/a/b?c=d", "node", length=0, headers=(("Range", "bytes=0-1"),))
    parsed = parse_request(head)
    assert (parsed.method, parsed.path, parsed.query) == ("PUT", "/a/b", "c=d")
    assert parsed.headers == {"host": "node", "content-length": "0", "range": "bytes=0-1"}
    assert b"content-length" not in request_head("GET", "/", "node")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 999 X\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 1\n\n\r\n\r\n",
    ],
)
def test_answers_that_could_be_read_two_ways_are_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_response(head)


ANSWER = (
    b"HTTP/1.1 206 Partial Content\r\ncontent-length: 65552\r\ncontent-type: application/octet-stream\r\n"
    b"content-range: bytes 0-65551/1048832\r\n\r\n"
)


REQUEST = (
    b"GET /volumes/0123456789abcdef/chunks/ab HTTP/1.1\r\nhost: 5\r\ncontent-length: 12\r\nrange: bytes=0-65551\r\n\r\n"
)


def test_what_we_write_needs_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "httptools", None)
    assert parse_response(ANSWER).headers["content-range"] == "bytes 0-65551/1048832"
    assert parse_response(response_head(204, length=None)).headers == {}
    request = parse_request(REQUEST)
    assert (request.method, request.path, request.query) == ("GET", "/volumes/0123456789abcdef/chunks/ab", "")
    assert request.headers == {"host": "5", "content-length": "12", "range": "bytes=0-65551"}
    assert (request.content_length, request.keep_alive) == (12, True)


NOISE = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\t",
        b"\0",
        b"\xff",
        b"200",
        b"101",
        b"199",
        b"99",
        b"600",
        b"2000",
        b"PUT",
        b"CONNECT",
        b"?a=b",
        b"%2f",
        b"*",
        b"HTTP/1.0",
        b"Connection: close\r\n",
        b"connection: close\r\n",
        b"upgrade: p2pfs-raw\r\n",
        b"transfer-encoding: chunked\r\n",
        b"content-length: 1\r\n",
        b"content-length: -1\r\n",
        b"expect: 100-continue\r\n",
        b"host: 5\r\n",
        b"x:\r\n",
        b"x: \r\n",
        b"x: y \r\n",
        b" folded\r\n",
        b"\r\n\r\n",
    ]
)


@settings(max_examples=500, deadline=None)
@given(NOISE, st.integers(0, len(ANSWER)), st.booleans())
@example(b"", 0, True)
def test_an_answer_that_needs_no_judge_is_judged_the_same(noise: bytes, position: int, insert: bool) -> None:
    _same_without_a_judge(parse_response, ANSWER, noise, position, insert)


@settings(max_examples=1000, deadline=None)
@given(NOISE, st.integers(0, len(REQUEST)), st.booleans())
@example(b"", 0, True)
@example(b"expect: 100-continue\r\n", REQUEST.index(b"host"), True)
@example(b"x: y\r\n", REQUEST.index(b"host"), False)
def test_a_request_that_needs_no_judge_is_judged_the_same(noise: bytes, position: int, insert: bool) -> None:
    _same_without_a_judge(parse_request, REQUEST, noise, position, insert)


def _same_without_a_judge(
    parse: Callable[[bytes], object], whole: bytes, noise: bytes, position: int, insert: bool
) -> None:
    head = bytearray(whole)
    head[position : position + (0 if insert else len(noise))] = noise
    with pytest.MonkeyPatch.context() as patch:
        quick = _read(parse, bytes(head))
        patch.setattr(heads, "_plain_headers", lambda _head: None)
        slow = _read(parse, bytes(head))
    assert quick == slow


def _read(parse: Callable[[bytes], object], head: bytes) -> object:
    try:
        return parse(head)
    except BadHead as error:
        return error.status


@pytest.mark.parametrize(
    ("method", "path", "header"),
    [
        ("GET", "/a b", ("x", "y")),
        ("GET", "/a\r\nx: y", ("x", "y")),
        ("GET", "a", ("x", "y")),
        ("G T", "/", ("x", "y")),
        ("GET", "/", ("x", "a\r\nb: c")),
        ("GET", "/", ("x y", "a")),
        ("GET", "/", ("x", "é")),
    ],
)
def test_heads_that_would_break_are_not_written(method: str, path: str, header: tuple[str, str]) -> None:
    with pytest.raises(Misuse):
        request_head(method, path, "node", headers=(header,))
