"""The first page: how the pool is, and why."""

from p2pfs.coordinator.dashboard.figures import MOST_ROWS, ago, bar, data_table, share, sign, size, span_of, tiles
from p2pfs.coordinator.dashboard.layout import Frame
from p2pfs.coordinator.dashboard.markup import Child, Html, code, div, h2, join, li, p, section, span, strong, ul
from p2pfs.coordinator.dashboard.pages.jobs import job_rows
from p2pfs.coordinator.report import BackupReport, Reason, StatusReport
from p2pfs.runtime.sizes import format_count
from p2pfs.types import GONE_STATES, PeerState

MOST_REASONS = 50
_WORDS = {
    "healthy": "Everything is as it should be.",
    "warning": "The pool works, and something wants to be looked at.",
    "error": "Something is wrong.",
}


def content(frame: Frame, report: StatusReport) -> Html:
    """Health with its reasons, the figures that matter, and what is being done."""
    going_on = job_rows(frame, report.jobs[:MOST_ROWS])
    return join(
        _health(report),
        _figures(report),
        section(
            h2("What is being done"),
            data_table("Jobs that go on", ("job", "of", "state", "progress", "left", "why"), going_on)
            if going_on
            else p("Nothing: no repair, no drain, no rebalancing goes on.", class_="empty"),
        ),
        p(_coordinator(report), class_="remark"),
    )


def _coordinator(report: StatusReport) -> str:
    known = report.coordinator
    return f"Coordinator {known.name}, up for {span_of(known.uptime_s)}, version {known.version}."


def _health(report: StatusReport) -> Html:
    return section(
        div(
            sign(report.health),
            div(strong(report.health), p(_WORDS.get(report.health, ""))),
            class_=f"health {report.health}",
            role="status",
        ),
        ul(*map(_reason, report.reasons[:MOST_REASONS]), class_="reasons") if report.reasons else None,
        aria_label="Health",
    )


def _reason(reason: Reason) -> Html:
    return li(sign(reason.severity), span(f"{reason.severity}: {reason.message} "), code(reason.code))


def _figures(report: StatusReport) -> Html:
    pool, chunks = report.pool, report.chunks
    peers = [peer for peer in report.peers if peer.state not in GONE_STATES]
    up = sum(peer.state == PeerState.UP for peer in peers)
    used: Child = join(
        size(pool.used), bar(f"{share(pool.used, pool.capacity)} used", pool.capacity, ("used", pool.used))
    )
    short = f"{chunks.under_replicated} short of copies, {chunks.lost} without any"
    return tiles(
        ("used on all disks", used, f"of {size(pool.capacity)} offered"),
        ("can still be written", size(pool.writable), f"with {format_count(pool.replicas, 'copy')} of everything"),
        ("peers", f"{up} of {len(peers)} up", _zones(report)),
        ("chunks", f"{chunks.total}", short if chunks.under_replicated or chunks.lost else "each with all its copies"),
        ("mounted", f"{pool.sessions}", f"{format_count(len(report.volumes), 'volume')}"),
        ("coordinator's backup", _backup_age(report.backup), _backup_remark(report.backup)),
    )


def _zones(report: StatusReport) -> str:
    zones = len({peer.zone for peer in report.peers if peer.state not in GONE_STATES})
    return f"in {zones} {'zone' if zones == 1 else 'zones'}"


def _backup_age(backup: BackupReport | None) -> str:
    if backup is None or backup.age_s is None:
        return "none yet"
    return ago(backup.age_s)


def _backup_remark(backup: BackupReport | None) -> str:
    return f"on {backup.holders} of {backup.wanted} peers" if backup is not None else "no recovery kit"
