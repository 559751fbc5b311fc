"""The pure part of `make bench-peers`: medians, ratios, targets and tables; and that its cleaning up is not cut short.
What is measured is nobody's test."""

import importlib.util
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.l0

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


comparison = load("comparison")
tidy = load("tidy")
CLOSE, FSYNC, SHARED = (comparison.MODES[name] for name in ("close", "fsync", "shared"))


def row(rate: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - as the workload writes them
    return {"rate": rate, "unit": "MiB/s", "cpu_ms_per_unit": 2.0, "cold": "no"} | more


def turn(mode: str, system: str, **rows: dict[str, Any]) -> dict[str, Any]:
    return {"mode": mode, "system": system, "rows": rows}


def cells(text: str, first: str) -> list[str]:
    """The row of a Markdown table that begins so."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return next(line for line in lines if line[0] == first)


def test_the_ratio_is_that_of_the_medians() -> None:
    turns = [turn("close", "p2pfs", seq_write=row(rate)) for rate in (90.0, 100.0, 500.0)]
    turns += [turn("close", "MooseFS", seq_write=row(rate)) for rate in (40.0, 50.0, 60.0)]
    assert comparison.Figures(turns, CLOSE).ratio("seq_write") == 2.0


def test_turns_of_another_mode_do_not_count() -> None:
    turns = [turn("close", "p2pfs", seq_write=row(100)), turn("fsync", "p2pfs", seq_write=row(900))]
    assert comparison.Figures(turns, CLOSE).rate("p2pfs", "seq_write") == 100
    assert comparison.Figures(turns, FSYNC).rate("p2pfs", "seq_write") == 900
    assert comparison.Figures(turns, SHARED).rate("p2pfs", "seq_write") is None


def test_what_belongs_to_no_mode_stands_in_each() -> None:
    turns = [turn("", "nothing", seq_write=row(600)), turn("", "plain", seq_write=row(1200))]
    turns += [turn(mode, "p2pfs", seq_write=row(100)) for mode in ("close", "fsync")]
    for mode in (CLOSE, FSYNC):
        assert cells(comparison.speed(comparison.Figures(turns, mode)), "seq_write")[-2:] == ["600.0", "1200"]


@pytest.mark.parametrize(
    ("reached", "target", "expected"),
    [
        (1.2, 1.2, "yes"),
        (1.19, 1.2, "no, 99 % of it"),
        (0.84, 1.2, "no, 70 % of it"),
        (0.83, 1.2, "no, 69 % of it (far)"),
        (None, 1.2, "not measured"),
    ],
)
def test_a_verdict_says_how_far_it_is(reached: float | None, target: float, expected: str) -> None:
    assert comparison.verdict(reached, target) == expected


def test_nothing_is_divided_by_what_is_not_there() -> None:
    assert comparison.ratio(1.0, None) is None
    assert comparison.ratio(None, 1.0) is None
    assert comparison.ratio(1.0, 0.0) is None


def test_turns_of_parts_of_the_workload_add_up_to_runs() -> None:
    turns = [turn("close", "p2pfs", **{phase: row(1)}) for phase in ("seq_write", "untar", "untar")]
    turns += [turn("close", "MooseFS", seq_write=row(1), untar=row(1)), turn("fsync", "MooseFS", untar=row(1))]
    assert comparison.Figures(turns, CLOSE).runs() == (2, 1)


def test_a_phase_that_failed_is_named_and_not_counted() -> None:
    turns = [
        turn("close", "p2pfs", seq_write=row(100), wrong_data={"error": "MiB 3 of the large file"}),
        turn("close", "p2pfs", seq_write=row(200)),
        turn("close", "MooseFS", seq_write=row(100)),
    ]
    text = comparison.report(turns, {})
    assert "**Failed:** p2pfs, wrong_data: MiB 3 of the large file" in text
    assert cells(text, "seq_write")[2:7] == ["150.0", "100.0", "1.50", "≥ 1.2", "yes"]


def test_who_refused_is_left_out_with_the_reason() -> None:
    text = comparison.report([turn("close", "MooseFS", seq_write=row(100))], {"p2pfs close": "no such option"})
    assert "**Left out:** p2pfs close: no such option." in text
    assert cells(text, "seq_write")[2:7] == ["", "100.0", "", "≥ 1.2", "not measured"]


def test_shared_mode_has_no_targets_and_shows_the_second_mount() -> None:
    peaks = {"mount": 90.0, "second mount": 60.0, "peer-1": 40.0, "peer-2": 50.0, "coordinator": 70.0}
    text = comparison.report([turn("shared", "p2pfs", seq_write=row(100, peak_mib_by_part=peaks))], {})
    assert "target" not in text
    assert cells(text, "peak MiB in")[1:5] == [
        "p2pfs mount", "p2pfs coordinator", "p2pfs peer", "p2pfs second mount",
    ]  # fmt: skip
    peaks_shown = [line for line in text.splitlines() if line.startswith("| seq_write")][-1]
    assert peaks_shown.split("|")[2:6] == [" 90 ", " 70 ", " 50 ", " 60 "]


def test_cost_is_by_part_and_fetched_bytes_only_where_it_was_cold() -> None:
    parts = {"mount": 3.0, "peer-1": 1.0, "peer-2": 2.0, "coordinator": 0.5}
    measured = {"system_cpu_ms_per_unit": 6.5, "cpu_ms_by_part": parts, "fetched_mib": 512.0}
    cold = row(1, **measured, cold="remounted")
    turns = [turn("close", "p2pfs", seq_write=row(1, **measured), seq_read_cold=cold)]
    text = comparison.cost(comparison.Figures(turns, CLOSE))
    assert cells(text, "seq_write")[1:] == ["MiB", "6.50", "", "", "3.00", "3.00", "0.50", "2.00", "", "", ""]
    assert cells(text, "seq_read_cold")[-2:] == ["512.0", ""]
    assert set(cells(comparison.memory(comparison.Figures(turns, CLOSE)), "seq_write")[1:]) == {""}


def test_the_summary_counts_and_names_what_has_to_be_reached() -> None:
    ours = {"seq_write": row(200), "stat_walk_warm": row(500), "unlink": row(60)}
    theirs = {"seq_write": row(100), "stat_walk_warm": row(100), "unlink": row(100)}
    turns = [turn("close", "p2pfs", **ours), turn("close", "MooseFS", **theirs)]
    assert comparison.summary(comparison.Figures(turns, CLOSE)) == (
        "1 of 3 targets are reached. Below 0.7 of its target: stat_walk_warm, unlink."
        " Not reached, and must be: stat_walk_warm."
    )


def test_every_phase_of_the_workload_has_a_target() -> None:
    source = (BENCHMARKS / "workload.py").read_text(encoding="utf-8")
    for mode in (CLOSE, FSYNC):
        assert mode.ratios.keys() == set(comparison.PHASES)
    for phase in comparison.PHASES:
        assert f'"{phase}"' in source


def interrupted(steps: list[str], *, failing: bool) -> None:
    with tidy.undisturbed():
        signal.raise_signal(signal.SIGINT)
        steps.append("cleaned up")
        if failing:
            raise RuntimeError


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("failing", [False, True])
def test_an_interrupt_counts_after_what_must_not_be_cut_short(failing: bool) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(steps, failing=failing)
    assert steps == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
