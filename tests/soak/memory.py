"""What processes take: samples of resident memory, descriptors and threads, and whether they grow.

Reading `/proc` is here; judging is pure. A process is judged by its own samples, from start to end, so a part that is
started again begins anew. What it takes in the first part of its life is warm-up: caches that fill up to their bounds.

Under load a process takes what is under way, which is bounded (the ceilings) and goes up and down with what breaks; a
leak shows in what it keeps when it is asked for nothing. So the run rests now and then, and rests are compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
CEILINGS: Final = {"coordinator": 200 * MIB, "peer": 150 * MIB, "mount": 300 * MIB}
"""Resident, by role; nothing may be above it, not even once."""
WARM_UP_S: Final = 300.0
"""Of a process's life: caches fill, and the allocator gets as large as the busiest moment made it. Seen: mounts that
level off after four to five minutes, peers after two to three."""
REST_S: Final = 75.0
"""Of no load at all: processes look each half a minute for memory that they do not need, and find it at the second."""
RESTING_S: Final = 35.0
"""The end of a rest, of which the least counts: what a process keeps. Between two such looks an idle coordinator takes
and gives back 5 to 13 MiB, for a backup, a scan; what it happens to have at some second of that says nothing."""
APART_S: Final = 300.0
"""Between the rests that are compared, at least."""
LEAST_S: Final = 600.0
"""A shorter life shows nothing but warm-up."""
TELLING_MINUTES: Final = 25.0
"""A run as long as this must show of each role whether it grows."""
MARGIN: Final = 0.08
LEAST_MARGIN_BYTES: Final = 8 * MIB
MORE_DESCRIPTORS: Final = 6
MORE_THREADS: Final = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process. `at_s` counts from the start of the run."""

    at_s: float
    part: str
    pid: int
    resident: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What one process took early, after its warm-up, and late in its life: resident memory by the least in the first
    and the last rest, the others as the most early and the least late."""

    part: str
    pid: int
    life_s: float
    early: int
    late: int
    most: int
    descriptors: tuple[int, int]
    threads: tuple[int, int]


def read(at_s: float, part: str, pid: int) -> Sample | None:
    """None if there is no such process any more."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    if "VmRSS" not in fields:  # it is ending
        return None
    return Sample(at_s, part, pid, int(fields["VmRSS"].split()[0]) << 10, descriptors, int(fields["Threads"]))


def role_of(part: str) -> str:
    return part if part == "coordinator" else "peer" if part.startswith("peer") else "mount"


def lives(samples: Iterable[Sample]) -> Mapping[tuple[str, int], Sequence[Sample]]:
    """By process."""
    found: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.part, sample.pid].append(sample)
    return found


def is_rest_due(due: Sequence[float], rests: Sequence[float], *, progress: float, at_s: float) -> bool:
    """Whether the next rest begins now, `at_s` from the start of the run. `due`: how far the run is at those to come;
    `rests`: when those before ended. The last one waits until it can be compared with the one before, however late that
    was: it may be the first of somebody's who was not warm earlier."""
    if not due or progress < due[0]:
        return False
    return len(due) > 1 or not rests or at_s + REST_S >= rests[-1] + APART_S


def growth(life: Sequence[Sample], rests: Sequence[float]) -> Growth | None:
    """`rests`: when each ended. None if it did not live long enough to tell."""
    born, died = life[0].at_s, life[-1].at_s
    warm = [sample for sample in life if sample.at_s >= born + WARM_UP_S]
    resting = {
        end_s: [sample.resident for sample in warm if end_s - RESTING_S <= sample.at_s <= end_s] for end_s in rests
    }
    told = [end_s for end_s in sorted(resting) if resting[end_s]]
    loaded = [sample for sample in warm if not any(end_s - REST_S <= sample.at_s <= end_s for end_s in rests)]
    if died - born < LEAST_S or len(loaded) < 9 or not told or told[-1] - told[0] < APART_S:
        return None
    third = len(loaded) // 3
    first, last = loaded[:third], loaded[-third:]
    return Growth(
        life[0].part,
        life[0].pid,
        died - born,
        early=min(resting[told[0]]),
        late=min(resting[told[-1]]),
        most=max(sample.resident for sample in life),
        descriptors=_apart(first, last, "descriptors"),
        threads=_apart(first, last, "threads"),
    )


def _apart(first: Sequence[Sample], last: Sequence[Sample], name: str) -> tuple[int, int]:
    """The most early and the least late: connections come and go, and only what never goes parts the two."""
    return max(getattr(sample, name) for sample in first), min(getattr(sample, name) for sample in last)


def wrong(samples: Sequence[Sample], rests: Sequence[float], minutes: float) -> list[str]:
    """What grows or is above its ceiling, in words; of a run long enough also which role nobody can tell of."""
    said, told = [], set()
    for (part, pid), life in lives(samples).items():
        ceiling = CEILINGS[role_of(part)]
        if (most := max(sample.resident for sample in life)) > ceiling:
            said.append(f"{part} ({pid}) took {most / MIB:.0f} MiB, more than {ceiling // MIB}")
        if (found := growth(life, rests)) is None:
            continue
        told.add(role_of(part))
        said += _grown(found)
    untold = [role for role in CEILINGS if role not in told and minutes >= TELLING_MINUTES]
    return said + [f"no {role} lived long enough to show whether it grows" for role in untold]


def _grown(found: Growth) -> list[str]:
    name, said = f"{found.part} ({found.pid}) in {found.life_s:.0f} s", []
    if found.late > found.early + max(LEAST_MARGIN_BYTES, MARGIN * found.early):
        said.append(f"{name}: resident memory at rest grew from {found.early / MIB:.1f} to {found.late / MIB:.1f} MiB")
    if found.descriptors[1] > found.descriptors[0] + MORE_DESCRIPTORS:
        said.append(f"{name}: descriptors grew from {found.descriptors[0]} to {found.descriptors[1]}")
    if found.threads[1] > found.threads[0] + MORE_THREADS:
        said.append(f"{name}: threads grew from {found.threads[0]} to {found.threads[1]}")
    return said
