"""The newest list of revocations, kept in the home: a peer that starts again refuses whom it refused before, even if
the coordinator does not answer for days.

A hash and the list as JSON, a line each, so that a damaged file is known for one. Blocking. Called by `daemon`.
"""

from pathlib import Path

import msgspec
from blake3 import blake3

from p2pfs.errors import Corrupt
from p2pfs.runtime.files import write_durably
from p2pfs.wire.membership import Revocations


class RevocationFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Revocations:
        """What was saved last; an empty list before the first time.

        Raises:
            Corrupt: The file cannot be read, or is not what was saved.
        """
        try:
            digest, _, data = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return Revocations(0, [], [])
        except OSError as error:
            raise Corrupt(f"cannot read {self.path}: {error.strerror}") from None
        if digest != _digest(data):
            raise Corrupt(f"{self.path} is damaged")
        try:
            return msgspec.json.decode(data, type=Revocations)
        except msgspec.DecodeError:
            raise Corrupt(f"{self.path} is damaged") from None

    def save(self, revocations: Revocations) -> None:
        """Durability: on return it is on stable storage.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        data = msgspec.json.encode(revocations)
        write_durably(self.path, _digest(data) + b"\n" + data, 0o600)


def _digest(data: bytes) -> bytes:
    return blake3(data).hexdigest().encode()
