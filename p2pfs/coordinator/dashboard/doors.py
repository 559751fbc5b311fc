"""Who is logged in: one-time links and sessions, in memory, hashed, bounded and short-lived.

    link asked for by an admin ──▶ used once, or too old, or pushed out by newer ones
                                └▶ session ──▶ logged out, or too old, or pushed out, or its node is no admin any more

A restarted coordinator knows none: whoever was logged in asks for a new link. Called by `application` and `handlers`.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Generic, TypeVar

from p2pfs.net.identity import Identity
from p2pfs.types import NodeId

LINK_S: Final = 300
MAX_LINKS: Final = 16
MAX_SESSIONS: Final = 64
_SECRET_BYTES: Final = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is logged in as an admin's node. `csrf` is in every form of its pages and nowhere else."""

    node: NodeId
    csrf: str
    ends_s: float  # monotonic

    def allows(self, csrf: str) -> bool:
        """Whether a form came from one of its pages."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Kept(Generic[T]):
    """Values found by a secret of which only a hash is kept; the oldest make room for new ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[bytes, T] = {}

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: T) -> str:
        """The new value's secret."""
        while len(self._values) >= self._most:
            del self._values[next(iter(self._values))]
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        self._values[_hashed(secret)] = value
        return secret

    def get(self, secret: str) -> T | None:
        return self._values.get(_hashed(secret))

    def take(self, secret: str) -> T | None:
        return self._values.pop(_hashed(secret), None)


def _hashed(secret: str) -> bytes:
    """A plain hash: the secret is 256 random bits, nothing can be guessed."""
    return sha256(secret.encode()).digest()


class Doors:
    """`is_admin` says whether a node is a member with the role admin, at this moment; `now` is a monotonic clock."""

    def __init__(self, *, session_s: float, is_admin: Callable[[NodeId], bool], now: Callable[[], float]) -> None:
        self.session_s = session_s
        self._is_admin = is_admin
        self._now = now
        self._links: Kept[tuple[NodeId, float]] = Kept(MAX_LINKS)
        self._sessions: Kept[Session] = Kept(MAX_SESSIONS)

    def __repr__(self) -> str:
        return f"Doors({len(self._links)} links, {len(self._sessions)} sessions)"

    def new_link(self, node: NodeId) -> str:
        """The secret of a login link for an admin, good once within LINK_S."""
        return self._links.add((node, self._now() + LINK_S))

    def follow(self, secret: str) -> str | None:
        """The secret of a new session; None: the link is unknown, used, too old, or its node is no admin any more."""
        link = self._links.take(secret)
        if link is None or self._now() >= link[1] or not self._is_admin(link[0]):
            return None
        return self.open(link[0])

    def show(self, identity: Identity, wall_s: float) -> str | None:
        """The secret of a new session for whoever shows this certificate; None: it is none of an admin."""
        if identity.is_expired(wall_s) or not self._is_admin(identity.node):
            return None
        return self.open(identity.node)

    def open(self, node: NodeId) -> str:
        """The secret of a new session."""
        return self._sessions.add(Session(node, secrets.token_urlsafe(_SECRET_BYTES), self._now() + self.session_s))

    def session(self, secret: str) -> Session | None:
        """The session of this secret while it lasts."""
        session = self._sessions.get(secret)
        if session is None:
            return None
        if self._now() >= session.ends_s or not self._is_admin(session.node):
            self._sessions.take(secret)
            return None
        return session

    def close(self, secret: str) -> None:
        """Log out."""
        self._sessions.take(secret)
