"""Error rates on the development set over the speech that a recipe's stages have heard.

    python benchmarks/learning_curve.py --run runs/librispeech \\
      --json benchmarks/results/learning-curve.json --svg docs/learning-curve.svg

Every evaluation that the stages made is a row: of the averaged weights, in the modes of the stage's
`decoding.eval_modes`. Minutes are those since the stage's first step, with evaluations, saves and
the time that a run was down; hours are of speech as it is on disk, before its speed is changed.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from experiments import hours_heard
from one_line import leave
from svg import COLOURS, curve, page, percent_axis, percent_steps

from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.recipe import STAGES, best_of
from voxformer.text.atomic import write_atomically
from voxformer.training.checkpoint import CheckpointError, load_checkpoint

COLUMNS = ("stage", "step", "speech heard, h", "minutes", "mode", "WER on dev", "insertions")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 60, 170, 40, 50
WER = "wer_"


def points_of(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a recipe's stages, in order.

    Args:
        run: the folder that `voxformer recipe --out` named.

    Raises:
        FileNotFoundError: there is no trained stage.
        CheckpointError: of a stage there are weights alone.
    """
    points: list[dict[str, Any]] = []
    before = 0.0
    for folder in [run / "checkpoints" / stage for stage in STAGES]:
        if not best_of(folder).is_file():
            continue
        if not (folder / "latest.pt").is_file():
            raise CheckpointError(f"{folder}: no latest.pt, which knows how much speech was heard")
        state = load_checkpoint(folder / "latest.pt")
        hours = hours_heard(state)
        rows = _rows(folder / "metrics.jsonl")
        an_hour_has = max(1, state["position"]["step"]) / hours if hours else math.inf
        points += [
            {
                "stage": folder.name,
                "step": row["step"],
                "hours": before + row["step"] / an_hour_has,
                "minutes": (row["time"] - rows[0]["time"]) / 60,
                "mode": key.removeprefix(WER),
                "wer": value,
                "insertions": row[f"insertions_{key.removeprefix(WER)}"],
            }
            for row in rows
            if row["type"] == "valid"
            for key, value in row.items()
            if key.startswith(WER)
        ]
        before += hours
    if not points:
        raise FileNotFoundError(f"{run}: no stage with evaluations; name a recipe's --out")
    return points


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics, in the order of their steps: a run that was resumed made some twice, of
    which the later count, and one that was killed may have left half a line."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        # An evaluation comes after the training row of its step.
        while rows and rows[-1]["step"] >= row["step"] + (row["type"] == "valid"):
            rows.pop()
        rows.append(row)
    return rows


def rows_of(points: list[dict[str, Any]]) -> list[list[str]]:
    """A row of `COLUMNS` for each point."""
    return [
        [
            point["stage"],
            str(point["step"]),
            f"{point['hours']:.0f}",
            f"{point['minutes']:.0f}",
            point["mode"],
            f"{point['wer']:.2%}",
            str(point["insertions"]),
        ]
        for point in points
    ]


def plot(points: list[dict[str, Any]], title: str) -> str:
    """An SVG: WER over hours heard, a curve for each mode."""
    steps = percent_steps(max(100 * point["wer"] for point in points))
    most = max(point["hours"] for point in points)
    tick = next(t * 10**k for k in range(9) for t in (1, 2, 5) if most / (t * 10**k) <= 10)

    def x_of(hours: float) -> float:
        return LEFT + hours / most * (WIDTH - LEFT - RIGHT)

    def y_of(percent: float) -> float:
        return HEIGHT - BOTTOM - percent / steps[-1] * (HEIGHT - TOP - BOTTOM)

    parts = percent_axis(steps, y_of, LEFT, WIDTH - RIGHT)
    for hours in range(0, int(most) + 1, tick):
        parts.append(
            f'<text x="{x_of(hours):.1f}" y="{y_of(0) + 16:.1f}" text-anchor="middle">'
            f"{hours}</text>"
        )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 12}">hours of speech heard</text>')
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2 + 20}) rotate(-90)">WER on dev, %</text>'
    )
    modes = dict.fromkeys(point["mode"] for point in points)
    for number, mode in enumerate(modes):
        line = [(x_of(p["hours"]), y_of(100 * p["wer"])) for p in points if p["mode"] == mode]
        at = (WIDTH - RIGHT + 20, TOP + 20 + 20 * number)
        parts.append(curve(line, COLOURS[2 * number], mode, at))
    return page(WIDTH, HEIGHT, title, parts)


def main() -> None:
    """Read the stages' metrics, print and write the table, draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a recipe's --out")
    parser.add_argument("--title", default="Error rate over speech heard", help="of the plot")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    points = points_of(args.run)
    rows = rows_of(points)
    for row in (COLUMNS, *rows):
        print("  ".join(row))
    write_json(args.json, {"columns": COLUMNS, "rows": rows, "points": points, **circumstances()})
    if args.svg:
        write_atomically(args.svg, plot(points, args.title))


if __name__ == "__main__":
    leave(main)
