"""What the cells of benchmarks/decoder.py say: claims with pass or fail, lines to print, a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from svg import COLOURS, page

OURS = "voxformer"
# Two peers apply a language model to words; ours does as well where it is compared with them.
OURS_WITH_THE_LM = dict.fromkeys(
    ("pyctcdecode", "pyctcdecode, exact", "ctc-beam-decoder", "ctc-beam-decoder, exact"),
    "voxformer, LM over words",
)
# Ours with as much dropped and as much returned as with the peer, too: fast-ctc-decode has the best
# text alone.
OURS_ALIKE = {
    "fast-ctc-decode": "voxformer, best only",
    "fast-ctc-decode, pruned": "voxformer, pruned, best only",
    "flashlight-text, pruned": "voxformer, pruned",
    "pyctcdecode": "voxformer, pruned",
    "ctc-beam-decoder": "voxformer, pruned",
}
OURS_ALIKE_WITH_LM = {
    **OURS_ALIKE,
    **OURS_WITH_THE_LM,
    "pyctcdecode": "voxformer, pruned, LM over words",
    "ctc-beam-decoder": "voxformer, pruned, LM over words",
}
FLASHLIGHT_LM_AIM = 5.0
FLASHLIGHT_AIM = 40.0
FAST_AIM = 2.0
THREADS_AIM = 1.85
# Cells whose batch takes less on one thread say more of how threads start than of the search.
LEAST_WALL_S = 0.002
# Two sums of the same alignments differ by less.
LEAST_NATS = 1e-3

Values = dict[str, Any]


def claims(cells: Sequence[Values]) -> list[Values]:
    """Each claim with its aim, the least ratio found, in which cell, and whether it holds.

    Ratios are medians over the rounds of one run. None is judged where no cell was measured.
    """
    plain = [cell for cell in cells if cell["extra"] == "none"]
    single = [cell for cell in plain if cell["threads"] == 1]
    several = [cell for cell in plain if cell["threads"] > 1]
    flashlight = [c for c in single if (c["kind"], c["vocab"], c["beam"]) == ("peaky", 2001, 10)]
    fast = [c for c in single if (c["kind"], c["vocab"], c["beam"]) == ("peaky", 29, 10)]
    found = [
        _claim(
            f"{name} / {OURS}, CPU, peaky, 2001 tokens, beam 10",
            FLASHLIGHT_AIM,
            _ratios(flashlight, [name], "cpu_over_ours"),
        )
        for name in ("flashlight-text", "flashlight-text, exact", "flashlight-text, pruned")
    ]
    found += [
        _claim(
            f"{name} / {OURS}, CPU, peaky, 29 tokens, beam 10",
            FAST_AIM,
            _ratios(fast, [name], "cpu_over_ours"),
        )
        for name in ("fast-ctc-decode", "fast-ctc-decode, pruned")
    ]
    found += [
        _claim(
            f"{name} / {OURS_ALIKE[name]}, CPU, peaky, 29 tokens, beam 10",
            FAST_AIM,
            _ratios(fast, [name], "cpu_over_ours", OURS_ALIKE),
        )
        for name in ("fast-ctc-decode", "fast-ctc-decode, pruned")
    ]
    with_lm = [cell for cell in cells if cell["extra"] == "lm"]
    found += [
        _claim(
            f"{name} / {OURS}, CPU, 3-grams over tokens",
            FLASHLIGHT_LM_AIM,
            _ratios(with_lm, [name], "cpu_over_ours"),
        )
        for name in ("flashlight-text", "flashlight-text, exact", "flashlight-text, pruned")
    ]
    speed_ups = [
        (cell["decoders"][OURS]["speed_up"], _where(cell))
        for cell in several
        if cell["decoders"].get(OURS, {}).get("one_thread_wall_s", 0.0) >= LEAST_WALL_S
    ]
    found.append(_claim(f"{OURS}, 1 thread / 2 threads, wall, every cell", THREADS_AIM, speed_ups))
    if speed_ups:
        middle = statistics.median(value for value, _ in speed_ups)
        speed_ups = [(middle, f"median of {len(speed_ups)} cells")]
    found.append(_claim(f"{OURS}, 1 thread / 2 threads, wall, median", THREADS_AIM, speed_ups))
    for what, chosen, key in (
        ("CPU, 1 thread", single, "cpu_over_ours"),
        ("wall, 2 threads", several, "wall_over_ours"),
        ("CPU, with LM or hotwords", [c for c in cells if c["extra"] != "none"], "cpu_over_ours"),
    ):
        peers = {n for cell in chosen for n in cell["decoders"] if _is_peer(n)}
        for ours, tables in (
            (OURS, ({}, OURS_WITH_THE_LM)),
            ("ours as the peer is set", (OURS_ALIKE, OURS_ALIKE_WITH_LM)),
        ):
            ratios = _ratios(chosen, peers, key, *tables)
            found.append(_claim(f"fastest peer / {ours}, {what}, every cell", 1.0, ratios))
    lost = [
        (-cell["decoders"][OURS]["lost_nats"], _where(cell))
        for cell in single
        if cell["decoders"].get(OURS, {}).get("lost_nats") is not None
    ]
    worst = _claim(f"{OURS}, nats lost against beam 1000 (no aim)", None, lost)
    if lost:
        worst["least"] = -worst["least"] + 0.0
    return [*found, worst, _lost_more(single)]


def _lost_more(cells: Sequence[Values]) -> Values:
    """In how many of the comparisons with a peer, at the same beam, ours lost more nats."""
    apart = [
        (ours["lost_nats"] - peer["lost_nats"], f"{_where(cell)}: {name}")
        for cell in cells
        if (ours := cell["decoders"].get(OURS, {})).get("lost_nats") is not None
        for name, peer in cell["decoders"].items()
        if _is_peer(name) and peer.get("lost_nats") is not None
    ]
    more = [found for found in apart if found[0] > LEAST_NATS]
    return {
        "claim": f"of {len(apart)} peers in cells, those that lost less than {OURS} (aim: none)",
        "aim": None,
        "least": float(len(more)) if apart else None,
        "pass": not more if apart else None,
        "cells": len(apart),
        "cell": f"{max(more)[1]}, by {max(more)[0]:.2f} nats" if more else None,
    }


def claim_lines(found: Iterable[Values]) -> list[str]:
    """The claims as text."""
    lines = ["", "claims (the least ratio of all cells decides)"]
    for claim in found:
        if claim["least"] is None:
            lines.append(f"  not measured  {claim['claim']}")
            continue
        verdict = {True: "pass", False: "FAIL", None: "-"}[claim["pass"]]
        aim = (
            "" if claim["aim"] is None else f" (aim {claim['aim']:g}, {claim['over_aim']:.2f}x it)"
        )
        lines.append(f"  {verdict:<5} {claim['least']:>8.2f}{aim}  {claim['claim']}")
        lines.append(f"        least at {claim['cell']}; {claim['cells']} figures")
    return lines


def cell_lines(cell: Values) -> list[str]:
    """A cell's decoders as text, ours first as it comes."""
    lines = []
    for name, found in cell["decoders"].items():
        if "cpu_s" not in found:
            lines.append(f"  {name:<26} {found['status']}")
            continue
        lost = "" if found["lost_nats"] is None else f"{found['lost_nats']:.3f} nats lost"
        memory = found["memory_bytes"]
        grown = "" if memory is None else f"{memory / 2**20:8.1f} MiB"
        ratio = f"{found['cpu_over_ours']:9.2f}x" if "cpu_over_ours" in found else ""
        speed_up = f"  speed-up {found['speed_up']:.2f}" if "speed_up" in found else ""
        lines.append(
            f"  {name:<26} {found['cpu_s'] * 1e3:11.3f} ms CPU {found['wall_s'] * 1e3:11.3f} ms "
            f"wall {ratio:>10} {grown:>12}  {lost}{speed_up}"
        )
    return lines


