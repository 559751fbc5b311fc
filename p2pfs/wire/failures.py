"""Errors ⇄ HTTP: the only place that knows HTTP statuses.

A refusal is a status of 400 or more with a `Failure` body; the code names the class in `p2pfs.errors`, so that the
caller raises what the server raised. Unknown codes of a newer version fall back to the status.
"""

import msgspec

from p2pfs import errors
from p2pfs.types import Buffer
from p2pfs.wire import codec

OK = 200
PARTIAL_CONTENT = 206
NO_CERTIFICATE = 401
INTERNAL = 500
_MOST_SHOWN = 500

_STATUS: dict[type[errors.PoolError], int] = {
    errors.NotFound: 404,
    errors.Exists: 409,
    errors.Busy: 409,
    errors.NotDirectory: 409,
    errors.IsDirectory: 409,
    errors.NotEmpty: 409,
    errors.Loop: 409,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.NameTooLong: 413,
    errors.TooManyLinks: 413,
    errors.AttributeTooLarge: 413,
    errors.NoAttribute: 404,
    errors.Unsupported: 422,
    errors.Denied: 403,
    errors.Invalid: 422,
    errors.NoSpace: 507,
    errors.OverQuota: 507,
    errors.Gone: 410,
    errors.CoordinatorAway: 503,
    errors.Recalling: 503,
    errors.Unavailable: 503,
    errors.Corrupt: 500,
    errors.Fenced: 412,
    errors.Overruled: 412,
    errors.Misuse: 400,
}
_BY_CODE = {kind.__name__: kind for kind in _STATUS}
_BY_STATUS: dict[int, type[errors.PoolError]] = {
    400: errors.Misuse,
    401: errors.Denied,
    403: errors.Denied,
    404: errors.NotFound,
    410: errors.Gone,
    412: errors.Fenced,
    413: errors.TooLarge,
    507: errors.NoSpace,
}


class Failure(msgspec.Struct, frozen=True):
    """The body of every refusal."""

    code: str
    message: str


def status_of(error: errors.PoolError) -> int:
    """The HTTP status of an error: that of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        status = _STATUS.get(kind)
        if status is not None:
            return status
    return INTERNAL


def encode_failure(error: errors.PoolError) -> tuple[int, bytes]:
    """(status, body) that tells the caller `error`."""
    code = next((kind.__name__ for kind in type(error).__mro__ if kind in _STATUS), "PoolError")
    return status_of(error), codec.encode(Failure(code, str(error)))


def decode_failure(status: int, body: Buffer) -> errors.PoolError:
    """The error a refusal stands for; never raises, whatever the body holds."""
    try:
        failure = codec.decode(body, Failure)
    except errors.Misuse:
        failure = Failure("", "")
    kind = _BY_CODE.get(failure.code) or _BY_STATUS.get(status, errors.Unavailable)
    return kind(shown(failure.message) or f"the other end answered with status {status}")


def shown(message: str) -> str:
    """What the other end says as one line that is safe on a terminal and in a log: it may be anybody."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in message[:_MOST_SHOWN])
