"""What `p2pfs bench` found, summed up and explained. Pure: no clock, no file, no terminal."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from p2pfs.runtime.sizes import format_size
from p2pfs.types import MIB

MEANINGS: Final = {
    "write": "One large file in pieces of 1 MiB, until close returned: what is copied into the mount.",
    "read": "The same file from its beginning; the kernel was told to forget it, and how much the mount had to fetch"
    " from peers stands below.",
    "read again": "Once more: what is still in this machine's memory.",
    "random read": "4 KiB at random places of the file, one after the other: what a database or a disk image feels.",
    "create": "Small files of 4 KiB, one after the other, each opened, written and closed: what unpacking an archive"
    " feels.",
    "stat": "Looking at each of them: what ls -l or a backup that finds nothing new feels.",
    "read small": "Opening and reading each of them, after the kernel was told to forget it: what starting a program"
    " feels.",
    "delete": "Deleting each of them.",
}
"""By phase, in the order they are done."""


class Phase(msgspec.Struct, frozen=True):
    """One phase: how much was done in how long, and how long single steps took. `rate`: of `unit`, a second."""

    name: str
    unit: str
    rate: float
    count: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def phase(name: str, unit: str, latencies_s: Sequence[float], seconds: float) -> Phase:
    """Sum up steps of one unit each."""
    ordered = sorted(latencies_s)
    count = len(ordered)
    p50, p95, p99 = (round(1000 * percentile(ordered, share), 3) for share in (0.5, 0.95, 0.99))
    return Phase(name, unit, round(count / seconds, 1) if seconds > 0 else 0.0, count, round(seconds, 4), p50, p95, p99)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of `ordered` that at least this share of them does not exceed (nearest rank); 0 of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def row(found: Phase) -> tuple[str, ...]:
    """For a table: name, rate, and milliseconds."""
    rate = f"{found.rate:.0f}" if found.rate >= 100 else f"{found.rate:.1f}"
    return (found.name, f"{rate} {found.unit}", *(f"{ms:.2f}" for ms in (found.p50_ms, found.p95_ms, found.p99_ms)))


def fetched_sentence(fetched_bytes: int | None, size_mib: int) -> str:
    """How cold the first reading was."""
    if fetched_bytes is None:
        return "How much of the first reading came from peers is not known here."
    share = min(100, round(100 * fetched_bytes / (size_mib * MIB))) if size_mib else 0
    return (
        f"In the first reading {format_size(fetched_bytes)} came from peers, {share} % of the file; the rest was in the"
        " mount's own cache."
    )


PERCENTILES: Final = (
    "p50, p95 and p99 are milliseconds that half, 95 and 99 of 100 steps did not exceed: the last is what one notices"
    " as stuttering. All of it holds for this machine, this pool and this moment; run it again, and compare."
)
