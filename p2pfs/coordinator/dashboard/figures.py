"""Small parts of pages: tables, bars, tiles, sizes and times as people read them.

Widths are attributes of SVG, never styles: the content security policy allows no inline style.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from p2pfs.coordinator.dashboard.markup import (
    Child,
    Html,
    caption,
    dd,
    div,
    dl,
    dt,
    join,
    p,
    rect,
    span,
    svg,
    table,
    tbody,
    td,
    th,
    thead,
    tr,
)
from p2pfs.runtime.sizes import format_duration, format_size

MOST_ROWS: Final = 200
_SIGNS: Final = {"error": "✖", "warning": "▲", "info": "●", "healthy": "✔"}


def data_table(
    words: str, titles: Sequence[str], rows: Iterable[Sequence[Child]], *, right: Iterable[str] = ()
) -> Html:
    """A table with a caption; the first cell of a row is its heading. Columns named in `right` are numbers. Of more
    rows than MOST_ROWS the others are not even asked for: a large pool must not keep the coordinator drawing."""
    numeric, left = set(right), iter(rows)
    kinds = ["number" if one in numeric else None for one in titles]
    body = [_row(row, titles, kinds) for row in islice(left, MOST_ROWS)]
    if not body:
        return p(f"{words}: none.", class_="empty")
    head = tr(*(th(one, scope="col", class_=kind) for one, kind in zip(titles, kinds, strict=True)))
    made = table(caption(words), thead(head), tbody(*body))
    framed = div(made, class_="scroll", tabindex="0", role="region", aria_label=words)
    is_cut = next(left, None) is not None
    return join(framed, p(f"These are {MOST_ROWS}. Commands show all.", class_="remark") if is_cut else None)


def _row(cells: Sequence[Child], titles: Sequence[str], kinds: Sequence[str | None]) -> Html:
    others = zip(cells[1:], titles[1:], kinds[1:], strict=True)
    return tr(th(cells[0], scope="row"), *(td(cell, data_title=one, class_=kind) for cell, one, kind in others))


def tiles(*facts: tuple[str, Child, Child]) -> Html:
    """Name, value and a remark of each."""
    return dl(*(div(dt(name), dd(value), dd(remark, class_="remark")) for name, value, remark in facts), class_="tiles")


def bar(words: str, total: float, *parts: tuple[str, float]) -> Html:
    """A bar of `total` with parts of some kind (a class of the style sheet). `words` say the same."""
    at, drawn = 0.0, []
    for kind, size in parts:
        width = 100 * max(0.0, min(size, total)) / total if total > 0 else 0.0
        drawn.append(rect(x=f"{at:.2f}", y=0, width=f"{width:.2f}", height=10, class_=kind))
        at += width
    empty = rect(x=0, y=0, width=100, height=10, class_="room")
    return svg(
        empty, *drawn, viewBox="0 0 100 10", preserveAspectRatio="none", role="img", aria_label=words, class_="bar"
    )


def state(word: str, *, kind: str = "") -> Html:
    """A state as a word with a colour; the word alone says all."""
    return span(word, class_=f"state {kind or word}")


def sign(severity: str) -> Html:
    return span(_SIGNS.get(severity, "●"), class_=f"sign {severity}", aria_hidden="true")


def size(count: float) -> str:
    return format_size(round(count))


def rate(count: float) -> str:
    return f"{format_size(round(count))}/s"


def span_of(seconds: float) -> str:
    """A time span in one unit, coarse enough not to change with every look."""
    return format_duration(round(seconds)) if seconds < 60 else format_duration(60 * round(seconds / 60))


def ago(seconds: float) -> str:
    """What was less than ten seconds ago is now: heartbeats come and go."""
    return "now" if seconds < 10 else f"{span_of(10 * math.floor(seconds / 10))} ago"


def moment(time_s: float, now_s: float) -> Html:
    """A moment (UTC) as the time until it, or since."""
    left = time_s - now_s
    return span(f"in {span_of(left)}" if left >= 0 else f"{span_of(-left)} ago")


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "—"
