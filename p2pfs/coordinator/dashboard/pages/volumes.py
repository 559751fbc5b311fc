"""Volumes: what they hold, what is in their trash, and what of them expires."""

from p2pfs.coordinator.dashboard.figures import data_table, moment, size
from p2pfs.coordinator.dashboard.markup import Html, h2, join, p, section
from p2pfs.coordinator.report import LEASE_WARNING_S, StatusReport, VolumeReport
from p2pfs.runtime.sizes import format_count


def content(report: StatusReport) -> Html:
    """Names of volumes are the only names the coordinator knows; those of files it cannot read."""
    if not report.volumes:
        return p("There is no volume yet: p2pfs volume create NAME.", class_="empty")
    now_s = report.coordinator.clock_s
    return join(section(h2("Volumes"), _volumes(report)), section(h2("Leases"), _leases(report, now_s)))


def _volumes(report: StatusReport) -> Html:
    titles = ("volume", "owner", "files", "content", "in trash", "reserved", "shared with", "delegated to")
    rows = (
        (
            volume.name,
            volume.owner,
            f"{volume.files}" + (f" of {volume.quota_files}" if volume.quota_files else ""),
            size(volume.bytes) + (f" of {size(volume.quota_bytes)}" if volume.quota_bytes else ""),
            f"{format_count(volume.trash_files, 'file')}, {size(volume.trash_bytes)}" if volume.trash_files else "—",
            _reserved(volume),
            _shared(volume.members),
            volume.delegated_to or "—",
        )
        for volume in report.volumes
    )
    return data_table("All volumes", titles, rows, right=("files", "content"))


def _shared(members: int) -> str:
    return "—" if not members else f"{members} {'key' if members == 1 else 'keys'}"


def _reserved(volume: VolumeReport) -> str:
    if not volume.reserved:
        return "—"
    short = f", {size(volume.reserved_short)} of it without room" if volume.reserved_short else ""
    return f"{size(volume.reserved)}{short}"


def _leases(report: StatusReport, now_s: float) -> Html:
    days = round(LEASE_WARNING_S / 86400)
    rows = (
        (
            volume.name,
            moment(volume.expires_s, now_s) if volume.expires_s else "never",
            f"{volume.expiring}" if volume.expiring else "none",
        )
        for volume in report.volumes
    )
    return data_table(
        "Leases of volumes, and of files in them",
        ("volume", "as a whole it expires", f"files that expire within {days} days"),
        rows,
    )
