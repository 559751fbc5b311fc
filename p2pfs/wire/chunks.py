"""Chunk traffic on the wire: receipts and reservation tokens, with the exact bytes they authenticate.

`PUT /volumes/{volume}/chunks/{id}` carries a token in the header `P2pfs-Reservation` (hexadecimal of its msgpack) and
answers with a Receipt; so does `POST …/fetch`, which names peers to take the chunk from. `GET` takes a `Range` over the
sealed bytes; the bodies of PUT and GET are the sealed chunk itself.
"""

import re
from typing import Final

import msgspec

from p2pfs.errors import Misuse
from p2pfs.types import ChunkId, PeerNumber, PoolId, VolumeId

RESERVATION_HEADER: Final = "P2pfs-Reservation"
_NODE: Final = re.compile(r"[0-9a-f]{32}")


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """A peer's proof that it holds a chunk on stable storage; only the coordinator can check `mac`."""

    peer: int
    put_seq: int  # rises with every PUT on that peer; a delete names the one it means
    mac: bytes  # 16 bytes: BLAKE3 keyed by the peer's receipt key over receipt_message()


class Fetch(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/chunks/{id}/fetch` → Receipt: take the chunk from a fellow peer, as if it had been PUT by
    the caller, under the token in the same header. Raises NotFound when no source gave it."""

    size: int  # sealed bytes
    sources: list[int]  # peer numbers, 1 to types.MOST_SOURCES, the first asked first


class Token(msgspec.Struct, frozen=True, array_like=True):
    """Room promised to `sender` on one peer until `expires_s`; signed by the coordinator (Ed25519)."""

    id: int  # 63 bit; a peer counts the bytes stored under it
    sender: str  # node id
    volume: int
    peer: int
    room_bytes: int  # sealed bytes
    expires_s: int  # UTC
    signature: bytes = b""


def receipt_message(pool: PoolId, peer: PeerNumber, volume: VolumeId, chunk: ChunkId, size: int, put_seq: int) -> bytes:
    """The bytes a receipt's MAC covers: label, then every field at a fixed width (docs/protocol.md)."""
    return b"".join(
        (
            b"p2pfs receipt 1\0",
            bytes.fromhex(pool),
            peer.to_bytes(4, "big"),
            volume.to_bytes(8, "big"),
            chunk,
            size.to_bytes(4, "big"),
            put_seq.to_bytes(8, "big"),
        )
    )


def token_message(pool: PoolId, token: Token) -> bytes:
    """The bytes a token's signature covers. Raises Misuse unless its sender is written in the one way there is:
    `bytes.fromhex` alone would read several as the same."""
    if not _NODE.fullmatch(token.sender):
        raise Misuse("a reservation names its sender by 32 lower-case hexadecimal digits")
    return b"".join(
        (
            b"p2pfs reservation 1\0",
            bytes.fromhex(pool),
            token.id.to_bytes(8, "big"),
            bytes.fromhex(token.sender),
            token.volume.to_bytes(8, "big"),
            token.peer.to_bytes(4, "big"),
            token.room_bytes.to_bytes(8, "big"),
            token.expires_s.to_bytes(8, "big"),
        )
    )
