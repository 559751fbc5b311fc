"""What `peers.py` measured, as medians, ratios and Markdown, beside the targets. Pure: no file system is touched here.

A *turn* is one run of the workload on one system: {"mode", "system", "rows": {phase: {"rate", "unit", …}}}. Turns of
`nothing` and of the plain directory belong to no mode and stand beside every one.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

OURS: Final = "p2pfs"
THEIRS: Final = "MooseFS"
NOTHING: Final = "nothing"
PLAIN: Final = "plain"

Turn = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mode:
    """How both systems are asked to keep what was written; `ratios` are the least of ours/theirs by phase, if any."""

    name: str
    title: str
    options: str  # of our mount, behind -o
    sync: bool  # MooseFS: its chunkservers sync a chunk when it is closed
    shared: bool = False  # with a second mount of the same volume
    ratios: Mapping[str, float] | None = None


# phase: (durability=close, durability=fsync)
_RATIOS: Final = {
    "seq_write": (1.2, 1.2),
    "seq_read_cold": (0.8, 0.8),
    "seq_read_warm": (1.0, 1.0),
    "rand_read_4k": (1.0, 1.0),
    "rand_read_4k_16t": (0.7, 0.7),
    "rand_write_4k": (1.0, 1.0),
    "small_create": (1.2, 3.0),
    "small_create_8t": (2.0, 2.5),
    "small_create_fsync": (1.0, 1.0),
    "stat_walk_cold": (3.0, 3.0),
    "stat_walk_warm": (10.0, 10.0),
    "small_read_cold": (1.0, 1.0),
    "unlink": (1.0, 1.5),
    "untar": (1.2, 2.5),
}
PHASES: Final = tuple(_RATIOS)
MUST: Final = frozenset(("seq_write", "small_create", "small_create_8t", "stat_walk_cold", "stat_walk_warm"))
"""Phases whose target has to be reached; the others may stay above `LEAST` of theirs."""
LEAST: Final = 0.7

MODES: Final = {
    mode.name: mode
    for mode in (
        Mode(
            "close", "`durability=close` beside MooseFS with `FSYNC=1`", "durability=close", True,
            ratios={name: close for name, (close, _) in _RATIOS.items()},
        ),
        Mode(
            "fsync", "`durability=fsync` beside MooseFS with `FSYNC=0`", "durability=fsync", False,
            ratios={name: fsync for name, (_, fsync) in _RATIOS.items()},
        ),
        Mode(
            "shared", "Shared mode: `durability=close`, `FSYNC=1`, and a second mount of the volume is there",
            "durability=close", True, shared=True,
        ),
    )
}  # fmt: skip


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """None where one of them is not known, or theirs is nothing."""
    return None if ours is None or not theirs else ours / theirs


def verdict(reached: float | None, target: float) -> str:
    if reached is None:
        return "not measured"
    if reached >= target:
        return "yes"
    return f"no, {100 * reached / target:.0f} % of it" + ("" if reached >= LEAST * target else " (far)")


class Figures:
    """Medians over the turns of one mode."""

    def __init__(self, turns: Sequence[Turn], mode: Mode) -> None:
        self._turns, self.mode = turns, mode

    def _rows(self, system: str, phase: str) -> list[Row]:
        of_system = [turn["rows"] for turn in self._of_mode() if turn["system"] == system]
        return [rows[phase] for rows in of_system if "rate" in rows.get(phase, {})]

    def _of_mode(self) -> list[Turn]:
        return [turn for turn in self._turns if turn["mode"] in ("", self.mode.name)]

    def median(self, system: str, phase: str, pick: Callable[[Row], float | None]) -> float | None:
        """Of what `pick` finds in the rows; None where it finds nothing."""
        found = [value for row in self._rows(system, phase) if (value := pick(row)) is not None]
        return statistics.median(found) if found else None

    def rate(self, system: str, phase: str) -> float | None:
        return self.median(system, phase, lambda row: row["rate"])

    def ratio(self, phase: str) -> float | None:
        return ratio(self.rate(OURS, phase), self.rate(THEIRS, phase))

    def unit(self, phase: str) -> str:
        rows = [row for system in (OURS, THEIRS, NOTHING, PLAIN) for row in self._rows(system, phase)]
        return str(rows[0]["unit"]) if rows else ""

    def phases(self) -> list[str]:
        """Those that either system went through, in the workload's order."""
        return [phase for phase in PHASES if self._rows(OURS, phase) or self._rows(THEIRS, phase)]

    def runs(self) -> tuple[int, int]:
        """How often, at most, a phase was measured with us and with them: a turn need not have all phases."""
        ours, theirs = (max(len(self._rows(system, phase)) for phase in PHASES) for system in (OURS, THEIRS))
        return ours, theirs

    def failures(self) -> list[str]:
        """What went wrong, by system and phase."""
        return [
            f"{turn['system']}, {phase}: {row['error']}"
            for turn in self._of_mode()
            for phase, row in turn["rows"].items()
            if "error" in row
        ]


