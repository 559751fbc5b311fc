"""Charts over time: which series each has, as JSON for a browser that draws, and as tables for everybody.

What is drawn comes from the history that the coordinator keeps. Called by `application`.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.dashboard.figures import data_table, rate, size
from p2pfs.coordinator.dashboard.markup import Child, Html, a, details, div, figcaption, figure, li, nav, p, summary, ul
from p2pfs.coordinator.history import MOST_COPIES

POINTS: Final = 240
_ROWS: Final = 12
SPANS: Final = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0, "month": 30 * 86400.0}
DEFAULT_SPAN: Final = "hour"

Series = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name in the history, what people call it, and a class of colours."""

    series: str
    words: str
    kind: str


@dataclass(frozen=True, slots=True)
class Chart:
    name: str
    words: str
    unit: str  # "bytes" | "rate" | "count"
    lines: tuple[Line, ...]
    is_stacked: bool = False


def charts(replicas: int) -> dict[str, Chart]:
    """All charts of a pool that wants so many copies of each chunk."""
    copies = [
        Line(f"chunks.copies.{count}", _copies(count), copies_kind(count, replicas)) for count in range(MOST_COPIES + 1)
    ]
    copies.append(Line("chunks.copies.more", f"more than {MOST_COPIES}", "more"))
    known = (
        Chart("copies", "Chunks by number of copies", "count", tuple(copies), is_stacked=True),
        Chart(
            "space",
            "Space on all disks",
            "bytes",
            (
                Line("space.capacity", "offered", "room"),
                Line("space.used", "used", "used"),
                Line("space.trash", "of it trash", "trash"),
            ),
        ),
        Chart(
            "traffic",
            "Traffic of the peers",
            "rate",
            (Line("traffic.in", "received", "used"), Line("traffic.out", "sent", "trash")),
        ),
        Chart(
            "queues",
            "Waiting to be done",
            "count",
            (Line("queue.copies", "copies to make", "short"), Line("queue.deletions", "deletions", "room")),
        ),
    )
    return {chart.name: chart for chart in known}


def _copies(count: int) -> str:
    return "no copy" if not count else f"{count} {'copy' if count == 1 else 'copies'}"


def copies_kind(count: int, replicas: int) -> str:
    """The colour of so many copies where `replicas` are wanted."""
    if not count:
        return "lost"
    if count == replicas:
        return "enough"
    if count > replicas:
        return "more"
    return "last" if count == 1 else "short"


def chart_data(chart: Chart, found: Series, since_s: float, until_s: float) -> dict[str, object]:
    """What the browser draws: times, and a row of values (None: not known then) for each line that has any."""
    times = sorted({at for line in chart.lines for at, _ in found.get(line.series, ())})
    rows = []
    for line in chart.lines:
        values = dict(found.get(line.series, ()))
        if any(values.values()):
            rows.append({"words": line.words, "kind": line.kind, "values": [values.get(at) for at in times]})
    return {"span": [since_s, until_s], "unit": chart.unit, "stacked": chart.is_stacked, "times": times, "lines": rows}


def chart_figure(chart: Chart, found: Series, *, span: str, is_drawn: bool) -> Html:
    """The place where the browser draws a chart, with the same as a table."""
    data = _as_table(chart, found)
    drawn = div(
        class_="chart", data_chart=f"/charts/{chart.name}?span={span}", role="img", aria_label=f"Chart: {chart.words}"
    )
    return figure(
        figcaption(chart.words),
        drawn if is_drawn else None,
        details(summary("As a table"), data) if is_drawn else data,
        id=f"chart-{chart.name}",
    )


def _as_table(chart: Chart, found: Series) -> Html:
    write: Callable[[float], str] = {"bytes": size, "rate": rate}.get(chart.unit, lambda value: f"{value:.0f}")
    lines = [line for line in chart.lines if any(value for _, value in found.get(line.series, ()))]
    values = {line.series: dict(found[line.series]) for line in lines}
    times = sorted({at for line in lines for at in values[line.series]})
    if not times:
        return p("Nothing was measured in this time.", class_="empty")
    step = max(1, -(-len(times) // _ROWS))
    rows = [
        (_clock(at), *(write(values[line.series][at]) if at in values[line.series] else "—" for line in lines))
        for at in times[::-1][::step]
    ]
    titles = ["time (UTC)", *(line.words for line in lines)]
    return data_table(chart.words, titles, rows, right=titles[1:])


def _clock(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def span_choice(path: str, chosen: str) -> Html:
    """Links that choose how far back charts look."""
    entries: list[Child] = [
        li(a(f"last {name}", href=f"{path}?span={name}", aria_current="true" if name == chosen else None))
        for name in SPANS
    ]
    return nav(ul(*entries), class_="spans", aria_label="Time that charts show")
