"""Who may do what: every route of every server, in one table.

`docs/protocol.md` and the authorisation tests are made from it. A server looks a request up here before any handler
runs; a route that is not here does not exist.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from p2pfs.types import KIB, MIB, NODE_ROLES, SEALED_CHUNK_BYTES, NodeId, Role
from p2pfs.wire.backups import MAX_PART_BYTES

ANYONE: Final = NODE_ROLES
"""Every role of a node; a valid certificate of the pool is still required."""


class Route(msgspec.Struct, frozen=True):
    """One thing a server does.

    `members`: the {volume} must be the caller's owner's, or shared with the caller; the {session} the caller's own.
    `owned`: the volume must be the owner's; for an admin any will do, if `roles` has that role. `anonymous`: no
    certificate is needed. `lapsed`: a certificate expired up to 90 days is accepted. Exactly these weaken the rule
    "valid certificate with one of `roles`". `waits`: the answer comes late on purpose.
    """

    name: str
    method: str
    path: str  # segments in braces are parameters
    roles: frozenset[Role]
    body_limit: int = 64 * KIB
    members: bool = False
    owned: bool = False
    anonymous: bool = False
    lapsed: bool = False
    waits: bool = False


_TRANSFER: Final = frozenset({Role.CLIENT, Role.PEER})
_MOUNT: Final = frozenset({Role.CLIENT})
_ADMIN: Final = frozenset({Role.ADMIN})
_OWNER: Final = _MOUNT | _ADMIN
_PEER: Final = frozenset({Role.PEER})

COORDINATOR_ROUTES: Final = (
    Route("join", "POST", "/join", frozenset(), body_limit=8 * KIB, anonymous=True),
    Route("renew", "POST", "/renew", ANYONE, body_limit=8 * KIB, lapsed=True),
    Route("heartbeat", "POST", "/heartbeat", _PEER, body_limit=MIB),
    Route("map", "GET", "/map", ANYONE),
    Route("roll", "GET", "/roll", _PEER),
    Route("status", "GET", "/status", ANYONE),
    Route("history", "GET", "/history", ANYONE),
    Route("nodes", "GET", "/nodes", ANYONE),
    Route("usefulness", "GET", "/usefulness", ANYONE),
    Route("usefulness_of", "GET", "/nodes/{node}/usefulness", ANYONE),
    Route("invite", "POST", "/invites", _ADMIN),
    Route("revoke", "POST", "/nodes/{node}/revoke", _ADMIN),
    Route("confirm", "POST", "/confirmations", _ADMIN),
    Route("create_volume", "POST", "/volumes", _MOUNT),
    Route("volumes", "GET", "/volumes", _OWNER),
    Route("deleted_volumes", "GET", "/deleted-volumes", _OWNER),
    Route("volume_slots", "GET", "/volumes/{volume}/slots", _MOUNT, members=True),
    Route("change_slots", "POST", "/volumes/{volume}/slots", _MOUNT, members=True, owned=True),
    Route("configure_volume", "POST", "/volumes/{volume}/settings", _OWNER, members=True, owned=True),
    Route("delete_volume", "POST", "/volumes/{volume}/delete", _OWNER, body_limit=KIB, members=True, owned=True),
    Route("undelete_volume", "POST", "/volumes/{volume}/undelete", _OWNER, body_limit=KIB, members=True, owned=True),
    Route("members", "GET", "/volumes/{volume}/members", _OWNER, members=True, owned=True),
    Route("change_members", "POST", "/volumes/{volume}/members", _MOUNT, members=True, owned=True),
    Route("publish_key", "POST", "/keys", _MOUNT, body_limit=KIB),
    Route("node_keys", "GET", "/keys/{fingerprint}", _MOUNT),
    Route("open_session", "POST", "/volumes/{volume}/sessions", _MOUNT, members=True),
    Route("questions", "POST", "/volumes/{volume}/questions", _MOUNT, body_limit=MIB, members=True),
    Route("renew_session", "POST", "/sessions/{session}/renew", _MOUNT, members=True),
    Route("close_session", "DELETE", "/sessions/{session}", _MOUNT, members=True),
    Route("grant_ids", "POST", "/sessions/{session}/ids", _MOUNT, members=True),
    Route("batch", "POST", "/sessions/{session}/batches", _MOUNT, body_limit=16 * MIB, members=True),
    Route("reserve", "POST", "/sessions/{session}/reservations", _MOUNT, members=True),
    Route("book", "POST", "/volumes/{volume}/bookings", _MOUNT, body_limit=KIB, members=True, owned=True),
    Route("bookings", "GET", "/bookings", _OWNER),
    Route("release_booking", "DELETE", "/bookings/{booking}", _OWNER),
    Route("events", "POST", "/sessions/{session}/events", _MOUNT, members=True, waits=True),
    Route("held", "GET", "/sessions/{session}/held", _MOUNT, members=True),
    Route("delegate", "POST", "/sessions/{session}/delegation", _MOUNT, members=True),
    Route("return_delegation", "POST", "/sessions/{session}/delegation/return", _MOUNT, members=True),
    Route("orders", "POST", "/orders", _PEER, body_limit=4 * MIB),
    Route("away", "POST", "/peers/{node}/away", _PEER | _ADMIN),
    Route("drain", "POST", "/peers/{node}/drain", _PEER | _ADMIN),
    Route("undrain", "POST", "/peers/{node}/undrain", _PEER | _ADMIN),
    Route("forget", "POST", "/peers/{node}/forget", _ADMIN),
    Route("plan", "POST", "/plans", _PEER | _ADMIN),
    Route("jobs", "GET", "/jobs", ANYONE),
    Route("job", "POST", "/jobs/{job}/{action}", _ADMIN),
    Route("dashboard_login", "POST", "/dashboard/logins", _ADMIN, body_limit=KIB),
    Route("relay_listen", "POST", "/relay/listen", _PEER, body_limit=KIB, waits=True),
    Route("relay_dial", "POST", "/relay/dial/{node}", _TRANSFER, body_limit=KIB),
)

_COORDINATOR: Final = frozenset({Role.COORDINATOR})
_RESTORING: Final = frozenset({Role.COORDINATOR, Role.RECOVERY})

PEER_ROUTES: Final = (
    Route("put_chunk", "PUT", "/volumes/{volume}/chunks/{chunk}", _TRANSFER, body_limit=SEALED_CHUNK_BYTES),
    Route("fetch_chunk", "POST", "/volumes/{volume}/chunks/{chunk}/fetch", _MOUNT, body_limit=KIB),
    Route("get_chunk", "GET", "/volumes/{volume}/chunks/{chunk}", _TRANSFER),
    Route("head_chunk", "HEAD", "/volumes/{volume}/chunks/{chunk}", _TRANSFER),
    Route("put_backup", "PUT", "/backups/{generation}/{number}", _COORDINATOR, body_limit=MAX_PART_BYTES),
    Route("get_backup", "GET", "/backups/{generation}/{number}", _RESTORING),
    Route("backups", "GET", "/backups", _RESTORING),
    Route("superseded", "POST", "/backups/superseded", _COORDINATOR),
    Route("forward_dial", "POST", "/relay/dial/{node}", _TRANSFER, body_limit=KIB),
    Route("health", "GET", "/health", ANYONE),
    Route("fellows", "POST", "/fellows", _PEER),
    Route("fellow_inventory", "POST", "/fellows/inventory", _PEER),
    Route("fellow_copies", "POST", "/fellows/copies", _PEER),
)


def _page(name: str, method: str, path: str) -> Route:
    """Of the dashboard, which asks a certificate or a session itself: without one there is nothing but the login."""
    return Route(name, method, path, frozenset(), body_limit=8 * KIB, anonymous=True)


DASHBOARD_ROUTES: Final = (
    _page("overview", "GET", "/"),
    _page("peers", "GET", "/peers"),
    _page("data", "GET", "/data"),
    _page("volumes", "GET", "/volumes"),
    _page("jobs", "GET", "/jobs"),
    _page("usefulness", "GET", "/usefulness"),
    _page("members", "GET", "/members"),
    _page("chart", "GET", "/charts/{chart}"),
    _page("invite", "POST", "/invites"),
    _page("invited", "GET", "/invites/{invite}"),
    _page("ask_node", "GET", "/nodes/{node}/{action}"),
    _page("act_node", "POST", "/nodes/{node}/{action}"),
    _page("act_job", "POST", "/jobs/{job}/{action}"),
    _page("login_form", "GET", "/login"),
    _page("login", "POST", "/login"),
    _page("logout", "POST", "/logout"),
    _page("static", "GET", "/static/{file}"),
    _page("unknown", "GET", "/{page}"),  # so that strangers cannot tell which pages there are
    _page("unknown", "GET", "/{page}/{below}"),
    _page("unknown", "GET", "/{page}/{below}/{more}"),
)
"""A listener of their own: the coordinator's answers nobody without a certificate."""


def relay_path(node: NodeId) -> str:
    """The path of `relay_dial`."""
    return f"/relay/dial/{node}"


class Table:
    """Routes to look requests up in; made once by each server."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: dict[tuple[str, int], list[tuple[Route, list[tuple[int, str]], list[tuple[int, str]]]]] = {}
        for route in routes:
            places = list(enumerate(route.path.split("/")))
            fixed = [(at, segment) for at, segment in places if not segment.startswith("{")]
            parameters = [(at, segment[1:-1]) for at, segment in places if segment.startswith("{")]
            self._routes.setdefault((route.method, len(places)), []).append((route, fixed, parameters))

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a request and its path parameters, or None. `path` has no query."""
        segments = path.split("/")
        for route, fixed, parameters in self._routes.get((method, len(segments)), ()):
            if all(segments[at] == wanted for at, wanted in fixed):
                return route, {name: segments[at] for at, name in parameters}
        return None
