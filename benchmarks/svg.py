"""What the plots of the benchmarks share: the page that they are on, and colours for lines."""

from __future__ import annotations

from collections.abc import Sequence
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
