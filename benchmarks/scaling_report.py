"""The points of benchmarks/scaling.py as rows of a table and as plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from experiments import CELLS, cells_of
from svg import COLOURS, curve, page, percent_axis, percent_steps

COLUMNS = ("size", "hours of training speech", "seed", *CELLS)
LABELS = {"hours": "hours of training speech", "parameters": "million parameters"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 840, 420, 60, 250, 40, 50
APART = 5
"""Pixels between curves at the same place, so that their intervals can be told apart."""

Points = Sequence[dict[str, Any]]


def rows_of(points: Points) -> list[list[str]]:
    """A row for each point and mode, by size, hours and seed."""
    ordered = sorted(points, key=lambda p: (p["parameters"], p["size"], p["hours"], p["seed"]))
    return [
        [point["size"], f"{point['hours']:.3g}{_more(point, points)}", str(point["seed"]), *cells]
        for point in ordered
        for cells in cells_of(point)
    ]


def _more(point: dict[str, Any], points: Points) -> str:
    """The sets of speech that it has and not all of them have, in words."""
    more = [name for name in point["sets"] if any(name not in p["sets"] for p in points)]
    return " with " + ", ".join(more) if more else ""


def plot(points: Points, across: str, mode: str, title: str) -> str:
    """An SVG: WER over `hours` or `parameters`, with the 95 % interval of every point.

    A curve for each size, or for each number of hours, goes through the means over seeds. Points
    with a set of speech that others lack have a curve of their own.

    Args:
        points: of scaling.py; at least one.
        across: what the horizontal axis is, logarithmic.
        mode: whose error rates.
        title: above the plot.
    """
    by_hours = across == "hours"
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda p: (p["parameters"], p["asked_hours"])):
        size = f"{point['size']}, {point['parameters'] / 1e6:.3g} M"
        name = size if by_hours else f"{point['asked_hours']:g} h"
        curves.setdefault(name + _more(point, points), []).append(point)
    if not by_hours:
        curves = dict(sorted(curves.items(), key=lambda c: float(c[1][0]["asked_hours"])))
    unit = 1.0 if by_hours else 1e6
    ticks = sorted({point[across] / unit for point in points})
    low, high = math.log10(ticks[0]) - 0.08, math.log10(ticks[-1]) + 0.08
    steps = percent_steps(max(100 * p["modes"][mode]["wer_interval_95"][1] for p in points))

    def x_of(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y_of(percent: float) -> float:
        return HEIGHT - BOTTOM - percent / steps[-1] * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{LABELS[across]}</text>',
        f'<text transform="translate(16 {HEIGHT / 2 + 20}) rotate(-90)">WER, %</text>',
        *percent_axis(steps, y_of, LEFT, WIDTH - RIGHT),
    ]
    for tick in ticks:
        parts.append(
            f'<text x="{x_of(tick):.1f}" y="{y_of(0) + 16:.1f}" text-anchor="middle">'
            f"{tick:.{2 if by_hours else 3}g}</text>"
        )
    for number, (name, members) in enumerate(curves.items()):
        colour = COLOURS[2 * number % len(COLOURS)]
        aside = APART * (number - (len(curves) - 1) / 2)
        rates: dict[float, list[float]] = {}
        for point in members:
            x, found = x_of(point[across] / unit) + aside, point["modes"][mode]
            rates.setdefault(x, []).append(100 * found["wer"])
            ends = [y_of(100 * rate) for rate in found["wer_interval_95"]]
            parts.append(
                f'<path class="interval" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}" '
                f'stroke="{colour}"/>'
                f'<circle cx="{x:.1f}" cy="{y_of(100 * found["wer"]):.1f}" r="3" fill="{colour}"/>'
            )
        means = [(x, y_of(statistics.mean(found))) for x, found in sorted(rates.items())]
        parts.append(curve(means, colour, name, (WIDTH - RIGHT + 20, TOP + 20 + 20 * number)))
    return page(WIDTH, HEIGHT, title, parts)
