"""`voxformer recipe`: from manifests of several sets to bundles and their figures."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from voxformer.cli.numbers import above
from voxformer.cli.overrides import add_overrides

EXAMPLE = """voxformer recipe librispeech --speech SPEECH --out runs/librispeech --minutes 25
  voxformer recipe librispeech --speech SPEECH --out runs/small --scale small"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", help="folder of recipe.yaml and stage1.yaml … stage4.yaml")
    parser.add_argument("--speech", required=True, help="folder of the manifests that it names")
    parser.add_argument("--out", required=True, help="folder for everything it makes")
    parser.add_argument(
        "--minutes",
        type=above(0.0),
        help="of the device, for the steps of all stages; default: the recipe's or the scale's own",
    )
    parser.add_argument("--scale", help="one of the recipe's: for another device, or as a check")
    parser.add_argument(
        "--until",
        choices=("plan", "training", "choice", "bundles"),
        default="bundles",
        help="where to end: with the plan alone, after the stages, after weights and search are "
        "chosen, or with bundles and figures (default)",
    )
    add_overrides(parser, "in every stage")


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet; a part that a signal stops is gone on with the next time."""
    from voxformer.card import write_card
    from voxformer.data.language_model import read_model
    from voxformer.plan import describe, load_recipe, make_plan
    from voxformer.recipe import StageFailed, train_stages
    from voxformer.shipping import (
        choose_and_tune,
        language_model,
        lexicon_of,
        ship,
        trained_voice,
        word_list,
    )
    from voxformer.text.atomic import write_atomically

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True)

    out = Path(args.out)
    recipe = load_recipe(args.name)
    plan = make_plan(
        args.name, recipe, Path(args.speech), out, args.minutes, args.scale, args.overrides
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "plan.json", describe(plan))
    for stage, hours in plan.hours.items():
        settings = ", ".join(plan.overrides[stage][-4:]).replace("training.", "")
        say(f"plan: {stage}: epochs of {hours:.2f} h; {settings}")
    if args.until == "plan":
        return 0
    # Before hours of training, which would be of no use without.
    word_list(plan.language, out)
    if plan.language.mixture is not None:
        read_model(plan.language.mixture[0])
    try:
        train_stages(args.name, plan.corpus, out, args.overrides, say, plan.overrides)
    except StageFailed as failure:
        say(f"{failure.stage} stopped with exit code {failure.code}; run this again to go on")
        return failure.code
    if args.until == "training":
        return 0
    if args.until == "choice":
        lm = language_model(plan.corpus, plan.language, out, say)
        voice = trained_voice(out)
        lexicon = lexicon_of(voice, plan.corpus, plan.language, out, say)
        choose_and_tune(plan.corpus.dev, lm, lexicon, out, say)
        return 0
    shipped = ship(plan.corpus, plan.language, out, say, plan.exporter)
    card = write_card(args.name, recipe, plan, shipped, out)
    print(f"bundles      {', '.join(str(path) for path in shipped.bundles.values())}")
    print(f"figures      {out / 'results.json'}\nmodel card   {card}")
    print(f"took         {time.monotonic() - began:.0f} s")
    return 0
