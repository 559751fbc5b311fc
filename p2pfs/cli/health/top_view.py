"""What `p2pfs top` draws: a screenful made of a status report. Decides what fits; asks nobody."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import trio
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2pfs.cli.job_tables import share
from p2pfs.coordinator.report import PeerReport, StatusReport, VolumeReport
from p2pfs.errors import Misuse
from p2pfs.runtime.offers.units import format_rate
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.runtime.terminal import printable
from p2pfs.types import PeerState
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.offers import Offered

_BAR: Final = 8
_STYLES: Final = {
    "healthy": "green", "warning": "yellow", "error": "bold red", "info": "dim", "up": "green", "draining": "cyan",
    "away": "cyan", "suspect": "yellow", "down": "red", "lost": "red", "revoked": "red", "running": "green",
    "paused": "yellow", "failed": "red",
}  # fmt: skip
_STATES: Final = [state.value for state in PeerState]
_MOST_REASONS: Final = 3
_MOST_JOBS: Final = 5
_MOST_VOLUMES: Final = 4
_LEAST_PEERS: Final = 4
_LEAST_OTHERS: Final = 2
_ABOVE: Final = 2

_ORDERS: Final[dict[str, Callable[[PeerReport], Any]]] = {
    "name": lambda peer: peer.name,
    "state": lambda peer: (-_STATES.index(peer.state) if peer.state in _STATES else 0, peer.name),
    "used": lambda peer: -peer.used,
    "free": lambda peer: -peer.free,
    "up": lambda peer: -_traffic(peer, "upload"),
    "down": lambda peer: -_traffic(peer, "download"),
}
"""By what peers can be sorted: what is most first, names from a."""


class View:
    """What is known and how it is to be shown."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.is_reversed = False
        self.hurried = trio.Event()
        """Set, and replaced, when it is to be drawn anew before its time."""
        self._order = "name"
        self._report: StatusReport | None = None
        self._error = ""
        self._taken_s = -math.inf  # monotonic

    def take(self, report: dict[str, Any]) -> None:
        """The coordinator said this. Raises Misuse: it is of a version that this one cannot show."""
        try:
            self._report = msgspec.convert(report, StatusReport)
        except msgspec.ValidationError as error:
            raise Misuse(f"this coordinator's status cannot be shown ({error}): try p2pfs status --json") from None
        self._error, self._taken_s = "", time.monotonic()

    def silent(self, error: str) -> None:
        """It does not answer."""
        self._error = error

    def sort_by_next(self) -> None:
        names = list(_ORDERS)
        self._order = names[(names.index(self._order) + 1) % len(names)]

    def draw_every(self, seconds: float) -> None:
        self.interval_s = seconds
        self.hurried.set()
        self.hurried = trio.Event()

    def screen(self, width: int, height: int) -> RenderableType:
        """What fits on a terminal: never a line or a column more."""
        head: list[RenderableType] = [self._title(), *self._banner()]
        report = self._report
        if report is None:
            return Group(*head)
        head += _summary(report)
        head += _reasons(report, _MOST_REASONS)
        jobs, volumes = report.jobs, report.volumes
        room_peers, room_jobs, room_volumes = _shared(height - len(head), len(report.peers), len(jobs), len(volumes))
        return Group(
            *head,
            *_table(_PEERS, _cut(self._sorted(report), room_peers), width, len(report.peers), _peer_row),
            *_table(_JOBS, _cut(jobs, room_jobs), width, len(jobs), _job_row),
            *_table(_VOLUMES, _cut(volumes, room_volumes), width, len(volumes), _volume_row),
        )

    def whole(self, width: int) -> RenderableType:
        """Everything, however long, and never a column more."""
        report = self._report
        assert report is not None
        parts: list[RenderableType] = [*_summary(report), *_reasons(report, len(report.reasons))]
        parts += _table(_PEERS, self._sorted(report), width, len(report.peers), _peer_row)
        parts += _table(_JOBS, report.jobs, width, len(report.jobs), _job_row)
        parts += _table(_VOLUMES, report.volumes, width, len(report.volumes), _volume_row)
        return Group(*parts)

    def _sorted(self, report: StatusReport) -> list[PeerReport]:
        return sorted(report.peers, key=_ORDERS[self._order], reverse=self.is_reversed)

    def _title(self) -> Text:
        way = ", reversed" if self.is_reversed else ""
        every = format_duration(self.interval_s)
        keys = f"q quits, + - every {every}, s r by {self._order}{way}"
        return _line((f"p2pfs top  {time.strftime('%H:%M:%S')}  ", "bold"), (keys, "dim"))

    def _banner(self) -> list[RenderableType]:
        if not self._error:
            return []
        since = "" if self._report is None else f", shown as it was {_ago(time.monotonic() - self._taken_s)}"
        return [_line((f"no answer{since}: {self._error}", _STYLES["error"]))]


