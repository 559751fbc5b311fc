"""What comes in over a control socket is an object with numbers that fit, or nothing; connections fail alone."""

from pathlib import Path

import pytest
import trio
import trio.testing
from plugins.checklogs import Claims

from p2pfs.runtime.requests import answer_one, parse_request, read_request

pytestmark = pytest.mark.l0

ODD = [
    b"",
    b"[]",
    b"\xff",
    b"null",
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"inode": 1%s}' % (b"0" * 30),
    b'{"inode": -1%s}' % (b"0" * 30),
    b'{"inode": 1%s}' % (b"0" * 5000),
    b'{"inode": 1e400}',
    b'{"inode": 1e300}',
    b'{"inode": NaN}',
    b'{"inode": -Infinity}',
]


@pytest.mark.parametrize("data", ODD, ids=lambda data: data[:20].decode("latin-1"))
def test_what_is_no_request_is_nothing(data: bytes) -> None:
    assert parse_request(data) == {}


def test_what_is_one_is_taken() -> None:
    assert parse_request(b'{"op": "x", "n": -9223372036854775807, "at": 1.5}') == {
        "op": "x",
        "n": -9223372036854775807,
        "at": 1.5,
    }


async def test_a_line_is_bounded() -> None:
    end, other = trio.testing.memory_stream_pair()
    await end.send_all(b'{"a": "' + b"x" * 100)
    with trio.fail_after(1):
        assert await read_request(other, 64) == {}


async def test_a_failure_and_who_hangs_up_end_one_connection_and_nothing_else(
    tmp_path: Path, claim_logs: Claims
) -> None:
    path = tmp_path / "socket"
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen(8)

    async def answer(stream: trio.SocketStream) -> None:
        asked = await read_request(stream, 64)
        if asked["op"] == "fail":
            raise ArithmeticError
        if asked["op"] == "fail in a task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_nothing)
        if asked["op"] == "hang up":
            raise ExceptionGroup("of a nursery", [trio.BrokenResourceError()])
        await stream.send_all(b"done")

    async def answer_nothing() -> None:
        raise OverflowError

    async def ask(operation: str) -> bytes:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"op": "%s"}\n' % operation.encode())
            return b"".join([part async for part in stream])

    claim_logs("a command's request failed unexpectedly", count=2)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            serve = lambda stream: answer_one(stream, answer)  # noqa: E731
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            assert [await ask(operation) for operation in ("fail", "fail in a task", "hang up")] == [b"", b"", b""]
            assert await ask("live") == b"done"
            nursery.cancel_scope.cancel()
