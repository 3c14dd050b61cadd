"""What the plots of the benchmarks share: page, axis of per cents, lines and their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

COLOURS = (
    *("#c02020", "#e08080", "#1f5fa8", "#6aa3dd", "#0d3560", "#2f8f4e"),
    *("#8fd0a2", "#b07a10", "#e5c06a", "#7a3fa0", "#c39ad9", "#888888"),
)


def page(
    width: int, height: int, title: str, parts: Sequence[str], at: tuple[int, int] = (10, 24)
) -> str:
    """A white SVG of `parts`, in pixels from its upper left corner, with a title at `at`."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="12">',
        "<style>text { font-family: sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{at[0]}" y="{at[1]}" font-size="14">{escape(title)}</text>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def percent_axis(
    steps: Sequence[int], y_of: Callable[[float], float], left: int, right: int
) -> list[str]:
    """Lines from `left` to `right` with their per cents before them; `y_of` gives their heights."""
    return [
        f'<path d="M{left} {y_of(percent):.1f}H{right}" stroke="#dddddd"/>'
        f'<text x="{left - 6}" y="{y_of(percent) + 4:.1f}" text-anchor="end">{percent}</text>'
        for percent in steps
    ]


def percent_steps(most: float) -> list[int]:
    """From 0 to `most` and up to one step beyond, at most nine lines."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 1000) if most / s <= 8)
    return list(range(0, step * max(1, math.ceil(most / step)) + 1, step))


def curve(
    points: Sequence[tuple[float, float]], colour: str, name: str, at: tuple[float, float]
) -> str:
    """A line through points, in pixels, and its name beside a patch of its colour at `at`."""
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = at
    return (
        f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        f'<rect x="{x:g}" y="{y - 9:g}" width="12" height="10" fill="{colour}"/>'
        f'<text x="{x + 18:g}" y="{y:g}">{escape(name)}</text>'
    )
