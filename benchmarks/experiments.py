"""A row for each run in the table of experiments, with its error rates on the development set.

    python benchmarks/experiments.py --run runs/a/checkpoints/stage2 --manifest dev.jsonl \\
      --change "without CR-CTC" --learned "..." --json benchmarks/results/experiments.json

The run's best checkpoint is decoded in every mode that its stage has trained, on the CPU. Rows
stay: a run that did not help is a result, too. A run that is added again replaces its rows; which
of them can be compared follows from the hours heard and the seconds in steps beside the error
rates.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.data.manifest import read_manifest, spread
from voxformer.evaluation import evaluate
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import open_checkpoint
from voxformer.evaluation.results import write_json
from voxformer.recipe import best_of
from voxformer.training.checkpoint import load_checkpoint

COLUMNS = (
    "change",
    "seed",
    "stage",
    "parameters",
    "speech heard, h",
    "seconds in steps",
    "mode",
    "WER on dev",
    "95 % interval",
    "learned",
)


def rows_of(
    run: Path, manifest: Path, change: str, learned: str, limit: int | None
) -> list[list[str]]:
    """The run's rows, one for each mode.

    Args:
        run: folder with `latest.pt`.
        manifest: of the development set.
        change: what sets this run apart.
        learned: what it taught.
        limit: utterances, at most, spread evenly.
    """
    best = best_of(run)
    model = open_checkpoint(best)
    utterances = spread(read_manifest(manifest), limit)
    found = evaluate(model.engine, model.vocabulary, utterances, model.modes, model.options)
    state = load_checkpoint(run / "latest.pt")
    parameters = sum(value.numel() for value in state["model"].values())
    position, config = state["position"], state["config"]
    first = [
        change,
        str(config["training"]["seed"]),
        state["stage"],
        f"{parameters / 1e6:.1f} M",
        f"{hours_heard(state):.1f}",
        f"{position['seconds']:.0f}",
    ]
    return [
        [
            *first,
            mode,
            f"{result.wer:.2%}",
            f"{result.interval[0]:.2%} - {result.interval[1]:.2%}",
            learned,
        ]
        for mode, result in found.modes.items()
    ]


def hours_heard(state: dict[str, Any]) -> float:
    """Hours of speech that a run has learned from, each utterance as often as it was drawn."""
    sets = state["config"]["data"]["train_manifest"]
    sets = [sets] if isinstance(sets, str) else sets
    longest = state["config"]["data"]["max_duration"]
    hours = 0.0
    for item in sets:
        path, weight = (item, 1.0) if isinstance(item, str) else (item["path"], item["weight"])
        durations = [u.duration for u in read_manifest(path) if u.duration <= longest]
        hours += weight * sum(durations) / 3600
    position = state["position"]
    return float(
        hours * (position["epoch"] + position["micro_batch"] / state["data"]["num_batches"])
    )


def add(path: Path, rows: list[list[str]], note: str) -> None:
    """Put the rows into the file, in place of those of the same change, seed and stage."""
    values: dict[str, Any] = {"columns": list(COLUMNS), "rows": [], "note": note}
    if path.is_file():
        values = json.loads(path.read_text("utf-8"))
    kept = [row for row in values["rows"] if row[:3] != rows[0][:3]]
    place = next((i for i, row in enumerate(values["rows"]) if row[:3] == rows[0][:3]), len(kept))
    values["rows"] = [*kept[:place], *rows, *kept[place:]]
    values["note"] = note or values.get("note", "")
    write_json(path, {**values, **circumstances()})


def main() -> None:
    """Evaluate the run and add its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run folder")
    parser.add_argument("--manifest", type=Path, required=True, help="the development set")
    parser.add_argument("--change", required=True, help="what sets it apart")
    parser.add_argument("--learned", default="", help="what it taught")
    parser.add_argument("--utterances", type=int, help="so many at most, spread evenly")
    parser.add_argument("--note", default="", help="said under the table, such as its scale")
    parser.add_argument("--json", type=Path, required=True, help="the table, made or added to")
    args = parser.parse_args()
    rows = rows_of(args.run, args.manifest, args.change, args.learned, args.utterances)
    for row in rows:
        print("  ".join(row))
    add(args.json, rows, args.note)


if __name__ == "__main__":
    leave(main)
