"""Answers that may be refusals, one by one: to each question of a list, and to a batch as a session remembers it.

`POST /volumes/{volume}/questions` takes a list of `namespace.Question` and answers with a list of `Answer`, in the same
order. A batch's answer is kept in this form, because a refusal is an answer too and a retry must get the same one.
"""

from typing import Any, TypeVar

import msgspec

from p2pfs.errors import PoolError
from p2pfs.wire import codec, failures

T = TypeVar("T")

NOTHING = msgspec.Raw(b"\xc0")
"""msgpack's nil."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`value` is the encoded message, unless `code` names the refusal (as in failures.Failure)."""

    value: msgspec.Raw = NOTHING
    code: str = ""
    message: str = ""
    status: int = 0  # HTTP status of the refusal, for codes a later version invents


def answer(value: Any) -> Answer:  # noqa: ANN401 - any wire message
    """The answer that holds a message."""
    return Answer(msgspec.Raw(codec.encode(value)))


def refusal(error: PoolError) -> Answer:
    """The answer that raises `error` at the other end."""
    status, body = failures.encode_failure(error)
    failure = codec.decode(body, failures.Failure)
    return Answer(NOTHING, failure.code, failure.message, status)


def value_of(given: Answer) -> bytes:
    """The encoded message. Raises the refusal."""
    if given.code:
        raise failures.decode_failure(given.status, codec.encode(failures.Failure(given.code, given.message)))
    return bytes(given.value)


def unwrap(given: Answer, kind: type[T]) -> T:
    """The message. Raises the refusal, or Misuse when it is no `kind`."""
    return codec.decode(value_of(given), kind)
