"""Which words of a volume mounts make searchable, vouched for by its key: docs/format.md.

The coordinator keeps a volume's settings, but these two decide what mounts show it. So a mount believes them only under
a seal that takes the master key; the counter tells an older seal from a newer one. Called by vfs and cli.
"""

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import VolumeId

_VERSION: Final = 1
_COUNTER_BYTES: Final = 8
SEAL_BYTES: Final = _COUNTER_BYTES + 32
_SEALED: Final = struct.Struct(">BQ??Q")


@dataclass(frozen=True, slots=True)
class Indexing:
    """What is indexed: the words of names, and the beginnings of words. `counter` rises with every change."""

    names: bool = False
    prefixes: bool = False
    counter: int = 0


def seal_indexing(keys: VolumeKeys, volume: VolumeId, indexing: Indexing) -> bytes:
    """The seal that stands beside the settings."""
    fixed = _SEALED.pack(_VERSION, volume, indexing.names, indexing.prefixes, indexing.counter)
    return indexing.counter.to_bytes(_COUNTER_BYTES, "big") + blake3(fixed, key=keys.settings).digest()


def check_indexing(keys: VolumeKeys, volume: VolumeId, *, names: bool, prefixes: bool, seal: bytes) -> Indexing:
    """The settings with the counter they were sealed with.

    Raises:
        Corrupt: Whoever made this seal had not got the volume's key, or meant other settings.
    """
    found = Indexing(names, prefixes, counter_of(seal))
    if not hmac.compare_digest(seal_indexing(keys, volume, found), seal):
        raise Corrupt("the volume's key does not vouch for what is to be indexed")
    return found


def counter_of(seal: bytes) -> int:
    """Not checked; 0 if there is none."""
    return int.from_bytes(seal[:_COUNTER_BYTES], "big")
