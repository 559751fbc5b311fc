"""A small value that a peer keeps in its home: a hash and JSON, a line each, so that a damaged file is known for one.

Blocking: call it at start-up or in a thread.
"""

from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from blake3 import blake3

from p2pfs.errors import Corrupt
from p2pfs.runtime.files import write_durably

T = TypeVar("T")


class Kept(Generic[T]):
    """The file at `path`, with a value of `kind`."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder(kind)

    def load(self) -> T | None:
        """What was saved last; None before the first time.

        Raises:
            Corrupt: The file cannot be read, or is not what was saved.
        """
        try:
            digest, _, data = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Corrupt(f"cannot read {self.path}: {error.strerror}") from None
        if digest != _digest(data):
            raise Corrupt(f"{self.path} is damaged")
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError:
            raise Corrupt(f"{self.path} is damaged") from None

    def save(self, value: T) -> None:
        """Durability: on return it is on stable storage.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        data = msgspec.json.encode(value)
        write_durably(self.path, _digest(data) + b"\n" + data, 0o600)


def _digest(data: bytes) -> bytes:
    return blake3(data).hexdigest().encode()