def plot(cells: Sequence[Values], title: str) -> str:
    """An SVG: CPU microseconds a frame over the vocabulary's size, a line for each decoder.

    Of the peaky cells with one thread and beam 10, those of the most frequent utterance length.
    """
    chosen = [
        cell
        for cell in cells
        if (cell["kind"], cell["beam"], cell["threads"], cell["extra"]) == ("peaky", 10, 1, "none")
    ]
    if not chosen:
        raise ValueError("no peaky cell with beam 10 and one thread to plot")
    seconds = statistics.mode(cell["seconds"] for cell in chosen)
    lines: dict[str, list[tuple[int, float]]] = {}
    for cell in chosen:
        for name, found in cell["decoders"].items():
            if cell["seconds"] == seconds and "cpu_s" in found:
                point = (cell["vocab"], found["cpu_s"] / cell["frames"] * 1e6)
                lines.setdefault(name, []).append(point)
    return _svg(lines, f"{title}: peaky, {seconds:g} s, beam 10, one thread")


def _svg(lines: dict[str, list[tuple[int, float]]], title: str) -> str:
    width, height, left, right, top, bottom = 860, 460, 70, 240, 40, 50
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    x_low, x_high = math.log10(xs[0]) - 0.1, math.log10(xs[-1]) + 0.1
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / max(y_high - y_low, 1)
        return left + across * (width - left - right), height - bottom - up * (
            height - top - bottom
        )

    parts = [
        f'<text x="{left}" y="{height - 12}">tokens in the vocabulary</text>',
        f'<text transform="translate(16 {height / 2 + 60}) rotate(-90)">CPU µs a frame</text>',
    ]
    for power in range(y_low, y_high + 1):
        _, y = place(xs[0], 10.0**power)
        parts.append(
            f'<path d="M{left} {y:.1f}H{width - right}" stroke="#dddddd"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for x_value in xs:
        x, y = place(x_value, 10.0**y_low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{x_value}</text>')
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [place(*point) for point in sorted(points)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        thick = 3 if name == OURS else 1.5
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{thick}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = top + 20 + 20 * i
        parts.append(
            f'<rect x="{width - right + 20}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
            f'<text x="{width - right + 38}" y="{y}">{escape(name)}</text>'
        )
    return page(width, height, title, parts, at=(left, 22))


def _claim(text: str, aim: float | None, ratios: Sequence[tuple[float, str]]) -> Values:
    if not ratios:
        return {"claim": text, "aim": aim, "least": None, "pass": None, "cells": 0, "cell": None}
    least, where = min(ratios)
    return {
        "claim": text,
        "aim": aim,
        "least": least,
        "over_aim": None if aim is None else round(least / aim, 3),
        "pass": None if aim is None else least >= aim,
        "cells": len(ratios),
        "cell": where,
    }


def _ratios(
    cells: Iterable[Values],
    names: Iterable[str],
    key: str,
    ours: Mapping[str, str] | None = None,
    ours_with_lm: Mapping[str, str] | None = None,
) -> list[tuple[float, str]]:
    """What peers took over what ours did, and where.

    Args:
        cells: to look at.
        names: of peers.
        key: `cpu_over_ours` or `wall_over_ours`.
        ours: by peer, which of our configurations it is compared with; the first where None, and
            for those that are not in it. None is given where it was not measured.
        ours_with_lm: the same for cells with a language model.
    """
    found = []
    wanted = sorted(names)
    for cell in cells:
        table = (ours_with_lm if cell["extra"] == "lm" else ours) or {}
        for name in wanted:
            chosen = table.get(name, OURS)
            divisor = 1.0 if chosen == OURS else cell["decoders"].get(chosen, {}).get(key)
            ratio = cell["decoders"].get(name, {}).get(key)
            if divisor is not None and ratio is not None:
                found.append((ratio / divisor, f"{_where(cell)}: {name}"))
    return found


def _is_peer(name: str) -> bool:
    return not name.startswith((OURS, "row maximum"))


def _where(cell: Values) -> str:
    extra = "" if cell["extra"] == "none" else f", {cell['extra']}"
    return f"{cell['kind']}, {cell['vocab']}, {cell['seconds']:g} s, beam {cell['beam']}{extra}"