_Titles = Sequence[tuple[str, str]]
"""Titles of columns, each "left", "right" for numbers, or "cut": the last of those is cut first where room is short."""
_Row = Sequence[tuple[str, str]]
"""Cells and their styles."""

_PEERS: Final[_Titles] = (
    ("peer", "cut"), ("state", "left"), ("used", "right"), ("of", "right"), ("", "left"), ("up b/s", "right"),
    ("down", "right"), ("load", "right"), ("seen", "right"),
)  # fmt: skip
_JOBS: Final[_Titles] = (
    ("job", "left"), ("of", "cut"), ("state", "left"), ("progress", "left"), ("rate", "right"), ("left", "right"),
    ("why", "cut"),
)  # fmt: skip
_VOLUMES: Final[_Titles] = (
    ("volume", "cut"), ("owner", "cut"), ("files", "right"), ("content", "right"), ("in trash", "right"),
    ("changed by", "cut"),
)  # fmt: skip
_GAP: Final = 2
_LEAST_CUT: Final = 4
_LEAST_NAME: Final = 16
"""Of the first column, which says what a row is about: rather than cut that, columns at the end are left out."""


def _shared(left: int, peers: int, jobs: int, volumes: int) -> tuple[int, int, int]:
    """Lines for the rows of each table, a blank line and titles apart; peers get what the others leave."""
    rooms = {"jobs": min(jobs, _MOST_JOBS), "volumes": min(volumes, _MOST_VOLUMES)}

    def of_peers() -> int:
        return left - _ABOVE - sum(_ABOVE + room for room in rooms.values() if room)

    least = min(peers, _LEAST_PEERS)
    while of_peers() < least and any(rooms.values()):
        longest = max(rooms, key=lambda name: rooms[name])
        if rooms[longest] > _LEAST_OTHERS:
            rooms[longest] -= 1
        else:
            rooms["volumes" if rooms["volumes"] else "jobs"] = 0
    return of_peers(), rooms["jobs"], rooms["volumes"]


def _summary(report: StatusReport) -> list[RenderableType]:
    pool, chunks = report.pool, report.chunks
    up = sum(peer.state == PeerState.UP for peer in report.peers)
    traffic = {one.kind: one.used for one in report.offers}
    copies = "  ".join(f"{count}×{number}" for number, count in chunks.by_copies.items())
    return [
        _line(
            (f"{pool.name}: ", "bold"),
            (report.health, _STYLES.get(report.health, "")),
            (f"  {up} of {len(report.peers)} peers up, {pool.sessions} mounted, coordinator up", ""),
            (f" {format_duration(report.coordinator.uptime_s)}", ""),
        ),
        _line(
            (f"{_bar(pool.used, pool.capacity)} {format_size(pool.used)} of {format_size(pool.capacity)}", ""),
            (f", {format_size(pool.writable)} writable", ""),
            (f"   up {format_rate(traffic.get('upload', 0))}, down {format_rate(traffic.get('download', 0))}", ""),
        ),
        _line(
            (f"chunks {chunks.total}" + (f" (copies {copies})" if copies else ""), ""),
            (f"  {chunks.under_replicated} short" if chunks.under_replicated else "", "yellow"),
            (f"  {chunks.lost} unreadable" if chunks.lost else "", "bold red"),
        ),
    ]


def _reasons(report: StatusReport, most: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    reasons = report.reasons
    shown = reasons if len(reasons) <= most else reasons[: most - 1]
    for reason in shown:
        sign = {"error": "✗", "warning": "!"}.get(reason.severity, "·")
        lines.append(_line((f"{sign} {reason.message}", _STYLES.get(reason.severity, ""))))
    if len(shown) < len(reasons):
        lines.append(_line((f"  … and {len(reasons) - len(shown)} more: p2pfs status", "dim")))
    return lines


def _table(
    titles: _Titles, rows: Sequence[Any], width: int, count: int, row: Callable[[Any], _Row]
) -> list[RenderableType]:
    """A blank line, titles and rows; a last line says how many of `count` are left out. Nothing without rows."""
    if not rows:
        return []
    cells = [[Text(printable(text), style=style) for text, style in row(one)] for one in rows]
    columns = zip([title for title, _ in titles], *([cell.plain for cell in line] for line in cells), strict=True)
    natural = [max(map(cell_len, column)) for column in columns]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold underline")
    fitted = _fitted(titles, natural, width)
    for (title, how), most in zip(titles, fitted, strict=False):
        justify: Literal["left", "right"] = "right" if how == "right" else "left"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=most)
    for line in cells:
        table.add_row(*line[: len(fitted)])
    parts: list[RenderableType] = [Text(), table]
    return [*parts, _line((f"… {count - len(rows)} more", "dim"))] if len(rows) < count else parts


