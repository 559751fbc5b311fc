"""Backups of the coordinator's database as they travel and lie on peers: parts in a row, each sealed and signed.

A generation is an image of the database followed by what was changed since. Its parts are numbered from 0 without a
gap, and each names the one before by its hash; what a part holds only the recovery kit opens (`format.backups`).
"""

from typing import Final

import msgspec

from p2pfs.types import MIB

PART_VERSION: Final = 1
MAX_PART_BYTES: Final = 2 * MIB
"""Most bytes of an encoded part."""
MAX_PARTS: Final = 1 << 31
IMAGE: Final = "image"
LOG: Final = "log"

_BEGUN_BITS: Final = 48
_MAX_INCARNATION: Final = (1 << 15) - 1


class Part(msgspec.Struct, frozen=True):
    """`PUT` and `GET /backups/{generation}/{number}`. Everything but `sealed` is readable by who keeps it."""

    version: int
    pool: str
    generation: int  # see `generation`
    number: int
    kind: str  # IMAGE: pages of the database as it was; LOG: newer ones, whichever part comes first
    is_state: bool  # with this part and all before it the database can be restored
    state_s: float  # UTC; what was committed before is in, once `is_state`
    previous: bytes  # BLAKE3 of the encoded part before; zeros for number 0
    ephemeral: bytes  # X25519 public key, raw
    sealed: bytes
    signature: bytes  # Ed25519 by the coordinator


class Content(msgspec.Struct, frozen=True):
    """What a part seals, compressed with zlib."""

    page_bytes: int
    database_pages: int
    pages: list[tuple[int, bytes]]  # by number, from 1
    files: dict[str, bytes] = {}  # in number 0 alone: what the coordinator's home has beside the database


class Held(msgspec.Struct, frozen=True):
    """A generation as a peer has it: `parts` from number 0 on. `last_state` -1: it cannot be restored yet."""

    generation: int
    parts: int
    last_state: int
    bytes: int


class Superseded(msgspec.Struct, frozen=True):
    """`POST /backups/superseded`: of each generation named, only the first parts are to be kept; 0: nothing. The
    answer is what is held then: the newest two that can be restored always stay whole."""

    keep: list[tuple[int, int]]  # generation, parts


class Confirm(msgspec.Struct, frozen=True):
    """`POST /confirmations` by an admin: "backup" (it may be so small), "clock" (it is right), "orphans" (may go)."""

    what: str


def generation(incarnation: int, begun_s: float, *, after: int = 0) -> int:
    """The number of a new generation: later ones are higher, those after a restore higher than all before it. At least
    one more than `after`, the last one known, whatever the clock says."""
    begun_ms = min(max(int(begun_s * 1000), 0), (1 << _BEGUN_BITS) - 1)
    return max((min(incarnation, _MAX_INCARNATION) << _BEGUN_BITS) | begun_ms, after + 1)


def incarnation_of(number: int) -> int:
    return number >> _BEGUN_BITS


def begun_s(number: int) -> float:
    """UTC when the generation was begun, by the coordinator's clock then."""
    return (number & ((1 << _BEGUN_BITS) - 1)) / 1000


def generation_name(number: int) -> str:
    """Sixteen hexadecimal digits, as in addresses and names of directories."""
    return f"{number:016x}"
