"""A row for each run in the table of experiments, with its error rates on the development set.

    python benchmarks/experiments.py --run runs/a/checkpoints/stage2 --manifest dev.jsonl \\
      --change "without CR-CTC" --learned "..." --json benchmarks/results/experiments.json

The run's best checkpoint is decoded in every mode that its stage has trained, on the CPU. With a
language model (`--lm`) that is `ctc_beam` alone, and the weight of the model and the bonus of a
word are chosen on the same manifest, as a recipe does, so that every run is seen at its best. Rows
stay: a run that did not help is a result, too. A run that is added again replaces its rows; which
of them can be compared follows from the hours heard and the seconds in steps beside the error
rates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.config import Stage
from voxformer.data.manifest import read_manifest, spread
from voxformer.evaluation import evaluate
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import open_checkpoint
from voxformer.evaluation.results import write_json
from voxformer.evaluation.tuning import Scorer, grid, tune
from voxformer.model.voxformer import DECODER_PREFIX
from voxformer.recipe import best_of
from voxformer.runtime import DecodingOptions
from voxformer.shipping import FINER_AXES, LM_GRID, LM_STATES
from voxformer.training.checkpoint import load_checkpoint

BEAM = 100
"""Hypotheses of the search with a language model."""
CELLS = (
    "parameters",
    "speech heard, h",
    "seconds in steps",
    "mode",
    "WER on dev",
    "95 % interval",
)
"""What `cells_of` gives."""
COLUMNS = ("change", "seed", "stage", *CELLS, "learned")


def figures_of(
    run: Path,
    manifest: Path,
    limit: int | None,
    name: str | None = None,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run has cost, and the error rates of its best checkpoint in each mode.

    Parameters are those that its modes use: of stage 2, all but the decoder's.

    Args:
        run: folder with `latest.pt`.
        manifest: of the development set.
        limit: utterances, at most, spread evenly.
        name: of a checkpoint of the run; the best one where None.
        search: a language model, and a lexicon where the model writes phones.
    """
    model = open_checkpoint(best_of(run) if name is None else run / name)
    utterances = spread(read_manifest(manifest), limit)
    options, modes = model.options, model.modes
    if search is not None and "language_model" in search:
        modes = ("ctc_beam",)
        wer = partial(Scorer(model, utterances).wer, "ctc_beam")
        n_best = min(options.n_best, BEAM)
        start = replace(options, beam_size=BEAM, n_best=n_best, **search, **LM_STATES)
        options = tune(wer, grid(wer, start, LM_GRID).options, FINER_AXES).options
    elif search is not None:
        options = replace(options, **search)
    model.check_writes_words(options)
    found = evaluate(model.engine, model.vocabulary, utterances, modes, options)
    state = load_checkpoint(run / "latest.pt")
    modes_found = found.to_json(utterances=False)["modes"]
    return {
        "seed": state["config"]["training"]["seed"],
        "stage": state["stage"],
        "parameters": sum(
            value.numel()
            for name, value in state["model"].items()
            if state["stage"] != Stage.CTC.value or not name.startswith(DECODER_PREFIX)
        ),
        "audio_hours": hours_heard(state),
        "seconds": state["position"]["seconds"],
        "modes": {
            mode: {key: result[key] for key in ("wer", "wer_interval_95", "words")}
            for mode, result in modes_found.items()
        },
        "search": searched_with(options),
    }


def searched_with(options: DecodingOptions) -> str:
    """What a search has beside the model, in few words."""
    said = ", lexicon" if options.lexicon else ""
    if options.language_model is not None:
        said += f", LM {options.lm_weight:g} and {options.word_bonus:+g} a word"
    return said


def cells_of(figures: dict[str, Any]) -> list[list[str]]:
    """A row of `CELLS` for each mode."""
    return [
        [
            f"{figures['parameters'] / 1e6:.1f} M",
            f"{figures['audio_hours']:.1f}",
            f"{figures['seconds']:.0f}",
            mode + figures.get("search", ""),
            f"{result['wer']:.2%}",
            "{:.2%} - {:.2%}".format(*result["wer_interval_95"]),
        ]
        for mode, result in figures["modes"].items()
    ]


def rows_of(figures: dict[str, Any], change: str, learned: str) -> list[list[str]]:
    """The run's rows, one for each mode.

    Args:
        figures: of `figures_of`.
        change: what sets this run apart.
        learned: what it taught.
    """
    first = [change, str(figures["seed"]), figures["stage"]]
    return [[*first, *cells, learned] for cells in cells_of(figures)]


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
    parser.add_argument("--checkpoint", help="of the run, such as latest.pt; default: the best")
    parser.add_argument("--lm", help="search with this language model, tuned on the manifest")
    parser.add_argument("--lexicon", help="of a model that writes phones")
    parser.add_argument("--json", type=Path, required=True, help="the table, made or added to")
    args = parser.parse_args()
    search = {"language_model": args.lm, "lexicon": args.lexicon}
    search = {key: value for key, value in search.items() if value is not None}
    figures = figures_of(args.run, args.manifest, args.utterances, args.checkpoint, search)
    rows = rows_of(figures, args.change, args.learned)
    for row in rows:
        print("  ".join(row))
    add(args.json, rows, args.note)


if __name__ == "__main__":
    leave(main)
