"""WER as a function of hours of training speech and of the model's size: a run for each point.

    python benchmarks/scaling.py --speech SPEECH --out runs/scaling --minutes 1.5 \\
      --json benchmarks/results/librispeech-scaling.json --svg docs/librispeech-scaling
    python benchmarks/render_results.py

A point is a stage of the recipe, from random weights unless `--set training.init_from=...` says
otherwise, on a part of the recipe's speech: the same share of every set, spread evenly over it and
so over its speakers, each part within the next larger one. All points hear as many hours
(`--audio-hours`) or learn for as long (`--minutes`, in which a smaller model hears more), in as
many epochs, which draw the utterances of a smaller part more often. They share the tokenizer, which
is trained on all texts. Each run's best checkpoint is decoded on the development set as
`experiments.py` does.

The command can be stopped: points in the JSON are done, runs under `--out` go on where they were.
Once the first trains, a second may train other points beside it, into the same `--out` and JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import figures_of
from one_line import leave
from scaling_report import COLUMNS, LABELS, plot, rows_of

from voxformer.cli.numbers import above
from voxformer.cli.overrides import add_overrides
from voxformer.config import load_config
from voxformer.data.manifest import Utterance, read_manifest, write_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.plan import Plan, Recipe, budget_settings, load_recipe, make_plan
from voxformer.recipe import (
    STAGES,
    Corpus,
    StageFailed,
    stage_config,
    tokenizer_of,
    train_stage,
)
from voxformer.shipping import language_model, lexicon_of
from voxformer.text.atomic import write_atomically
from voxformer.training.compatibility import SILENT

DOCS = Path(__file__).resolve().parents[1] / "docs"
SPARE = 4.0
"""With minutes: hours planned over what the recipe plans for its model, which a smaller one passes;
where the clock comes first, schedules follow it."""
PLOTTED = ("rescoring", "ctc_beam", "ctc_greedy", "attention")
"""The first of these that every point has is drawn."""


class ScalingError(ValueError):
    """What was asked for cannot be measured; the message says what to change."""


@dataclass(frozen=True)
class Point:
    """A run: its seed, width and layers of the model (`256x3`), hours of speech as asked for."""

    seed: int
    size: str
    hours: float

    def __str__(self) -> str:
        return f"{self.size} on {self.hours:g} h, seed {self.seed}"

    @property
    def overrides(self) -> list[str]:
        """What the point sets in the stage's config."""
        width, layers = self.size.split("x")
        return [
            f"model.d_model={width}",
            f"model.encoder_layers_per_block={layers}",
            f"training.seed={self.seed}",
            "training.keep_last_n=1",
            "training.keep_epochs_n=0",
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and evaluate what is not in the JSON yet, and draw what is; an exit code."""
    args = _arguments(arguments)
    settings = _settings(args)
    _known_points(args.json, settings)
    recipe = load_recipe(args.recipe)
    plan = make_plan(
        args.recipe, recipe, args.speech, args.out, scale=args.scale, overrides=args.overrides
    )
    _mark(args.out, settings)
    parts = subsets(_usable(args, plan), args.hours)
    search = _search(args, plan)
    for point in itertools.starmap(Point, itertools.product(args.seeds, args.sizes, parts)):
        known = _known_points(args.json, settings)
        if any((point.size, point.hours, point.seed) == _key(other) for other in known):
            print(f"{point} is in {args.json}", flush=True)
            continue
        part = parts[point.hours]
        try:
            folder = _train(args, recipe, plan, point, part)
        except StageFailed as error:
            print(f"{point}: {error}; the same command goes on", file=sys.stderr)
            return error.code
        hours = sum(u.duration for utterances in part.values() for u in utterances) / 3600
        found = figures_of(folder, plan.corpus.dev, args.utterances, search=search)
        made = {"size": point.size, "asked_hours": point.hours, "hours": hours, "sets": list(part)}
        # Read anew: another run of the command may have added to it.
        points = [*_known_points(args.json, settings), {**made, **found}]
        _write(args, recipe, settings, points)
        for row in rows_of(points[-1:]):
            print("  ".join(row), flush=True)
    _write(args, recipe, settings, _known_points(args.json, settings))
    return 0


def _key(point: Mapping[str, Any]) -> tuple[str, float, int]:
    """What tells a point of the file from the others: as `Point` has it."""
    return point["size"], point["asked_hours"], point["seed"]


def _search(args: argparse.Namespace, plan: Plan) -> dict[str, str]:
    """The recipe's language model, of all its texts whatever speech a point has, and where it is of
    phones its lexicon."""
    overrides = [*plan.overrides[args.stage], *args.overrides]
    config, _ = load_config(f"{args.recipe}/{args.stage}", overrides)
    arguments = (plan.corpus, plan.language, args.out, print)
    lm = language_model(*arguments)
    lexicon = lexicon_of(config.data.pronunciation, *arguments)
    return {"language_model": str(lm), **({} if lexicon is None else {"lexicon": str(lexicon)})}


def subsets(
    sets: Mapping[str, Sequence[Utterance]], hours: Sequence[float]
) -> dict[float, dict[str, list[Utterance]]]:
    """Parts of the sets with so many hours, the same share of the utterances of each set.

    Each is spread evenly over its set, so that a part has every speaker for whom it has room, and
    holds every smaller part.

    Raises:
        ScalingError: there is not that much speech.
    """
    spoken = sum(u.duration for utterances in sets.values() for u in utterances) / 3600
    parts: dict[float, dict[str, list[Utterance]]] = {}
    for wanted in sorted(hours, reverse=True):
        if wanted > spoken:
            raise ScalingError(
                f"--hours: {wanted:g} h were asked for, and the sets hold {spoken:.4g} h of "
                "utterances that can be used; ask for less"
            )
        share = wanted / spoken
        parts[wanted] = {
            name: _evenly(utterances, max(1, round(share * len(utterances))))
            for name, utterances in sets.items()
        }
    return parts


def _evenly(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """So many of them, spread evenly, and all of what a smaller number gives, unlike `spread`.

    Each second is first, then of the others each second, and so on.
    """
    order = sorted(range(len(utterances)), key=lambda index: f"{index:b}"[::-1])
    return [utterances[index] for index in sorted(order[:count])]


def _usable(args: argparse.Namespace, plan: Plan) -> dict[str, list[Utterance]]:
    """The utterances of each of the stage's sets that it does not leave out for their length."""
    config, _ = load_config(
        f"{args.recipe}/{args.stage}", [*plan.overrides[args.stage], *args.overrides]
    )
    shortest, longest = config.data.min_duration, config.data.max_duration
    return {
        path.stem: [u for u in read_manifest(path) if shortest <= u.duration <= longest]
        for path, _ in plan.corpus.sets[args.stage]
    }


def _train(
    args: argparse.Namespace,
    recipe: Recipe,
    plan: Plan,
    point: Point,
    part: Mapping[str, Sequence[Utterance]],
) -> Path:
    """Train the point, or go on with it; returns its run folder.

    Raises:
        StageFailed: it was stopped.
    """
    stage = args.stage
    budget = recipe.budgets(args.scale)[stage]
    hours = args.audio_hours or SPARE * budget.audio_hours * args.minutes / budget.minutes
    # As many epochs of as many hours for every point: the schedules are the same, too.
    epochs = max(1, round(hours / plan.hours[stage]))
    weights = {path.stem: weight for path, weight in plan.corpus.sets[stage]}
    drawn = sum(weights[name] * u.duration for name, part_of in part.items() for u in part_of)
    data = args.out / "data" / f"{point.hours:g}h"
    data.mkdir(parents=True, exist_ok=True)
    sets = []
    for name, utterances in part.items():
        write_manifest(data / f"{name}.jsonl", utterances)
        weight = weights[name] * 3600 * hours / epochs / drawn
        sets.append((data / f"{name}.jsonl", weight))
    given = [*plan.overrides[stage], *point.overrides]
    given += budget_settings(
        f"{args.recipe}/{stage}",
        [*given, *args.overrides],
        hours / epochs,
        hours,
        args.minutes,
        budget.evaluations,
    )
    given += args.overrides
    tokenizer = tokenizer_of(args.recipe, plan.corpus, args.out, given, print)
    corpus = Corpus({stage: sets}, plan.corpus.dev, {})
    folder = args.out / "runs" / f"{point.size}-{point.hours:g}h-seed{point.seed}"
    config = stage_config(args.recipe, stage, corpus, folder, tokenizer, None, given)
    train_stage(config, folder.name)
    return folder


def _write(
    args: argparse.Namespace,
    recipe: Recipe,
    settings: Mapping[str, Any],
    points: list[dict[str, Any]],
) -> None:
    """The JSON with its table, and the plots."""
    budget = f"{args.minutes:g} minutes in steps" if args.minutes else f"{args.audio_hours:g} h"
    what = f"{args.stage} of configs/{args.recipe}, {budget} each"
    note = f"{what}, searched with the recipe's language model."
    if args.scale:
        note += f" At the scale `{args.scale}`."
        if recipe.scales[args.scale].utterances is not None:
            note += " The error rates mean nothing."
    if args.svg:
        mode = next(m for m in PLOTTED if all(m in point["modes"] for point in points))
        for across, words in LABELS.items():
            if len({point[across] for point in points}) == 1:
                continue
            path = Path(f"{args.svg}-{across}.svg")
            write_atomically(path, plot(points, across, mode, f"{what}: {mode}"))
            note += f"\n\n![WER over {words}]({os.path.relpath(path.resolve(), DOCS)})"
        note += "\n\n"
    table = {"columns": COLUMNS, "rows": rows_of(points), "note": note}
    write_json(args.json, {**table, "settings": settings, "points": points, **circumstances()})


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What all points of a file have in common; how many workers read is not of it."""
    keys = ("recipe", "stage", "scale", "audio_hours", "minutes", "utterances")
    counted = [o for o in args.overrides if o.partition("=")[0] not in SILENT]
    kept = {key: getattr(args, key) for key in keys}
    return {**kept, "overrides": counted, "search": "language model"}


def _known_points(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points that are in the file already; none where there is no file.

    Raises:
        ScalingError: they were made with other settings.
    """
    if not path.is_file():
        return []
    try:
        values = json.loads(path.read_text("utf-8"))
        points: list[dict[str, Any]] = values["points"]
        _refuse_others(path, values["settings"], settings, "--json")
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ScalingError(f"{path}: was not written by scaling.py; name another --json") from None
    return points


def _mark(out: Path, settings: Mapping[str, Any]) -> None:
    """Note in the folder which settings its runs have.

    Raises:
        ScalingError: it holds runs with others.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    if path.is_file():
        _refuse_others(out, json.loads(path.read_text("utf-8")), settings, "--out")
    write_json(path, settings)


def _refuse_others(
    where: Path, known: Mapping[str, Any], settings: Mapping[str, Any], option: str
) -> None:
    for key, value in settings.items():
        if known.get(key) != value:
            held = known.get(key)
            raise ScalingError(
                f"{where}: holds points with {key} {held}, not {value}; name another {option}"
            )


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxLAYERS, such as 256x3")
    return text


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="librispeech")
    parser.add_argument("--speech", type=Path, required=True, help="folder of its manifests")
    parser.add_argument("--out", type=Path, required=True, help="for data, tokenizer and runs")
    parser.add_argument("--stage", choices=STAGES[1:], default="stage2")
    parser.add_argument(
        "--hours", type=above(0.0), nargs="+", default=[2.0, 4.0, 8.0, 14.0, 19.0], metavar="H"
    )
    parser.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        default=["144x2", "256x3", "384x3"],
        metavar="WIDTHxLAYERS",
        help="d_model and layers of each encoder block",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="N")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--audio-hours", type=above(0.0), help="that each point hears")
    budget.add_argument("--minutes", type=above(0.0), help="in steps, of each point")
    parser.add_argument("--scale", help="one of the recipe's smaller scales, as a check")
    parser.add_argument("--utterances", type=int, help="of the development set, at most")
    parser.add_argument("--json", type=Path, required=True, help="the points, made or added to")
    parser.add_argument(
        "--svg", metavar="STEM", help="write STEM-hours.svg, STEM-parameters.svg where they differ"
    )
    add_overrides(parser, "in every point")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    leave(main)
