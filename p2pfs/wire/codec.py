"""Bytes ⇄ messages: msgpack between machines, JSON where a person or a tool reads."""

from typing import Any, TypeVar

import msgspec

from p2pfs.errors import Misuse
from p2pfs.types import Buffer

MSGPACK = "application/msgpack"
JSON = "application/json"

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: Any) -> bytes:  # noqa: ANN401 - any msgspec struct or builtin
    """msgpack of a wire struct or of plain lists and values."""
    return _encoder.encode(message)


def decode(data: Buffer, kind: type[T]) -> T:
    """The message in `data`.

    Raises:
        Misuse: It is not one of `kind`.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]  # the decoder of `kind` returns a `kind`
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Misuse(f"this is no {getattr(kind, '__name__', kind)} message: {error}") from None
