"""Curves as a small SVG: how many times what it cost in the smallest database each operation costs in larger ones."""

import math
from collections.abc import Mapping
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 360, 50, 20, 170, 40
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def write(path: Path, curves: Mapping[str, Mapping[int, float]], limit: float) -> None:
    """`curves`: name → inodes → ratio. `limit` is drawn as a line."""
    sizes = sorted({size for curve in curves.values() for size in curve})
    most = max(limit * 1.2, *(ratio for curve in curves.values() for ratio in curve.values()))
    span = math.log(sizes[-1] / sizes[0]) or 1.0

    def x(size: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size / sizes[0]) / span

    def y(ratio: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ratio / most

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle", colour: str = "#333") -> str:
        return f'<text x="{at_x:.0f}" y="{at_y:.0f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'

    def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
        return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" {style}/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        line(LEFT, y(limit), x(sizes[-1]), y(limit), 'stroke="#999" stroke-dasharray="4 4"'),
        line(LEFT, y(0), x(sizes[-1]), y(0), 'stroke="#333"'),
        line(LEFT, y(0), LEFT, TOP, 'stroke="#333"'),
    ]
    parts += [text(LEFT - 8, y(tick) + 4, f"{tick}×", "end") for tick in range(math.ceil(most))]
    parts += [text(x(size), y(0) + 18, f"{size // 1000} k") for size in sizes]
    parts.append(text((LEFT + x(sizes[-1])) / 2, HEIGHT - 6, "inodes, each file with ten extents"))
    places = _apart({name: y(curve[max(curve)]) for name, curve in curves.items()})
    for (name, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        points = " ".join(f"{x(size):.0f},{y(ratio):.1f}" for size, ratio in sorted(curve.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(x(max(curve)) + 8, places[name] + 4, f"{name} {curve[max(curve)]:.2f}×", "start", colour))
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _apart(wanted: Mapping[str, float], least: float = 14.0) -> dict[str, float]:
    """Places for labels that do not cover each other, each near where it belongs."""
    placed: dict[str, float] = {}
    below = -math.inf
    for name, place in sorted(wanted.items(), key=lambda item: item[1]):
        below = placed[name] = max(place, below + least)
    return placed
