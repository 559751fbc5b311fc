"""Work that peers are asked to do: `POST /orders` brings what became of earlier orders and takes new ones.

Both ways may be lost: a result told twice changes nothing twice, and an order that is neither among a report's results
nor among what its peer is `working` on did not arrive. Orders are not kept by anybody across a restart: the coordinator
plans them again from what is committed.
"""

from typing import Final

import msgspec

from p2pfs.wire.chunks import Receipt

MOST_RESULTS: Final = 1000
"""In one report; the rest comes with the next."""
MOST_ROOM: Final = 64
"""Transfers under way at one peer."""
MOST_LISTED: Final = 10_000
"""Entries of one listing."""


class Transfer(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Fetch a chunk from one of `sources`, verify and keep it → Stored."""

    order: int
    volume: int
    chunk: bytes
    size: int  # sealed bytes
    sources: list[int]  # peer numbers, best first


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Move a chunk to the trash unless it was put again since `put_seq` → Deleted."""

    order: int
    volume: int
    chunk: bytes
    put_seq: int


class Audit(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Show the list of block hashes and one block → Audited."""

    order: int
    volume: int
    chunk: bytes
    size: int  # sealed bytes
    block: int


class Digest(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Sum up everything held → Digested."""

    order: int


class List(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """List what is held of one bucket: ids that begin with the byte `bucket` → Listed. `after` continues a listing."""

    order: int
    bucket: int
    after: tuple[int, bytes] | None = None  # (volume, chunk) of the last entry seen


class Steer(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Pause, resume, cancel or start the scrub → Steered."""

    order: int
    action: str  # "pause" | "resume" | "cancel" | "start"


Order = Transfer | Delete | Audit | Digest | List | Steer


class Stored(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The receipt proves it."""

    order: int
    volume: int
    chunk: bytes
    size: int
    receipt: Receipt


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Not here any more, or put again since."""

    order: int
    volume: int
    chunk: bytes
    put_seq: int  # as ordered


class Audited(msgspec.Struct, frozen=True, array_like=True, tag=3):
    order: int
    hashes: list[bytes]
    data: bytes


class Digested(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A digest for each of the 256 buckets (format.inventory)."""

    order: int
    digests: list[bytes]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A chunk held."""

    volume: int
    chunk: bytes
    size: int
    put_seq: int
    stored_s: int  # UTC, by the peer's clock


class Listed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """In the order of (volume, chunk). Without `more` the bucket ends here."""

    order: int
    settled_seq: int  # every PUT up to this one that is not listed is not here
    entries: list[Entry]
    more: bool


class Steered(msgspec.Struct, frozen=True, array_like=True, tag=6):
    order: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """It could not be done; `code` names the class in p2pfs.errors. `sources` have not got what they should have."""

    order: int
    code: str
    message: str
    sources: list[int] = []


Result = Stored | Deleted | Audited | Digested | Listed | Steered | Failed


class Report(msgspec.Struct, frozen=True):
    """`POST /orders` by a peer."""

    results: list[Result]
    working: list[int]  # orders it has and has not ended
    room: int  # transfers it takes beyond those


class Orders(msgspec.Struct, frozen=True):
    """The answer: the results were taken over; do these next."""

    orders: list[Order]
