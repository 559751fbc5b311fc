"""Peers on a map of zones, and as a table with what can be done to them."""

from collections.abc import Sequence
from itertools import groupby

from p2pfs.coordinator.dashboard.figures import MOST_ROWS, ago, bar, data_table, rate, share, size, state
from p2pfs.coordinator.dashboard.layout import Frame, action
from p2pfs.coordinator.dashboard.markup import (
    Html,
    a,
    details,
    div,
    h2,
    h3,
    join,
    li,
    p,
    section,
    small,
    span,
    summary,
    ul,
)
from p2pfs.coordinator.report import PeerReport, StatusReport
from p2pfs.runtime.offers.units import shown
from p2pfs.types import GONE_STATES, KIB, PeerState
from p2pfs.wire.offers import PooledOffer

_QUIET = 16 * KIB


def content(frame: Frame, report: StatusReport) -> Html:
    """A map, then a table."""
    peers = sorted(report.peers, key=lambda peer: peer.state == PeerState.UP)  # those that want to be looked at first
    if not peers:
        return p("No peer has joined yet. Invite one on the page Members.", class_="empty")
    return join(
        section(h2("Map of zones"), _map(peers), _legend(), aria_label="Map of zones"),
        section(h2("Peers"), _table(frame, peers)),
        section(h2("Offers"), _pooled(report.offers), _offered(peers)) if report.offers else None,
    )


def _map(peers: Sequence[PeerReport]) -> Html:
    shown_here = peers[:MOST_ROWS]
    ordered = sorted(shown_here, key=lambda peer: (peer.zone, peer.name))
    zones = [(zone, list(inside)) for zone, inside in groupby(ordered, key=lambda peer: peer.zone)]
    return div(*(_zone(zone, inside) for zone, inside in zones), class_="map")


def _zone(zone: str, peers: Sequence[PeerReport]) -> Html:
    staying = [peer for peer in peers if peer.state not in GONE_STATES]
    used, capacity = sum(peer.used for peer in staying), sum(peer.capacity for peer in staying)
    return section(
        h3(zone or "no zone", small(f" {size(used)} of {size(capacity)}")),
        ul(*map(_tile, peers)),
        class_="zone",
    )


def _tile(peer: PeerReport) -> Html:
    words = f"{size(peer.used)} used, {size(peer.trash)} of it trash, {size(peer.free)} free of {size(peer.capacity)}"
    kept = max(0, peer.used - peer.trash)
    return li(
        span(peer.name, class_="name"),
        state(_word(peer), kind=peer.state),
        bar(words, peer.capacity, ("used", kept), ("trash", min(peer.trash, peer.used))),
        small(f"{share(peer.used, peer.capacity)} of {size(peer.capacity)} · {peer.owner}"),
        class_=f"peer {peer.state}",
    )


def _legend() -> Html:
    kinds = (("used", "chunks"), ("trash", "trash"), ("room", "free"))
    return ul(*(li(span(class_=f"swatch {kind}", aria_hidden="true"), words) for kind, words in kinds), class_="legend")


def _table(frame: Frame, peers: Sequence[PeerReport]) -> Html:
    titles = (
        "peer",
        "state",
        "zone",
        "used",
        "trash",
        "free",
        "chunks",
        "network",
        "seen",
        "version",
        "actions",
    )
    right = ("used", "trash", "free", "chunks", "load")
    return data_table("All peers", titles, (_row(frame, peer) for peer in peers), right=right)


def _row(frame: Frame, peer: PeerReport) -> tuple[str | Html, ...]:
    return (
        peer.name,
        state(_word(peer), kind=peer.state),
        peer.zone or "—",
        size(peer.used),
        size(peer.trash),
        size(peer.free),
        f"{peer.chunks}",
        _network(peer),
        ago(peer.silent_s),
        peer.version,
        _actions(frame, peer),
    )


def _network(peer: PeerReport) -> Html:
    """Heartbeats alone are nothing worth a look."""
    if max(peer.receiving, peer.sending) < _QUIET:
        return span("idle")
    return join(div(f"↓ {rate(peer.receiving)}", class_="line"), div(f"↑ {rate(peer.sending)}", class_="line"))


def _actions(frame: Frame, peer: PeerReport) -> Html:
    if peer.state == PeerState.REVOKED:
        return span("—")
    drain: Html = a(
        "Drain…", href=f"/nodes/{peer.node}/drain", id=f"drain-{peer.node}", aria_label=f"Drain {peer.name}"
    )
    if peer.leaving or peer.state == PeerState.LEFT:
        words = f"Let {peer.name} stay"
        drain = action(frame, f"/nodes/{peer.node}/undrain", "Undrain", id=f"undrain-{peer.node}", hint=words)
    revoke = a("Revoke…", href=f"/nodes/{peer.node}/revoke", id=f"revoke-{peer.node}", aria_label=f"Revoke {peer.name}")
    return div(drain, revoke, class_="actions")


def _pooled(offers: Sequence[PooledOffer]) -> Html:
    rows = [
        (
            join(one.kind, " ", small(one.about)),
            shown(one.offered, one.unit) if one.peers > one.unlimited else "—",
            shown(one.used, one.unit),
            shown(one.free, one.unit) if one.peers > one.unlimited else "—",
            f"{one.peers}" + (f", {one.unlimited} of them without a limit" if one.unlimited else ""),
        )
        for one in offers
        if one.is_on
    ]
    return data_table("What all peers offer", ("kind", "offered", "used", "free", "peers"), rows)


def _offered(peers: Sequence[PeerReport]) -> Html:
    rows = (
        (peer.name, one.kind, shown(one.offered, one.unit), shown(one.used, one.unit), one.rule or "—")
        for peer in peers
        if peer.state not in GONE_STATES
        for one in peer.offers
    )
    made = data_table("What each peer offers", ("peer", "kind", "offers now", "used", "rule of its owner"), rows)
    return details(summary("Of each peer"), made, id="offers-of-peers")


def _word(peer: PeerReport) -> str:
    return f"{peer.state}, leaving" if peer.leaving and peer.state != PeerState.DRAINING else peer.state
