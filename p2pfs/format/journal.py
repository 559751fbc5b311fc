"""Journal files of a mount: a header, then frames, each sealed; see docs/format.md.

The key is the file's own, so that the frame's place in the file can be the nonce: frames cannot be exchanged, repeated
or left out but at the end. A file is never written again once it was closed. What frames hold is `vfs.journal`'s.
"""

import enum
import secrets
from collections.abc import Sequence
from struct import Struct
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import PREFIX_BYTES
from p2pfs.types import Buffer, VolumeId

MAGIC: Final = b"p2pfsjnl"
SALT_BYTES: Final = 32
_LENGTH: Final = Struct(">I")  # of the sealed bytes that follow
_VOLUME: Final = Struct(">Q")
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class Ending(enum.Enum):
    """How a file ends."""

    WHOLE = enum.auto()
    TORN = (
        enum.auto()
    )  # within a frame, as a crash leaves the last file; a frame's length that was changed looks so too
    DAMAGED = enum.auto()  # a frame does not authenticate


class Frames:
    """Seals the frames of one new file, in order; `header` comes first."""

    def __init__(self, keys: VolumeKeys, volume: VolumeId, *, salt: bytes | None = None) -> None:
        """`salt` is given by tests only: two files with one salt would share their nonces."""
        self.header = MAGIC + keys.prefix + (salt or secrets.token_bytes(SALT_BYTES))
        self._cipher = _cipher(keys, volume, self.header)
        self._count = 0

    def seal(self, plain: Buffer) -> bytes:
        """The next frame."""
        sealed = self._cipher.encrypt(_nonce(self._count), plain, None)
        self._count += 1
        return _LENGTH.pack(len(sealed)) + sealed


def open_frames(keys: VolumeKeys, volume: VolumeId, data: bytes) -> tuple[list[bytes], Ending]:
    """The plain frames up to the first that is not whole, and how the file ends. A file of another volume is damaged
    from its first frame on.

    Raises:
        Corrupt: This is no journal, or of a version or key epoch this program does not know.
    """
    start = MAGIC + keys.prefix
    at = len(start) + SALT_BYTES
    if (len(data) < at and data[: len(start)] == start[: len(data)]) or not any(data):
        return [], Ending.TORN
    if data[: len(start)] != start:
        raise Corrupt("this is no journal that this program and this key can read")
    cipher = _cipher(keys, volume, data[:at])
    view, frames = memoryview(data), list[bytes]()
    while at < len(data):
        first = at + _LENGTH.size
        if first > len(data) or (not any(view[at:first]) and not any(view[first:])):  # some file systems leave zeros
            return frames, Ending.TORN
        (length,) = _LENGTH.unpack_from(data, at)
        if first + length > len(data):
            return frames, Ending.TORN
        try:
            frames.append(cipher.decrypt(_nonce(len(frames)), view[first : first + length], None))
        except (InvalidTag, ValueError):
            return frames, Ending.DAMAGED
        at = first + length
    return frames, Ending.WHOLE


def whole_bytes(frames: Sequence[bytes]) -> int:
    """How much of a file the plain frames that were read of it take; 0 if there are none."""
    if not frames:
        return 0
    header = len(MAGIC) + PREFIX_BYTES + SALT_BYTES
    return header + sum(_LENGTH.size + len(frame) + _TAG_BYTES for frame in frames)


def _cipher(keys: VolumeKeys, volume: VolumeId, header: bytes) -> AESGCM:
    return AESGCM(blake3(header + _VOLUME.pack(volume), key=keys.journal).digest())


def _nonce(count: int) -> bytes:
    return count.to_bytes(_NONCE_BYTES, "big")
