"""`voxformer quickstart`: the whole path on speech that it makes itself, or on yours."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

from voxformer.cli.overrides import add_overrides

EXAMPLE = """voxformer quickstart
  voxformer quickstart --data data/an4 --recipe an4 --out runs/an4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--out", default="runs/quickstart", help="folder for everything it makes")
    parser.add_argument(
        "--data",
        help="folder with train.jsonl, dev.jsonl, test*.jsonl, and extra*.jsonl for the encoder's "
        "stages 1 and 2 where there are any; default: made here",
    )
    parser.add_argument(
        "--recipe", default="quickstart", help="folder of stage1.yaml … stage4.yaml in configs/"
    )
    add_overrides(parser, "in every stage")


def run(args: argparse.Namespace) -> int:
    """Run it and print one table."""
    from voxformer.recipe import StageFailed, best_of, corpus_in, evaluate_bundle, run_recipe

    began = time.monotonic()
    out = Path(args.out)

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True)

    _check_recipe(args.recipe, args.overrides)
    data = Path(args.data) if args.data else _synthesise(out / "data", say)
    corpus = corpus_in(data)
    # The demonstration has minutes, and this exporter takes seconds; the gate is the same.
    exporter: Literal["dynamo", "trace"] = "dynamo" if args.data else "trace"
    try:
        bundle = run_recipe(args.recipe, corpus, out, args.overrides, say, exporter)
    except StageFailed as failure:
        say(f"{failure.stage} stopped with exit code {failure.code}; run this again to go on")
        return failure.code
    checkpoint = best_of(out / "checkpoints" / "stage4")
    results = evaluate_bundle(bundle, checkpoint, corpus, out, say)
    print(_table(results))
    print(
        f"\nbundle       {bundle}\ncheckpoint   {checkpoint}\nfigures      {out / 'results.json'}"
    )
    print(f"took         {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")
    print(f"next         voxformer transcribe AUDIO --model {bundle}")
    return 0


def _check_recipe(recipe: str, overrides: list[str]) -> None:
    """A fault in a stage's config shows before minutes are spent on the stages before it."""
    from voxformer.config import ConfigError, load_config
    from voxformer.recipe import STAGES

    for stage in STAGES:
        config, _ = load_config(f"{recipe}/{stage}", overrides)
        if config.data.pronunciation is not None:
            raise ConfigError(
                f"{recipe}/{stage}: data.pronunciation: what writes phones needs a lexicon, which "
                "`voxformer recipe` makes and the quickstart does not; leave it out here"
            )


def _synthesise(folder: Path, say: Any) -> Path:
    from voxformer.data.synthetic import synthesise

    say("synthesising spoken commands in several voices")
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 5.0:
            last = time.monotonic()
            say(f"  {done}/{total} recordings")

    synthesise(folder, progress=progress)
    return folder


def _table(results: dict[str, Any]) -> str:
    heads = ("test set", "mode", "WER", "95 % interval", "RTF ort", "RTF torch")
    lines = ["{:16} {:11} {:>7}  {:>15}  {:>8} {:>10}".format(*heads)]
    for name, engines in results["sets"].items():
        for mode, found in engines["onnxruntime"]["modes"].items():
            low, high = found["wer_interval_95"]
            other = engines["torch"]["modes"][mode]
            lines.append(
                f"{name:16} {mode:11} {found['wer']:7.2%}  {low:6.2%} - {high:6.2%}  "
                f"{found['rtf']:8.4f} {other['rtf']:10.4f}"
            )
    return "\n".join(lines)