def speed(figures: Figures) -> str:
    """Rates and targets."""
    ratios = figures.mode.ratios
    heads = ["phase", "unit", "p2pfs", "MooseFS", "ratio"] + (["target", "reached"] if ratios else [])
    rows = []
    for phase in figures.phases():
        found = figures.ratio(phase)
        row = [phase, figures.unit(phase), _n(figures.rate(OURS, phase)), _n(figures.rate(THEIRS, phase)), _n(found, 2)]
        if ratios:
            row += [f"≥ {ratios[phase]}", verdict(found, ratios[phase])]
        rows.append([*row, _n(figures.rate(NOTHING, phase)), _n(figures.rate(PLAIN, phase))])
    return markdown([*heads, "does nothing", "plain directory"], rows)


def cost(figures: Figures) -> str:
    """Processor time for a unit of work, and what the cold phases fetched."""
    rows = []
    for phase in figures.phases():
        row = [phase, figures.unit(phase).replace("IOPS", "4 KiB").removesuffix("/s")]
        row += [_n(figures.median(name, phase, _system_cpu), 2) for name in (OURS, THEIRS)]
        row.append(_n(ratio(figures.median(OURS, phase, _system_cpu), figures.median(THEIRS, phase, _system_cpu)), 2))
        row += [_n(figures.median(OURS, phase, _cpu_of(kind)), 2) for kind in ("mount", "peer", "coordinator")]
        row += [_n(figures.median(name, phase, _machine_cpu), 2) for name in (OURS, THEIRS)]
        rows.append(row + [_n(figures.median(name, phase, _fetched)) for name in (OURS, THEIRS)])
    heads = ["phase", "CPU ms a", "p2pfs", "MooseFS", "ratio", "its mount", "its peers", "its coordinator"]
    heads += ["machine, p2pfs", "machine, MooseFS", "fetched cold MiB, p2pfs", "MooseFS"]
    return markdown(heads, rows)


def memory(figures: Figures) -> str:
    """Peaks of resident memory by part; of peers and chunkservers the greatest."""
    parts = [(OURS, kind) for kind in ("mount", "coordinator", "peer")]
    parts += [(THEIRS, kind) for kind in ("mount", "master", "chunkserver")]
    if figures.mode.shared:
        parts[3:3] = [(OURS, "second mount")]
        parts.append((THEIRS, "second mount"))
    rows = [
        [phase, *(_n(figures.median(system, phase, _peak_of(kind)), 0) for system, kind in parts)]
        for phase in figures.phases()
    ]
    return markdown(["peak MiB in", *(f"{system} {kind}" for system, kind in parts)], rows)


def summary(figures: Figures) -> str:
    """How many targets are reached, and which are not that have to be."""
    ratios = figures.mode.ratios
    if not ratios:
        return ""
    found = {phase: figures.ratio(phase) for phase in figures.phases()}
    reached = [phase for phase, value in found.items() if value is not None and value >= ratios[phase]]
    text = f"{len(reached)} of {len(found)} targets are reached."
    far = [phase for phase, value in found.items() if value is None or value < LEAST * ratios[phase]]
    if far:
        text += f" Below {LEAST} of its target: {', '.join(far)}."
    must = [phase for phase in found if phase in MUST and phase not in reached]
    if must:
        text += f" Not reached, and must be: {', '.join(must)}."
    return text


def report(turns: Sequence[Turn], refusals: Mapping[str, str]) -> str:
    """Everything as Markdown. `refusals`: who was left out, in which mode, and why."""
    sections = [f"**Left out:** {who}: {why}." for who, why in refusals.items()]
    for mode in MODES.values():
        figures = Figures(turns, mode)
        ours, theirs = figures.runs()
        if not ours + theirs:
            continue
        of = f"Medians of {ours} runs of p2pfs and {theirs} of MooseFS."
        parts = [f"### {mode.title}", f"{of} {summary(figures)}".strip()]
        parts += [f"**Failed:** {failure}" for failure in figures.failures()]
        sections.append("\n\n".join([*parts, speed(figures), cost(figures), memory(figures)]))
    return "\n\n".join(sections)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- ", "|---").replace("---|", "---|")


def _n(value: float | None, digits: int | None = None) -> str:
    """A number for a person: digits behind the point as given, or fewer for great numbers."""
    if value is None:
        return ""
    return f"{value:.{digits if digits is not None else 1 if value < 1000 else 0}f}"


def _system_cpu(row: Row) -> float | None:
    return row.get("system_cpu_ms_per_unit")


def _machine_cpu(row: Row) -> float | None:
    return row.get("cpu_ms_per_unit")


def _fetched(row: Row) -> float | None:
    return row.get("fetched_mib") if row.get("cold", "no") != "no" else None


def _cpu_of(kind: str) -> Callable[[Row], float | None]:
    def pick(row: Row) -> float | None:
        return sum((ms for part, ms in row.get("cpu_ms_by_part", {}).items() if _is(part, kind)), 0.0)

    return pick


def _peak_of(kind: str) -> Callable[[Row], float | None]:
    def pick(row: Row) -> float | None:
        return max((mib for part, mib in row.get("peak_mib_by_part", {}).items() if _is(part, kind)), default=None)

    return pick


def _is(part: str, kind: str) -> bool:
    """Peers and chunkservers are numbered."""
    return part == kind or part.startswith(f"{kind}-")
