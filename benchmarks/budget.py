"""What a recipe will cost on a device that is not at hand: operations, memory, data, disk.

    python benchmarks/budget.py --recipe librispeech --speech SPEECH --json budget.json

Operations are counted as in benchmarks/training.py, on the shapes of batches that the sampler
really plans, both views of CR-CTC among them, for the steps that the recipe plans. "Needed" is the
speed at which the planned hours fit into the planned minutes, and what share that is of the card's
dense bf16 peak; beside it stands how long the plan takes at other shares. Where a device is slower
than needed, stages end by the clock with their schedules. Memory is that of activations kept for
the backward pass, of a batch of the longest utterances, and the state. What none of this knows is
how long a card takes to start so many small kernels: measure the first minute.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from one_line import leave
from training import PEAKS, STATE, bytes_of_step, count_flops

from voxformer.config import RunConfig, Stage
from voxformer.data.manifest import Utterance
from voxformer.data.sampler import BucketingSampler
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.model import VoxFormer, count_parameters
from voxformer.plan import Plan, load_recipe, make_plan
from voxformer.recipe import STAGES, stage_config, tokenizer_of
from voxformer.text import Tokenizer
from voxformer.training.setup import read_training_set

COLUMNS = (
    "stage",
    "minutes",
    "hours of speech",
    "steps",
    "TFLOP a step",
    "PFLOP",
    "needed",
    "minutes at 2 / 5 / 10 %",
    "speech s/s, cores for it",
    "memory",
)
SHARES = (0.02, 0.05, 0.10)
LOADER = 2200.0
"""Seconds of speech that a core decodes and augments a second; see benchmarks/results/loader.json,
which is of FLAC that is decoded every time, and not once for the run."""
BATCHES = 8
"""Of an epoch, whose shapes are counted."""
GIB = 2**30


def measure(name: str, plan: Plan, card: str, folder: Path) -> list[dict[str, Any]]:
    """Figures of each stage, with a tokenizer in the folder if the config names none."""
    home = tokenizer_of(name, plan.corpus, folder, plan.overrides[STAGES[1]], lambda _: None)
    peak = PEAKS[card]["bf16"] * 1e12
    return [_stage(name, stage, plan, folder, home, peak) for stage in STAGES]


def _stage(
    name: str, stage: str, plan: Plan, folder: Path, home: Path, peak: float
) -> dict[str, Any]:
    own = folder / stage
    config = stage_config(name, stage, plan.corpus, own, home, None, plan.overrides[stage])
    tokenizer = Tokenizer.load(home)
    training = config.training
    utterances = [u for u in read_training_set(config) if u.duration <= config.data.max_duration]
    sampler = BucketingSampler(
        [u.duration for u in utterances],
        training.batch_size,
        training.batch_seconds_limit,
        training.seed,
        [u.weight for u in utterances],
    )
    count = sampler.num_batches(0)
    steps = count * training.num_epochs // training.gradient_accumulation_steps
    looked_at = [sampler.batch(0, i) for i in range(0, count, max(1, count // BATCHES))]
    flops = count_flops(config, _shapes(config, looked_at, utterances, tokenizer))
    of_step = flops / len(looked_at) * training.gradient_accumulation_steps
    seconds = 60.0 * (training.max_minutes or 0.0)
    audio = training.num_epochs * plan.hours[stage] * 3600
    needed = of_step * steps / seconds
    return {
        "stage": stage,
        "parameters": count_parameters(VoxFormer(config.model)),
        "minutes": training.max_minutes,
        "audio_hours": audio / 3600,
        "steps": steps,
        "flops_a_step": of_step,
        "flops": of_step * steps,
        "needed_flops": needed,
        "needed_share": needed / peak,
        "minutes_at": {str(share): of_step * steps / (share * peak) / 60 for share in SHARES},
        "audio_per_second": audio / seconds,
        "loader_cores": audio / seconds / LOADER,
        **_memory(config, utterances, tokenizer),
    }


def _shapes(
    config: RunConfig,
    batches: Sequence[list[int]],
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer,
) -> list[tuple[str, tuple[int, int]]]:
    """Passes through encoder and decoder, as `count_flops` takes them."""
    views = 2 if config.training.cr_ctc_weight and config.stage is not Stage.ATTENTION else 1
    shapes = []
    for draws in batches:
        chosen = [utterances[draw % len(utterances)] for draw in draws]
        frames = round(100 * max(u.duration for u in chosen))
        shapes.append(("Encoder", (views * len(chosen), frames)))
        if config.stage in (Stage.ATTENTION, Stage.HYBRID):
            tokens = 1 + max(len(tokenizer.encode(u.text)) for u in chosen)
            shapes.append(("AttentionDecoder", (views * len(chosen), tokens)))
    return shapes


def _memory(
    config: RunConfig, utterances: Sequence[Utterance], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Bytes of a step on the longest utterances; each of equal ones keeps as much."""
    longest = max(u.duration for u in utterances) / config.augment.slowest
    tokens = 0
    if config.stage is not Stage.PRETRAIN:
        tokens = max(len(tokenizer.encode(u.text)) for u in utterances)
    count = max(1, int((config.training.batch_seconds_limit or longest) / longest))
    of_step = bytes_of_step(config, ["bf16"], count, longest, tokens)
    return {
        "saved_bytes": of_step["bf16"],
        "state_bytes": sum(of_step[part] for part in STATE),
        "checkpoint_bytes": sum(of_step[part] for part in STATE if part != "gradients"),
        "weights_bytes": of_step["weights"],
    }


