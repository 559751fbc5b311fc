"""Invites: everything a new machine must know to join, as one line of text.

Whoever holds an unused invite can join once; it is to be handed over like a password. This module only encodes: the
coordinator makes the secret and keeps its hash, `p2pfs join` reads it and dials.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from p2pfs.errors import Invalid
from p2pfs.types import NodeId, PoolId

PREFIX: Final = "p2pfs1-"
SECRET_BYTES: Final = 16
CA_KEY_BYTES: Final = 33
_VERSION: Final = 1
_CHECKSUM_BYTES: Final = 4
_MOST_TEXT: Final = 8192
_TORN: Final = "the invite is damaged or incomplete: copy the whole line, from p2pfs1- to its end"


@dataclass(frozen=True, slots=True)
class Invite:
    """What `p2pfs invite` hands over."""

    pool: PoolId
    addresses: tuple[str, ...]  # of the coordinator, "host:port", best first
    ca_key: bytes  # compressed P-256 public key of the pool's certificate authority
    coordinator: NodeId
    secret: bytes = field(repr=False)
    expires_s: int  # UTC


def encode_invite(invite: Invite) -> str:
    """The invite as one line.

    Raises:
        Invalid: A field does not fit.
    """
    pool, coordinator = bytes.fromhex(invite.pool), bytes.fromhex(invite.coordinator)
    addresses = [address.encode() for address in invite.addresses]
    sizes = (len(pool), len(coordinator), len(invite.ca_key), len(invite.secret))
    if sizes != (16, 16, CA_KEY_BYTES, SECRET_BYTES) or not 1 <= len(addresses) <= 255:
        raise Invalid("an invite needs a pool, a coordinator with an address, a CA key and a secret")
    if not all(1 <= len(address) <= 255 for address in addresses):
        raise Invalid("an address in an invite has 1 to 255 bytes")
    body = b"".join(
        (
            bytes((_VERSION,)),
            pool,
            coordinator,
            invite.ca_key,
            invite.secret,
            invite.expires_s.to_bytes(8, "big"),
            bytes((len(addresses),)),
            *(bytes((len(address),)) + address for address in addresses),
        )
    )
    return PREFIX + _letters(body + _checksum(body))


def decode_invite(text: str) -> Invite:
    """The invite in `text`; white space and line breaks do not matter.

    Raises:
        Invalid: It is none, with a sentence that says what to do.
    """
    squeezed = "".join(text[:_MOST_TEXT].split())
    if not squeezed.startswith("p2pfs"):
        raise Invalid("this is not an invite: it starts with p2pfs1- and is printed by `p2pfs invite`")
    if not squeezed.startswith(PREFIX):
        raise Invalid("this invite was made by another version of p2pfs: bring both machines to the same version")
    letters = squeezed.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(_TORN) from None
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    # One invite has one text: bits of the last letter that mean nothing are not let through either.
    if checksum != _checksum(body) or body[:1] != bytes((_VERSION,)) or _letters(raw) != letters:
        raise Invalid(_TORN)
    try:
        return _parse(body)
    except ValueError:
        raise Invalid(_TORN) from None


def _parse(body: bytes) -> Invite:
    at = 1

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        if at > len(body):
            raise ValueError("short")
        return body[at - count : at]

    pool, coordinator = PoolId(take(16).hex()), NodeId(take(16).hex())
    ca_key, secret = take(CA_KEY_BYTES), take(SECRET_BYTES)
    expires_s = int.from_bytes(take(8), "big")
    addresses = tuple(take(take(1)[0]).decode() for _ in range(take(1)[0]))
    if at != len(body) or not addresses:
        raise ValueError("long")
    return Invite(pool, addresses, ca_key, coordinator, secret, expires_s)


def _letters(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return blake3(b"p2pfs invite 1\0" + body).digest(_CHECKSUM_BYTES)
