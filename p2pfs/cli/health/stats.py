"""`p2pfs stats MNT`: what a mount is doing, as totals with rates, or a line each moment (as `juicefs stats`).

The mount only hands out counters; what is a rate is worked out here, from two looks. What a counter means is in
docs/monitoring.md.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import json_option
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.sizes import format_size, given_duration

SHORTEST_S: Final = 0.1
_HEADS_EVERY: Final = 20
_OPERATION: Final = "op_"
_LEVELS: Final = frozenset(
    {
        "monotonic_ns", "known_inodes", "unsaved_bytes", "changes_waiting", "coordinator_away", "fenced", "delegated",
        "uplink_bytes_per_s", "disk_cache_bytes", "memory_cache_bytes", "kernel_trusted",
        "kernel_notifications_waiting", "resident_bytes",
    }
)  # fmt: skip
"""What rises and falls; of all else the rate is told."""

Counters = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Span:
    """Between two looks."""

    before: Counters
    now: Counters

    @property
    def seconds(self) -> float:
        return max(1e-9, (self.now.get("monotonic_ns", 0) - self.before.get("monotonic_ns", 0)) / 1e9)

    def level(self, name: str) -> int:
        return self.now.get(name, 0)

    def more(self, name: str) -> int:
        """What was counted in between. A mount that was mounted anew began at 0."""
        return max(0, self.now.get(name, 0) - self.before.get(name, 0))

    def rate(self, name: str) -> float:
        """A second."""
        return self.more(name) / self.seconds

    def rates(self) -> dict[str, float]:
        """Of all that is counted."""
        return {name: round(self.rate(name), 3) for name in self.now if name not in _LEVELS}

    def operations(self) -> list[str]:
        """What the kernel has asked for."""
        names = [name for name in self.now if name.startswith(_OPERATION) and name.endswith("_count")]
        return [name.removeprefix(_OPERATION).removesuffix("_count") for name in names]

    def latency_ms(self, *names: str) -> float | None:
        """The mean in between; None where there was none."""
        count = sum(self.more(f"{name}_count") for name in names)
        return sum(self.more(f"{name}_ns") for name in names) / count / 1e6 if count else None


@click.command("stats")
@click.argument("directory", metavar="MNT", type=click.Path(path_type=Path))
@click.option("--interval", metavar="TIME", help="Go on, with a line for each such time, until Ctrl-C.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="With --interval: end after so many lines.")
@json_option
def command(directory: Path, interval: str | None, count: int | None, as_json: bool) -> int:
    """Show what the mount at MNT is doing: requests, latencies, bytes, caches, what is not stored yet.

    Without --interval: totals since it was mounted, and rates over one second.

    \b
    Examples:
      p2pfs stats ~/photos
      p2pfs stats ~/photos --interval 1s
      p2pfs stats ~/photos --interval 5s --count 12 --json
    """
    from p2pfs.cli.asking import mounted

    pause_s = 1.0 if interval is None else given_duration(interval)
    if pause_s < SHORTEST_S:
        raise Invalid(f"--interval is at least {SHORTEST_S:g}s")
    if count is not None and interval is None:
        raise UserError("--count goes with --interval", exitcodes.USAGE)
    mount = mounted(directory)
    record = mount.record
    spans = _spans(lambda: _look(mount.ask("stats")), pause_s)
    if interval is None:
        span = next(spans)
        _show_json(record.volume, span, indented=True) if as_json else _show(record.volume, span)
        return exitcodes.OK
    try:
        for number, span in enumerate(itertools.islice(spans, count)):
            if as_json:
                _show_json(record.volume, span, indented=False)
            else:
                _show_line(span, with_heads=number % _HEADS_EVERY == 0)
    except KeyboardInterrupt:  # how it is ended
        click.echo()
    return exitcodes.OK


def _look(lines: Iterator[dict[str, Any]]) -> dict[str, int]:
    found = next(lines)
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _spans(look: Callable[[], Counters], pause_s: float) -> Iterator[Span]:
    before = look()
    while True:
        time.sleep(pause_s)
        now = look()
        yield Span(before, now)
        before = now


# ---- for programs ---------------------------------------------------------------------------------------------------


def _show_json(volume: str, span: Span, *, indented: bool) -> None:
    import msgspec

    from p2pfs.cli.show import print_json

    told = {"volume": volume, "seconds": round(span.seconds, 3), "counters": dict(span.now), "rates": span.rates()}
    if indented:
        print_json(told)
    else:
        click.echo(msgspec.json.encode(told))


# ---- for people -----------------------------------------------------------------------------------------------------


def _show(volume: str, span: Span) -> None:
    from p2pfs.cli.show import print_table, say

    say(f"volume {volume}, over {span.seconds:.1f} s")
    rows = []
    for name in span.operations():
        key = f"{_OPERATION}{name}"
        mean = span.now.get(f"{key}_ns", 0) / max(1, span.now[f"{key}_count"]) / 1e6
        row = name, str(span.now[f"{key}_count"]), f"{span.rate(f'{key}_count'):.1f}", f"{mean:.3f}"
        rows.append((*row, str(span.now.get(f"{key}_errors", 0))))
    print_table(("request", "count", "/s", "mean ms", "errors"), rows, right=("count", "/s", "mean ms", "errors"))
    click.echo()
    others = [name for name in span.now if not name.startswith(_OPERATION) and name != "monotonic_ns"]
    print_table(
        ("counter", "now", "/s"),
        [(name, _written(name, span.level(name)), _rate(name, span)) for name in others],
        right=("now", "/s"),
    )


def _written(name: str, value: float) -> str:
    if name.endswith("_ns"):
        return f"{value / 1e9:.3f} s"
    return format_size(int(value)) if "bytes" in name else f"{value:g}"


def _rate(name: str, span: Span) -> str:
    return "" if name in _LEVELS or not span.more(name) else _written(name, round(span.rate(name), 1))


_Cell = Callable[[Span], str]


def _milliseconds(*names: str) -> _Cell:
    def cell(span: Span) -> str:
        mean = span.latency_ms(*names)
        return "" if mean is None else f"{mean:.2f}" if mean < 100 else f"{mean:.0f}"

    return cell


def _all_milliseconds(span: Span) -> str:
    return _milliseconds(*(f"{_OPERATION}{name}" for name in span.operations()))(span)


def _per_second(name: str) -> _Cell:
    return lambda span: f"{span.rate(name):.0f}"


def _all_per_second(span: Span) -> str:
    return f"{sum(span.rate(f'{_OPERATION}{name}_count') for name in span.operations()):.0f}"


def _bytes_per_second(name: str) -> _Cell:
    return lambda span: _short(span.rate(name))


def _hits(cache: str) -> _Cell:
    def cell(span: Span) -> str:
        hits, misses = span.more(f"{cache}_cache_hits"), span.more(f"{cache}_cache_misses")
        return f"{100 * hits / (hits + misses):.0f}%" if hits + misses else ""

    return cell


def _short(value: float) -> str:
    """`0`, `999`, `1.5K`, `12M`: five characters at most."""
    units = iter("KMGT")
    unit = ""
    while value >= 1000 and unit != "T":
        value, unit = value / 1024, next(units)
    return f"{value:.1f}{unit}" if unit and value < 10 else f"{value:.0f}{unit}"


_COLUMNS: Final[tuple[tuple[str, tuple[tuple[str, _Cell], ...]], ...]] = (
    ("process", (
        ("cpu", lambda span: f"{100 * span.more('cpu_ns') / 1e9 / span.seconds:.0f}%"),
        ("mem", lambda span: _short(span.level("resident_bytes"))),
        ("unsaved", lambda span: _short(span.level("unsaved_bytes"))),
    )),
    ("kernel", (("req", _all_per_second), ("ms", _all_milliseconds), ("read", _bytes_per_second("read_bytes")),
                ("write", _bytes_per_second("written_bytes")))),
    ("coordinator", (("req", _per_second("coordinator_count")), ("ms", _milliseconds("coordinator")))),
    ("cache hits", (("mem", _hits("memory")), ("disk", _hits("disk")))),
    ("chunks", (("get", _per_second("get_count")), ("ms", _milliseconds("get")), ("put", _per_second("put_count")),
                ("ms", _milliseconds("put")))),
    ("network", (("in", _bytes_per_second("received_bytes")), ("out", _bytes_per_second("sent_bytes")))),
)  # fmt: skip


def _show_line(span: Span, *, with_heads: bool) -> None:
    if with_heads:
        click.echo("|".join(group.center(sum(_width(title) for title, _ in cells), "-") for group, cells in _COLUMNS))
        click.echo(_line(lambda title, _: title))
    click.echo(_line(lambda _, cell: cell(span)))


def _line(text: Callable[[str, _Cell], str]) -> str:
    return "|".join("".join(text(title, cell).rjust(_width(title)) for title, cell in cells) for _, cells in _COLUMNS)


def _width(title: str) -> int:
    return max(5, len(title)) + 1
