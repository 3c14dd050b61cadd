"""The results of benchmarks/rtf.py as lines to print and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from svg import page

COLOURS = {"torch": "#8a8a8a", "fp32": "#1f5fa8", "fp16": "#6aa3dd", "int8": "#c02020"}
OTHER = "#b07a10"


def batch_of(row: dict[str, Any]) -> str:
    """The batch size of a configuration, as it was asked for."""
    return "auto" if row["batch_size"] is None else str(row["batch_size"])


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each configuration."""
    head = f"{'engine':<34} {'precision':<9} {'batch':>5} {'mode':<11} {'WER %':>7} {'RTFx':>8}"
    found = [f"{head} {'pipelined':>9}  shares of the time"]
    for row in rows:
        pipelined = f"{row['rtfx_pipelined']:.1f}" if "rtfx_pipelined" in row else "-"
        parts = ", ".join(f"{part} {share:.0%}" for part, share in row["shares"].items())
        found.append(
            f"{row['engine']:<34} {row['precision']:<9} {batch_of(row):>5} {row['mode']:<11} "
            f"{100 * row['wer']:>7.2f} {row['rtfx']:>8.1f} {pipelined:>9}  {parts}"
        )
        if "latency_s" in row:
            times = ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in row["latency_s"].items())
            found.append(f"{'':<34} an utterance: {times}")
        if not row["texts_equal_in_all_passes"]:
            found.append(f"{'':<34} its text differs from pass to pass")
    return found


def plot(values: dict[str, Any], title: str) -> str:
    """An SVG: a bar for each configuration, as long as its RTFx, by mode."""

    def order(row: dict[str, Any]) -> tuple[str, int, str]:
        return row["mode"], row["batch_size"] or 0, row["engine"]

    rows = sorted(values["passes"], key=order)
    width, left, right, top, bar, gap = 860, 330, 70, 50, 16, 8
    most = max(max(row["rtfx"], row.get("rtfx_pipelined", 0.0)) for row in rows)
    parts: list[str] = []
    y = top
    mode = None
    for row in rows:
        if row["mode"] != mode:
            mode = row["mode"]
            y += gap
            parts.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(mode)}</text>')
        best = max(row["rtfx"], row.get("rtfx_pipelined", 0.0))
        name = f"{row['engine'].split(' ')[0]} {row['precision']}, batch {batch_of(row)}"
        long = best / most * (width - left - right)
        parts.append(
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="{bar - 3}" '
            f'fill="{_colour(row)}"/>'
            f'<text x="{left + long + 6:.1f}" y="{y + 12}">{best:.0f}</text>'
        )
        y += bar
    return page(width, y + 20, title, parts)


def _colour(row: dict[str, Any]) -> str:
    if row["engine"].startswith("torch"):
        return COLOURS["torch"]
    return COLOURS.get(row["precision"], OTHER)
