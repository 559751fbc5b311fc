"""Whether a caller may use a route: the whole rule in one pure function over the table in `wire.routes`.

Membership of a volume or session needs the database and is asked afterwards, by the server, for routes that want it.
"""

from p2pfs.errors import Denied, NotFound
from p2pfs.net.identity import Identity, Revocations
from p2pfs.wire.routes import Route


class NoCertificate(Denied):
    """Nobody we know asks for something only members get. Answered without a word."""


def admit(route: Route | None, identity: Identity | None, *, now: float, revocations: Revocations) -> Route:
    """`route`, when `identity` may use it. A stranger does not even learn which routes exist.

    Raises:
        NoCertificate: No certificate where one is needed.
        Denied: Revoked, expired, or none of the route's roles.
        NotFound: There is no such route.
    """
    if identity is None:
        if route is None or not route.anonymous:
            raise NoCertificate("show a certificate of the pool")
        return route
    if revocations.revoked(identity):
        raise Denied(
            "this node's certificate was revoked; ask an administrator for a new invite and join with a new P2PFS_HOME"
        )
    if route is not None and route.anonymous:
        return route
    if identity.is_expired(now) and (route is None or not route.lapsed or identity.is_lapsed_for_good(now)):
        raise Denied("this node's certificate has expired; it can renew itself for 90 days, then it must join again")
    if route is None:
        raise NotFound("there is no such route")
    if not identity.roles & route.roles:
        wanted = " or ".join(sorted(route.roles))
        raise Denied(f"this needs a certificate with the role {wanted}")
    return route
