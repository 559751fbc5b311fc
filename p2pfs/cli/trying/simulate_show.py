"""How `p2pfs simulate` shows how far it is and what it found. Imported only when it runs."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from p2pfs.cli.show import print_json, print_table
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.sim import paper, plot, survival
from p2pfs.sim.churn import DAY_S, SETS, PaperSet
from p2pfs.sim.parallel import Workers
from p2pfs.sim.search import Choice, Findings, Question
from p2pfs.types import MIB

Tell = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and how much there is."""

_SHOWN_SIZES: Final = (1, 5, 10, 14, 20, 25, 30, 40, 50, 60, 80, 100)
_VERDICTS: Final = {
    "reached": "reached",
    "missed": "missed",
    "unsure": "not sure",
    "busy": "too much to copy",
}


@contextmanager
def progress(*, quiet: bool) -> Iterator[Tell]:
    """A bar on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def tell(name: str, done: int, total: int) -> None:
            bars.update(task, description=name, completed=done, total=total)

        yield tell


def telling(tell: Tell) -> Callable[[int, float, int, int], None]:
    """What `search` tells, for a bar."""

    def told(copies: int, delay_s: float, done: int, most: int) -> None:
        tell(f"{copies} copies, {format_duration(delay_s)}: lives", done, most)

    return told


# ---- the paper ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaperFindings:
    runs: int
    periods: int
    seed: int
    sets: Sequence[tuple[PaperSet, Sequence[paper.Point], paper.Comparison]]
    curves: Sequence[survival.Curve]


def run_paper(workers: Workers, tell: Tell, *, runs: int, periods: int, seed: int) -> PaperFindings:
    """All three sets, one period and several."""
    sets = []
    for number, kind in enumerate(SETS):
        tell("one period: sets", number, len(SETS))
        points = paper.run(kind, runs=runs, seed=seed)
        sets.append((kind, points, paper.compare(kind, points, runs)))
    tasks, found = survival.tasks(runs=runs, periods=periods, seed=seed), []
    for task, ends in zip(tasks, workers.map(survival.run, tasks), strict=True):
        found.append((task, ends))
        tell(f"{periods} periods with repair: tasks", len(found), len(tasks))
    return PaperFindings(runs, periods, seed, sets, list(survival.curves(found)))


def show_paper(found: PaperFindings, path: Path | None, *, as_json: bool) -> None:
    """Print it, and draw it if there is a path."""
    if path is not None:
        plot.write(path, plot.paper(found.sets, found.curves, found.runs))
    if as_json:
        print_json(_paper_json(found))
        return
    for kind, points, compared in found.sets:
        click.echo(
            f"{kind.name}: {kind.connected} connected, {kind.leavers} leave in the hour, {kind.persistent} never do"
        )
        wanted = {*_SHOWN_SIZES, *(points[at].nodes for at in range(0, len(points), 7) if kind.connected > 100), 86}
        rows = [_point_row(point) for point in points if point.nodes in wanted]
        print_table(
            ("N", "best", "worst", "mean", "exact mean"), rows, right=("N", "best", "worst", "mean", "exact mean")
        )
        for sentence in paper.sentences(kind, compared, found.runs):
            click.echo(sentence)
        click.echo()
    marks = [str(mark[0]) for mark in found.curves[0].marks]
    titles = ("set", "copies", "repair delay", *(f"{mark} h" for mark in marks), "95 %", "copied an hour")
    print_table(titles, map(_curve_row, found.curves), right=("copies", *(f"{mark} h" for mark in marks)))
    click.echo(f"Runs of {found.runs} that still had the data, with our repair; the interval is of the last column.")
    if path is not None:
        click.echo(f"Drawn: {path}")


def _point_row(point: paper.Point) -> tuple[str, ...]:
    shares = (point.best, point.worst, point.mean, point.expected)
    return (str(point.nodes), *(f"{100 * share / point.nodes:.1f} %" for share in shares))


def _curve_row(curve: survival.Curve) -> tuple[str, ...]:
    *_, (_, _, low, high) = curve.marks
    return (
        curve.kind.name,
        str(curve.copies),
        "no repair" if math.isinf(curve.repair_delay_s) else format_duration(curve.repair_delay_s),
        *(str(left) for _, left, _, _ in curve.marks),
        f"{100 * low:.0f} to {100 * high:.0f} %",
        f"{curve.copied_per_period:.2f}",
    )


def _paper_json(found: PaperFindings) -> dict[str, Any]:
    return {
        "runs": found.runs,
        "periods": found.periods,
        "seed": found.seed,
        "sets": [
            {
                **asdict(kind),
                "points": [asdict(point) for point in points],
                "compared": asdict(compared),
                "sentences": list(paper.sentences(kind, compared, found.runs)),
            }
            for kind, points, compared in found.sets
        ],
        "repair": [
            {
                "set": curve.kind.name,
                "copies": curve.copies,
                "repair_delay_s": None if math.isinf(curve.repair_delay_s) else curve.repair_delay_s,
                "runs": curve.runs,
                "copied_per_period": curve.copied_per_period,
                "kept": [
                    {"periods": periods, "runs": left, "low": low, "high": high}
                    for periods, left, low, high in curve.marks
                ],
            }
            for curve in found.curves
        ],
    }


# ---- the operator's question ----------------------------------------------------------------------------------------


def show_findings(question: Question, findings: Findings, *, as_json: bool) -> None:
    """Print what was tried and the answer."""
    if as_json:
        print_json(_findings_json(question, findings))
        return
    pool, rates = question.pool, question.pool.rates
    click.echo(
        f"{pool.peers} peers, {pool.chunks} chunks; a peer that is up falls silent {rates.leaves_per_day:.3g} times a"
        f" day, {100 * rates.returning:.3g} % of them come back after {format_duration(rates.absence_s)} on average, so"
        f" {100 * rates.up_share:.1f} % are up."
    )
    lost = f"lost in {format_duration(question.period_s)}"
    titles = ("copies", "repair delay", lost, "95 %", "unreadable", "copied a peer a day", "lives", "target")
    print_table(titles, [_choice_row(question, choice) for choice in findings.choices], right=("copies", "lives"))
    click.echo()
    for sentence in answer_sentences(question, findings):
        click.echo(sentence)


def answer_sentences(question: Question, findings: Findings) -> Iterator[str]:
    """The answer, and how it is to be read."""
    kept, period = _kept(question.most_lost), format_duration(question.period_s)
    answer = findings.answer
    if answer is None:
        yield (
            f"Nothing that was tried keeps a chunk for {period} with a chance of {kept}: try more --copies, a shorter"
            " --repair-delay or a larger --sample, or find peers that stay."
        )
        return
    middle, low, high = answer.lost
    yield (
        f"Set replicas = {answer.copies} and repair_delay = {format_duration(answer.repair_delay_s).replace(' ', '')}:"
        f" a chunk is kept for {period} with a chance of {_kept(middle)} (95 %: {_kept(high)}"
        f" to {_kept(low)}; wanted: {kept}); of {question.pool.chunks} chunks {middle * question.pool.chunks:.2g} are"
        " lost in that time, on average."
    )
    if answer.hit == 0:
        yield (
            f"None of {answer.lives} lives came to a loss, also where those in danger were followed many times: the"
            " upper end is the rule of three, 3 in the time that was followed."
        )
    else:
        yield (
            f"{answer.hit} of {answer.lives} lives came to a loss. Lives in danger are followed many times, each time"
            " counting for less, so that losses are seen that are too rare to be waited for."
        )


def _kept(lost: float) -> str:
    """1 - lost, with as many digits as the loss has to say."""
    return "1" if lost <= 0 else f"{1 - lost:.{max(0, 1 - math.floor(math.log10(lost)))}f}".rstrip("0").rstrip(".")


def _choice_row(question: Question, choice: Choice) -> tuple[str, ...]:
    middle, low, high = choice.lost
    return (
        str(choice.copies),
        format_duration(choice.repair_delay_s),
        f"{middle:.2g}" if choice.hit else "none seen",
        f"{low:.2g} to {high:.2g}",
        f"{choice.dark_share:.1e}",
        f"{format_size(round(_copied_bytes(question, choice)))} ({100 * choice.load:.1f} %)",
        str(choice.lives),
        _VERDICTS[choice.verdict],
    )


def _copied_bytes(question: Question, choice: Choice) -> float:
    """What a peer copies in a day."""
    return choice.copied_per_s * DAY_S * question.pool.chunks * MIB / question.pool.peers


def _findings_json(question: Question, findings: Findings) -> dict[str, Any]:
    pool = question.pool
    return {
        "peers": pool.peers,
        "chunks": pool.chunks,
        **asdict(pool.rates),
        "up_share": pool.rates.up_share,
        "target": 1 - question.most_lost,
        "period_s": question.period_s,
        "sample": question.sample,
        "seed": question.seed,
        "choices": [
            {
                "copies": choice.copies,
                "repair_delay_s": choice.repair_delay_s,
                "lives": choice.lives,
                "hit": choice.hit,
                "lost": dict(zip(("estimate", "low", "high"), choice.lost, strict=True)),
                "unreadable": choice.dark_share,
                "copied_bytes": _copied_bytes(question, choice),
                "load": choice.load,
                "target": choice.verdict,
            }
            for choice in findings.choices
        ],
        "answer": None
        if findings.answer is None
        else {"replicas": findings.answer.copies, "repair_delay_s": findings.answer.repair_delay_s},
    }