def _fitted(titles: _Titles, natural: Sequence[int], width: int) -> list[int]:
    """Widths of columns that together have at most `width`: of all, or, where cutting is not enough, of the first."""
    fitted = list(natural)
    shortest = [_LEAST_NAME] + [_LEAST_CUT] * (len(titles) - 1)
    cuts = zip(titles, natural, shortest, strict=True)
    least = [min(most, short) if how == "cut" else most for (_, how), most, short in cuts]
    while len(fitted) > 1 and sum(least[: len(fitted)]) + _GAP * (len(fitted) - 1) > width:
        fitted.pop()
    excess = sum(fitted) + _GAP * (len(fitted) - 1) - width
    for at in reversed(range(len(fitted))):
        if excess > 0 and titles[at][1] == "cut":
            less = min(excess, fitted[at] - (least[at] if len(fitted) > 1 else min(fitted[at], _LEAST_CUT)))
            fitted[at] -= less
            excess -= less
    return fitted


def _cut(rows: Sequence[Any], room: int) -> Sequence[Any]:
    """As many as fit, a line for "more" among them."""
    return rows if len(rows) <= room else rows[: max(0, room - 1)]


def _peer_row(peer: PeerReport) -> _Row:
    state = f"{peer.state}, leaving" if peer.leaving and peer.state != "draining" else peer.state
    load = f"{peer.resources.cpu_load:.2f}" if peer.resources is not None else ""
    return (
        (peer.name, ""),
        (state, _STYLES.get(peer.state, "")),
        (_size(peer.used), ""),
        (_size(peer.capacity), ""),
        (_bar(peer.used, peer.capacity), "red" if peer.used > peer.capacity else ""),
        (_rate(peer, "upload"), ""),
        (_rate(peer, "download"), ""),
        (load, ""),
        (_ago(peer.silent_s).removesuffix(" ago"), ""),
    )


def _job_row(job: JobInfo) -> _Row:
    part = share(job)
    return (
        (f"{job.kind}", ""),
        (job.subject or "the pool", ""),
        (job.state, _STYLES.get(job.state, "")),
        ("" if part is None else f"{_bar(part, 1)} {int(100 * part)}%", ""),
        (f"{_size(round(job.rate))}B/s" if job.rate else "", ""),
        (format_duration(max(1, round(job.left_s))) if job.left_s is not None else "", ""),
        (job.error, "yellow"),
    )


def _volume_row(volume: VolumeReport) -> _Row:
    return (
        (volume.name, ""),
        (volume.owner, ""),
        (f"{volume.files}", ""),
        (_size(volume.bytes), ""),
        (_size(volume.trash_bytes), ""),
        (volume.delegated_to or "—", ""),
    )


def _offered(peer: PeerReport, kind: str) -> Offered | None:
    return next((one for one in peer.offers if one.kind == kind), None)


def _traffic(peer: PeerReport, kind: str) -> int:
    """Bytes a second, of peers that answer."""
    told = _offered(peer, kind)
    return told.used if told is not None and peer.state in (PeerState.UP, PeerState.DRAINING) else 0


def _rate(peer: PeerReport, kind: str) -> str:
    if _offered(peer, kind) is None:
        return "—"
    return format_rate(_traffic(peer, kind)).removesuffix("bit/s").replace(" ", "")


def _size(size: int) -> str:
    """As "12.5M": columns are dear."""
    return format_size(size).removesuffix("iB").removesuffix(" B").replace(" ", "")


def _bar(part: float, whole: float) -> str:
    full = min(_BAR, round(_BAR * part / whole)) if whole else 0
    return "█" * full + "░" * (_BAR - full)


def _ago(seconds: float) -> str:
    return f"{format_duration(float(round(seconds)))} ago" if seconds >= 0.5 else "now"


def _line(*parts: tuple[str, str]) -> Text:
    """One line, cut at the width of the terminal."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for words, style in parts:
        text.append(printable(words), style=style or None)
    return text