def row_of(values: dict[str, Any]) -> list[str]:
    """A stage as cells of the table."""
    memory = (values["saved_bytes"] + values["state_bytes"]) / GIB
    return [
        values["stage"],
        f"{values['minutes']:g}",
        f"{values['audio_hours']:.0f}",
        str(values["steps"]),
        f"{values['flops_a_step'] / 1e12:.2f}",
        f"{values['flops'] / 1e15:.1f}",
        f"{values['needed_flops'] / 1e12:.0f} TFLOP/s, {values['needed_share']:.1%}",
        " / ".join(f"{minutes:.1f}" for minutes in values["minutes_at"].values()),
        f"{values['audio_per_second']:.0f}, {values['loader_cores']:.1f}",
        f"{memory:.1f} GiB",
    ]


def total_row(found: Sequence[dict[str, Any]], peak: float) -> list[str]:
    """All stages together."""
    flops = sum(values["flops"] for values in found)
    minutes = sum(values["minutes"] for values in found)
    needed = flops / minutes / 60
    at = [sum(values["minutes_at"][str(share)] for values in found) for share in SHARES]
    return [
        "all",
        f"{minutes:g}",
        f"{sum(values['audio_hours'] for values in found):.0f}",
        str(sum(values["steps"] for values in found)),
        "",
        f"{flops / 1e15:.1f}",
        f"{needed / 1e12:.0f} TFLOP/s, {needed / peak:.1%}",
        " / ".join(f"{m:.1f}" for m in at),
        "",
        "",
    ]


def main() -> None:
    """Count; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="librispeech")
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--card", default="H100", choices=sorted(PEAKS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = make_plan(args.recipe, recipe, args.speech, folder, args.minutes)
        found = measure(args.recipe, plan, args.card, folder)
    rows = [*map(row_of, found), total_row(found, PEAKS[args.card]["bf16"] * 1e12)]
    for row in itertools.chain([COLUMNS], rows):
        print("  ".join(row))
    last = found[-1]
    note = (
        f"{last['parameters'] / 1e6:.1f} M parameters; a checkpoint "
        f"{last['checkpoint_bytes'] / 1e6:.0f} MB, weights alone "
        f"{last['weights_bytes'] / 1e6:.0f} MB, in half precision "
        f"{last['weights_bytes'] / 2e6:.0f} MB. Computed, not run, for an {args.card} of "
        f"{PEAKS[args.card]['bf16']:.0f} TFLOP/s (dense bf16)."
    )
    print(note)
    if args.json:
        values = {"columns": COLUMNS, "rows": rows, "note": note, "stages": found}
        write_json(args.json, {**values, **circumstances()})


if __name__ == "__main__":
    leave(main)
