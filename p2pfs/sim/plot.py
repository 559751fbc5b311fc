"""Plots of the paper's experiment: what is to be drawn, as a list of shapes, and both ways to write it.

SVG is text. PNG needs fonts made into pixels: Pillow, the extra `plot`, imported only then.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.sizes import format_duration
from p2pfs.sim.churn import PaperSet
from p2pfs.sim.paper import Comparison, Point
from p2pfs.sim.survival import Curve

SUFFIXES: Final = (".svg", ".png")
WIDTH, HEIGHT = 1140, 700
_PANEL_WIDTH, _PANEL_HEIGHT = 380, 350
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 52, 46
_SHARPNESS: Final = 2
"""Pixels of a PNG for each unit."""
_INK, _PALE = "#333333", "#999999"
_COLOURS: Final = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through some points."""

    points: Sequence[tuple[float, float]]
    colour: str = _INK
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Text:
    """Words; `anchor` says which part of them is at x: start, middle or end. y is their middle."""

    x: float
    y: float
    words: str
    anchor: str = "start"
    colour: str = _INK
    size: int = 12


@dataclass(frozen=True, slots=True)
class Ring:
    """A small circle around a point."""

    x: float
    y: float
    colour: str
    radius: float = 5.0


Shape = Stroke | Text | Ring


