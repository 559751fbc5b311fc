"""What the other end says of a failure is shown to people: it must be one harmless line."""

import pytest

from p2pfs.errors import Denied, Unavailable
from p2pfs.wire import codec
from p2pfs.wire.failures import Failure, decode_failure

pytestmark = pytest.mark.l0


@pytest.mark.parametrize("letter", ["\n", "\r", "\x1b", "\x07", "\x9b", "\u2028", "\u202e", "\0"])
def test_nothing_a_terminal_obeys_is_passed_on(letter: str) -> None:
    body = codec.encode(Failure("Denied", f"no{letter}2026 INFO all is well"))
    error = decode_failure(403, body)
    assert isinstance(error, Denied)
    assert str(error).isprintable()
    assert "all is well" in str(error)


def test_a_message_is_short() -> None:
    error = decode_failure(503, codec.encode(Failure("Unavailable", "x" * 100_000)))
    assert isinstance(error, Unavailable)
    assert str(error) == "x" * 500


def test_a_sentence_is_passed_on_as_it_is() -> None:
    text = "“demo” has too few peers – 2 are wanted"
    assert str(decode_failure(503, codec.encode(Failure("Unavailable", text)))) == text
