"""The report of a soak, for people: what was done, what was found, and memory over time as text and as a picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from soak import memory
from soak.memory import MIB, Growth, Sample
from soak.warnings import Past

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = (
    "#1f77b4",
    "#d62728",
    "#2ca02c",
    "#9467bd",
    "#ff7f0e",
    "#8c564b",
    "#17becf",
    "#7f7f7f",
    "#bcbd22",
    "#e377c2",
)
_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 320, 56, 24
_COLUMNS = 40


def sparkline(values: Sequence[float], top: float) -> str:
    """One letter for each part of the values, the highest of it as a share of `top`."""
    if not values:
        return ""
    count = min(_COLUMNS, len(values))
    cells = [values[len(values) * i // count : max(len(values) * (i + 1) // count, len(values) * i // count + 1)]
             for i in range(count)]  # fmt: skip
    return "".join(_BARS[min(len(_BARS) - 1, int(max(cell) / top * len(_BARS)))] for cell in cells)


def memory_table(samples: Sequence[Sample], rests: Sequence[float]) -> str:
    """A row for each part, with the process of it that lived longest; `early` and `late` are at rest."""
    rows = ["| part | processes | lived s | early MiB | late MiB | most MiB | fds | threads | resident |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    by_part: dict[str, list[Sequence[Sample]]] = {}
    for (part, _), life in memory.lives(samples).items():
        by_part.setdefault(part, []).append(life)
    for part, lives in sorted(by_part.items()):
        longest = max(lives, key=lambda life: life[-1].at_s - life[0].at_s)
        line = sparkline([sample.resident for sample in longest], memory.CEILINGS[memory.role_of(part)])
        most = max(sample.resident for life in lives for sample in life)
        grown = memory.growth(longest, rests)
        figures = _figures(grown) if grown else "– | – | –"
        ends = f"{_ends(grown)} | {line} |" if grown else f"– | – | {line} |"
        early_late, lived = figures, f"{longest[-1].at_s - longest[0].at_s:.0f}"
        rows.append(f"| {part} | {len(lives)} | {lived} | {early_late.rsplit(' | ', 1)[0]} | {most / MIB:.1f} | {ends}")
    return "\n".join(rows)


def _figures(grown: Growth) -> str:
    return f"{grown.early / MIB:.1f} | {grown.late / MIB:.1f} | {grown.most / MIB:.1f}"


def _ends(grown: Growth) -> str:
    return f"{grown.descriptors[0]}→{grown.descriptors[1]} | {grown.threads[0]}→{grown.threads[1]}"


def picture(samples: Sequence[Sample]) -> str:
    """Resident memory over time, a line for each process, as SVG."""
    end_s = max((sample.at_s for sample in samples), default=1.0) or 1.0
    top = max((sample.resident for sample in samples), default=1) * 1.1
    parts = sorted({sample.part for sample in samples})
    colours = {part: _COLOURS[number % len(_COLOURS)] for number, part in enumerate(parts)}

    def at(sample: Sample) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 130) * sample.at_s / end_s
        return f"{x:.1f},{_TOP + (_HEIGHT - 2 * _TOP) * (1 - sample.resident / top):.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colours[part]}" points="{" ".join(at(sample) for sample in life)}"/>'
        for (part, _), life in memory.lives(samples).items()
    ]
    legend = [
        f'<text x="{_WIDTH - 115}" y="{_TOP + 16 * number}" fill="{colours[part]}">{escape(part)}</text>'
        for number, part in enumerate(parts)
    ]
    scale = [
        f'<text x="4" y="{_TOP + (_HEIGHT - 2 * _TOP) * (1 - share):.0f}">{top * share / MIB:.0f} MiB</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
            ' font-size="11"><rect width="100%" height="100%" fill="white"/>',
            *scale,
            *lines,
            *legend,
            f'<text x="{_LEFT}" y="{_HEIGHT - 6}">resident memory over {end_s / 60:.1f} minutes</text>',
            "</svg>\n",
        ]
    )


def text(
    *,
    title: str,
    problems: Sequence[str],
    history: Sequence[Past],
    steps: Mapping[str, int],
    figures: Mapping[str, object],
    samples: Sequence[Sample],
    rests: Sequence[float],
) -> str:
    """The whole report in Markdown."""
    faults = Counter(str(past.fault) for past in history)
    lines = [f"# {title}", "", "**PASSED**" if not problems else "**FAILED**", ""]
    lines += [f"* {problem}" for problem in problems] + ([""] if problems else [])
    lines += ["## What was done", "", "| what | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in figures.items()]
    lines += [f"| fault: {name} | {count} |" for name, count in sorted(faults.items())]
    lines += [f"| files: {name} | {count} |" for name, count in sorted(steps.items())]
    lines += ["", "## Memory", "", memory_table(samples, rests), "", "![resident memory](memory.svg)", ""]
    return "\n".join(lines)