def require_writable(path: Path) -> None:
    """Before hours of work: whether this file can be written at all.

    Raises:
        Invalid: Another ending.
        UserError: NOT_FOUND, there is no such directory; FAILED, Pillow is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise Invalid(f"--plot {path}: the name must end in .svg or .png")
    if not path.parent.is_dir():
        raise UserError(f"--plot {path}: there is no directory {path.parent}", exitcodes.NOT_FOUND)
    if path.suffix.lower() == ".png":
        try:
            import PIL.ImageDraw  # noqa: F401 - only whether it is there
        except ImportError:
            raise UserError(
                "a PNG needs Pillow, which is not installed: pip install 'p2pfs[plot]', or name a file that ends in"
                " .svg",
                exitcodes.FAILED,
            ) from None


def write(path: Path, shapes: Sequence[Shape]) -> None:
    """As SVG or PNG, by its ending."""
    if path.suffix.lower() == ".png":
        _write_png(path, shapes)
    else:
        path.write_text("\n".join([*_svg(shapes), ""]), encoding="utf-8")


# ---- what is drawn --------------------------------------------------------------------------------------------------


def paper(
    sets: Sequence[tuple[PaperSet, Sequence[Point], Comparison]], curves: Sequence[Curve], runs: int
) -> list[Shape]:
    """Above, what is left after one period by N; below, what is left after all periods by copies and repair delay."""
    shapes: list[Shape] = []
    for column, (kind, points, found) in enumerate(sets):
        shapes += _one_period(_Panel(column, 0, points[-1].nodes), kind, points, found, runs)
        own = [curve for curve in curves if curve.kind == kind]
        if own:
            shapes += _several_periods(_Panel(column, 1, len({one.repair_delay_s for one in own})), kind, own)
    return shapes


class _Panel:
    """A part of the picture with axes: x from 0 to `most`, y from 0 to 1."""

    def __init__(self, column: int, row: int, most: float) -> None:
        self._most = most
        self.left, self.right = column * _PANEL_WIDTH + _LEFT, (column + 1) * _PANEL_WIDTH - _RIGHT
        self.top, self.bottom = row * _PANEL_HEIGHT + _TOP, (row + 1) * _PANEL_HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self._most

    def y(self, share: float) -> float:
        return self.bottom - (self.bottom - self.top) * share

    def axes(self, title: str, below: str, ticks: Sequence[tuple[float, str]]) -> Iterator[Shape]:
        """The frame, with words."""
        yield Text(self.left, self.top - 34, title, size=14)
        yield Stroke([(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)])
        for quarter in range(5):
            yield Text(self.left - 6, self.y(quarter / 4), f"{25 * quarter} %", "end")
            if quarter:
                yield Stroke([(self.left, self.y(quarter / 4)), (self.right, self.y(quarter / 4))], "#e5e5e5")
        for value, words in ticks:
            yield Text(self.x(value), self.bottom + 14, words, "middle")
        yield Text((self.left + self.right) / 2, self.bottom + 32, below, "middle")

    def legend(self, names: Sequence[tuple[str, str]]) -> Iterator[Shape]:
        """What the colours mean, in one line above the frame."""
        at = self.left
        for name, colour in names:
            yield Stroke([(at, self.top - 14), (at + 16, self.top - 14)], colour, 3)
            yield Text(at + 21, self.top - 14, name)
            at += 33 + int(6.4 * len(name))


def _one_period(
    panel: _Panel, kind: PaperSet, points: Sequence[Point], found: Comparison, runs: int
) -> Iterator[Shape]:
    most = points[-1].nodes
    yield from panel.axes(
        f"{kind.name}: {kind.connected} connected, {kind.leavers} leave an hour",
        "N nodes with the data at the start",
        [(value, str(value)) for value in range(0, most + 1, 20 if most <= 100 else 1000)],
    )
    yield from panel.legend([("best", _COLOURS[2]), ("exact mean", _COLOURS[0]), (f"worst of {runs}", _COLOURS[3])])
    figures = (
        (_COLOURS[2], [point.best / point.nodes for point in points]),
        (_COLOURS[0], [point.expected / point.nodes for point in points]),
        (_COLOURS[3], [point.worst_share for point in points]),
    )
    for colour, shares in figures:
        places = [(panel.x(point.nodes), panel.y(share)) for point, share in zip(points, shares, strict=True)]
        yield Stroke(places, colour, 2)
    published = found.published
    yield Ring(panel.x(published.nodes), panel.y(published.share), _INK)
    words = f"○ published: over {100 * published.share:.0f} % from N = {published.nodes}"
    yield Text(panel.right, panel.y(0.06), words, "end")


def _several_periods(panel: _Panel, kind: PaperSet, curves: Sequence[Curve]) -> Iterator[Shape]:
    delays = sorted({curve.repair_delay_s for curve in curves}, reverse=True)
    copies = sorted({curve.copies for curve in curves})
    hours = curves[0].marks[-1][0]
    names = ["no repair" if delay == math.inf else format_duration(delay) for delay in delays]
    ticks = [(at + 0.5, name) for at, name in enumerate(names)]
    yield from panel.axes(f"{kind.name}: kept after {hours} hours, with 95 %", "repair delay", ticks)
    yield from panel.legend([(f"{number} copies", colour) for number, colour in zip(copies, _COLOURS, strict=False)])
    for shift, (number, colour) in enumerate(zip(copies, _COLOURS, strict=False)):
        own = {curve.repair_delay_s: curve for curve in curves if curve.copies == number}
        for at, delay in enumerate(delays):
            _, left, low, high = own[delay].marks[-1]
            x = panel.x(at + 0.5) + 14 * (shift - (len(copies) - 1) / 2)
            yield Stroke([(x, panel.y(low)), (x, panel.y(high))], colour, 2)
            yield Ring(x, panel.y(left / own[delay].runs), colour, 4)


# ---- how it is written ----------------------------------------------------------------------------------------------


def _svg(shapes: Sequence[Shape]) -> Iterator[str]:
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    for shape in shapes:
        match shape:
            case Stroke(points, colour, width):
                places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                yield f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
            case Text(x, y, words, anchor, colour, size):
                yield (
                    f'<text x="{x:.1f}" y="{y + size * 0.35:.1f}" text-anchor="{anchor}" fill="{colour}"'
                    f' font-size="{size}">{escape(words)}</text>'
                )
            case Ring(x, y, colour, radius):
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield "</svg>"


def _write_png(path: Path, shapes: Sequence[Shape]) -> None:
    from PIL import Image, ImageDraw, ImageFont

    scale = _SHARPNESS
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), "white")
    draw = ImageDraw.Draw(image)
    fonts = {shape.size: ImageFont.load_default(shape.size * scale) for shape in shapes if isinstance(shape, Text)}
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}
    for shape in shapes:
        match shape:
            case Stroke(points, colour, width):
                places = [(x * scale, y * scale) for x, y in points]
                draw.line(places, fill=colour, width=round(width * scale), joint="curve")
            case Text(x, y, words, anchor, colour, size):
                draw.text((x * scale, y * scale), words, fill=colour, font=fonts[size], anchor=anchors[anchor])
            case Ring(x, y, colour, radius):
                box = [(x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale]
                draw.ellipse(box, outline=colour, width=2 * scale)
    image.save(path)
