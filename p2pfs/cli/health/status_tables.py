"""The status report as tables for a person. Only looks; `status` gets the report and decides the exit status."""

from typing import Any, Final

import click
import msgspec
from rich.text import Text

from p2pfs.cli.job_tables import job_table
from p2pfs.cli.show import console_for_output, print_table, say
from p2pfs.coordinator.report import BackupReport, OwnerReport, PeerReport, Reason, StatusReport
from p2pfs.errors import Misuse
from p2pfs.runtime.offers.units import shown
from p2pfs.runtime.sizes import format_count, format_duration, format_size
from p2pfs.runtime.terminal import printable
from p2pfs.wire.offers import PooledOffer

_COLOURS: Final = {
    "healthy": "green",
    "warning": "yellow",
    "error": "red",
    "up": "green",
    "draining": "cyan",
    "away": "cyan",
    "suspect": "yellow",
    "down": "red",
    "revoked": "red",
}


def print_report(report: dict[str, Any]) -> None:
    """Pool, reasons, peers, volumes, chunks, jobs.

    Raises:
        Misuse: The report is of a version this one cannot show; `--json` still can.
    """
    try:
        known = msgspec.convert(report, StatusReport)
    except msgspec.ValidationError as error:
        raise Misuse(f"this coordinator's status cannot be shown as tables ({error}): try --json") from None
    _print_pool(known)
    for reason in known.reasons:
        told = printable(f"{reason.message} [{reason.code}]")
        click.echo(f"  {_coloured(reason.severity, _sign(reason))} {told}")
    if known.peers:
        titles = ("peer", "state", "zone", "used", "trash", "free", "chunks", "seen", "address")
        print_table(titles, map(_peer_row, known.peers), right=("used", "trash", "free", "chunks"))
    if known.volumes:
        volumes = [
            (
                volume.name,
                volume.owner,
                f"{volume.files}" + (f" of {volume.quota_files}" if volume.quota_files else ""),
                format_size(volume.bytes) + (f" of {format_size(volume.quota_bytes)}" if volume.quota_bytes else ""),
                format_size(volume.trash_bytes),
                volume.delegated_to or "—",
            )
            for volume in known.volumes
        ]
        names = ("volume", "owner", "files", "content", "in trash", "delegated to")
        print_table(names, volumes, right=("files", "content", "in trash"))
    _print_chunks(known)
    shares = [f"{one.owner} {_share(one)}" for one in known.owners if one.left is not None]
    if shares:
        say("fair shares: " + ", ".join(shares))
    if known.offers:
        say("offered: " + "; ".join(_offer(one) for one in known.offers if one.is_on))
    if known.backup is not None:
        say(_backup_line(known.backup))
    if known.jobs:
        console_for_output().print(job_table(known.jobs))


def _offer(one: PooledOffer) -> str:
    """As "upload 40 Mbit/s and 2 of 3 peers without limit (1.2 Mbit/s used, 38.8 Mbit/s free)"."""
    amount = shown(one.offered, one.unit) if one.peers > one.unlimited else ""
    if not one.unlimited:
        limited = amount or "none"
    elif amount:
        limited = f"{amount} and {one.unlimited} of {one.peers} peers without limit"
    else:
        limited = "no limit"
    free = f", {shown(one.free, one.unit)} free" if amount else ""
    return f"{one.kind} {limited} ({shown(one.used, one.unit)} used{free})"


def _share(owner: OwnerReport) -> str:
    coefficient = "∞" if owner.coefficient is None else f"{owner.coefficient:.2f}"
    return f"{coefficient} ({format_size(owner.left or 0)} left)"


def _backup_line(backup: BackupReport) -> str:
    if backup.age_s is None:
        return "backup: none yet"
    peers = (
        format_count(backup.holders, "peer")
        if backup.holders >= backup.wanted
        else f"{backup.holders} of {backup.wanted} peers"
    )
    return f"backup: {_ago(backup.age_s)}, {format_size(backup.bytes)} on {peers}"


def _ago(seconds: float) -> str:
    return f"{format_duration(float(round(seconds)))} ago" if seconds >= 0.5 else "now"


def _print_pool(report: StatusReport) -> None:
    pool, coordinator = report.pool, report.coordinator
    click.echo(f"pool {printable(pool.name)}: {_coloured(report.health, report.health)}")
    say(
        f"  {format_count(pool.replicas, 'copy')}, writes wait for {pool.min_replicas}; "
        f"{format_size(pool.used)} used of {format_size(pool.capacity)} offered, "
        f"{format_size(pool.writable)} can still be written"
        + (f", {format_size(pool.reserved)} are reserved" if pool.reserved else "")
    )
    say(
        f"  coordinator {coordinator.name} at {', '.join(coordinator.addresses)}, "
        f"up {format_duration(coordinator.uptime_s)}, version {coordinator.version}; {pool.sessions} mounted"
    )


def _peer_row(peer: PeerReport) -> tuple[str | Text, ...]:
    return (
        peer.name,
        Text(_state(peer), style=_COLOURS.get(peer.state, "")),
        peer.zone,
        format_size(peer.used),
        format_size(peer.trash),
        format_size(peer.free),
        f"{peer.chunks}",
        _ago(peer.silent_s),
        " ".join(peer.addresses),
    )


def _state(peer: PeerReport) -> str:
    """One word, or two."""
    return f"{peer.state}, leaving" if peer.leaving and peer.state != "draining" else peer.state


def _print_chunks(report: StatusReport) -> None:
    chunks = report.chunks
    copies = ", ".join(f"{count} with {number}" for number, count in chunks.by_copies.items())
    say(f"chunks: {chunks.total}" + (f" ({copies})" if copies else ""))
    if chunks.under_replicated or chunks.lost:
        away = f" ({chunks.away} of them because peers are away)" if chunks.away else ""
        say(f"  {chunks.under_replicated} with fewer copies than wanted{away}, {chunks.lost} without any")


def _sign(reason: Reason) -> str:
    return {"error": "✗", "warning": "!"}.get(reason.severity, "·")


def _coloured(word: str, text: str) -> str:
    """Coloured by meaning; click.echo drops colours where the output is no terminal."""
    return click.style(printable(text), fg=_COLOURS.get(word))
