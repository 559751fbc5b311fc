"""What a process tells Prometheus: figures that are read when somebody asks, from numbers that are kept anyway.

A figure is a name, a meaning and a function; nothing is counted here, so that nothing costs anything while nobody asks.
Labels come from small fixed sets: never a name, a path, an id or anything a stranger can choose. The names are
documented in docs/monitoring.md. The library is imported when the first answer is made. Called by `net.exposition`.
"""

import importlib.metadata
import itertools
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from p2pfs.runtime import log as logs
from p2pfs.runtime.latency import BOUNDS_S, Latency

if TYPE_CHECKING:
    from prometheus_client import Metric

_log = logging.getLogger(__name__)

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Latency | Mapping[Any, float] | Mapping[Any, Latency]
"""A number, or one for each value of the label, or for each tuple of values of the labels."""
MOST_LABELLED: Final = 200
"""Of one figure; a bug that labels without bound must not fill Prometheus."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric. Counters' names end in `_total`. `read` must not block, and what it raises leaves the figure out."""

    name: str
    kind: Kind
    help: str
    read: Callable[[], Value]
    labels: tuple[str, ...] = ()


def counter(name: str, help: str, read: Callable[[], Value], *labels: str) -> Figure:
    """What only rises while the process lives."""
    return Figure(name, "counter", help, read, labels)


def gauge(name: str, help: str, read: Callable[[], Value], *labels: str) -> Figure:
    """What rises and falls."""
    return Figure(name, "gauge", help, read, labels)


def histogram(name: str, help: str, read: Callable[[], Latency | Mapping[str, Latency]], *labels: str) -> Figure:
    """How long something took, in seconds."""
    return Figure(name, "histogram", help, read, labels)


class Exposition:
    """All figures of a process as the text that Prometheus reads."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = figures
        self._failed: set[str] = set()

    def collect(self) -> "Iterator[Metric]":
        """As the library's registry asks for it."""
        for figure in self._figures:
            try:
                metric = _metric(figure)
            except Exception:  # the others are still worth having
                if figure.name not in self._failed:
                    self._failed.add(figure.name)
                    _log.exception("the metric %s cannot be read", figure.name)
            else:
                yield metric

    def text(self) -> bytes:
        """In the text format, version 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self)


def process_figures(part: str) -> list[Figure]:
    """What every process can say of itself; `part` is coordinator, peer or mount."""
    began_s = time.monotonic()
    return [
        gauge("p2pfs_build_info", "1; which version this is, and of what.", lambda: {(version(), part): 1.0},
              "version", "part"),
        gauge("p2pfs_uptime_seconds", "Since it was started.", lambda: time.monotonic() - began_s),
        counter("p2pfs_log_records_total", "Warnings and errors in its log.", lambda: logs.counted(), "level"),
        counter("process_cpu_seconds_total", "Processor time, user and system.", _cpu_s),
        gauge("process_resident_memory_bytes", "Memory in use.", resident_bytes),
        gauge("process_open_fds", "Open files and connections.", _open_files),
        gauge("process_max_fds", "How many it may have.", lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ]  # fmt: skip


def version() -> str:
    """What this process runs; empty when it was not installed."""
    try:
        return importlib.metadata.version("p2pfs")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _metric(figure: Figure) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    value = figure.read()
    if figure.kind == "histogram":
        spread = HistogramMetricFamily(figure.name, figure.help, labels=figure.labels)
        for labels, latency in _labelled(value):
            assert isinstance(latency, Latency), figure.name
            spread.add_metric(labels, _cumulative(latency), latency.total_ns / 1e9)
        return spread
    family = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = family(figure.name, figure.help, labels=figure.labels)
    for labels, number in _labelled(value):
        assert not isinstance(number, Latency), figure.name
        metric.add_metric(labels, number)
    return metric


def _labelled(value: Value) -> Iterator[tuple[tuple[str, ...], float | Latency]]:
    if not isinstance(value, Mapping):
        yield (), value
        return
    for key in itertools.islice(value, MOST_LABELLED):
        yield (key,) if isinstance(key, str) else key, value[key]


def _cumulative(latency: Latency) -> list[tuple[str, float]]:
    buckets, below = [], 0
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], latency.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


def resident_bytes() -> float:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> Value:
    try:
        return len(os.listdir("/proc/self/fd"))
    except PermissionError:  # a hardened process may not look at itself, unless it is root's
        return {}
