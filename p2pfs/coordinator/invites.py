"""What may be invited and what an invite becomes: checks and values, no database.

An invite's secret is known to nobody but its holder: the pool keeps a hash. Called by `membership`.
"""

import os
import re
from typing import Final

from blake3 import blake3

from p2pfs.errors import Denied, Invalid
from p2pfs.format.invites import SECRET_BYTES
from p2pfs.meta.members import Invite
from p2pfs.types import NodeId, Role
from p2pfs.wire.membership import InviteRequest

MAX_LIFETIME_S: Final = 30 * 86400
KEEP_EXPIRED_S: Final = 30 * 86400
"""How long a spent invite still gets a precise refusal."""
_GIVEN: Final = frozenset({Role.PEER, Role.CLIENT, Role.ADMIN})
_WORD: Final = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_NAME: Final = re.compile(rf"({_WORD})@({_WORD})")
_ZONE: Final = re.compile(rf"(?:{_WORD})?")
_HASH_LABEL: Final = b"p2pfs invite secret 1\0"


def new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def secret_hash(secret: bytes) -> bytes:
    """What the pool keeps. A plain hash: the secret is 128 random bits, nothing can be guessed."""
    return blake3(_HASH_LABEL + secret).digest()


def parse_name(name: str) -> tuple[str, str]:
    """(owner, machine) of `owner@machine`.

    Raises:
        Invalid: It is none.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise Invalid(
            f"“{name}” is no node name: write owner@machine in small letters, digits, dots and dashes, as anna@laptop"
        )
    return found[1], found[2]


def parse_zone(zone: str) -> str:
    """Raises Invalid."""
    if _ZONE.fullmatch(zone) is None:
        raise Invalid(f"“{zone}” is no zone: use small letters, digits, dots and dashes")
    return zone


def parse_roles(roles: list[str]) -> frozenset[Role]:
    """The roles an invite may give.

    Raises:
        Invalid: None, unknown ones, or the coordinator's.
    """
    given = frozenset(role for role in _GIVEN if role.value in roles)
    if not roles or len(given) != len(set(roles)):
        raise Invalid(f"“{','.join(roles)}” are no roles to invite with: choose from client, peer, admin")
    return given


def new_invite(request: InviteRequest, secret: bytes, *, invited_by: NodeId, now_s: float) -> Invite:
    """The row of a new invite.

    Raises:
        Invalid: The request cannot be meant.
    """
    owner, _ = parse_name(request.name)
    if not 0 < request.lifetime_s <= MAX_LIFETIME_S:
        raise Invalid(f"an invite lasts at least a second and at most {MAX_LIFETIME_S // 86400} days")
    if request.capacity < 0:
        raise Invalid("a capacity cannot be less than nothing")
    return Invite(
        secret_hash(secret),
        request.name,
        owner,
        parse_zone(request.zone),
        parse_roles(request.roles),
        request.capacity,
        created_s=now_s,
        expires_s=now_s + request.lifetime_s,
        invited_by=invited_by,
    )


def check_use(invite: Invite, key: bytes, now_s: float) -> None:
    """Whether the holder of `key` may use an invite. Again with the key of the first use is fine: the answer may have
    been lost on its way.

    Raises:
        Denied: It is used by somebody else, or expired.
    """
    if invite.key_hash is not None:
        if invite.key_hash != key_hash(key):
            raise Denied("this invite was used already: ask for a new one")
    elif now_s >= invite.expires_s:
        raise Denied("this invite has expired: ask for a new one")


def key_hash(key: bytes) -> bytes:
    """How an invite remembers the public key it is bound to."""
    return blake3(b"p2pfs invite key 1\0" + key).digest()
