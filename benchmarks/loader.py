"""How fast the training loader alone decodes and augments FLAC.

    python benchmarks/loader.py --manifest SPEECH/librispeech-train.jsonl \\
      --json benchmarks/results/loader.json

Utterances spread evenly over the manifest are written as 16-bit FLAC into a temporary folder, and
an epoch of them is read as `voxformer train` reads it: in the sampler's batches, augmented, with
token ids, without the cache of small sets. A first epoch brings the files into the page cache.
Seconds of audio are those that come out, without padding, over the CPU time of this process and its
workers ("a core"), and over the clock. The first rows are the default augmentation with 0, 1 and 2
workers; the others, in this process, say what each option costs, the last ones what the `augment`
sections of the configs of `--configs` do. SpecAugment and vocal-tract length are a part of the
step, on the training device, and are not in these figures.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from one_line import leave

from voxformer.config import AugmentConfig, load_config
from voxformer.data.loader import iterate_batches
from voxformer.data.manifest import Utterance, read_manifest, spread, write_manifest
from voxformer.data.sampler import BucketingSampler
from voxformer.text import Tokenizer, train_tokenizer

RATE = 16000
AIM = 1000
"""Seconds of audio a second and core."""

NOTHING: dict[str, Any] = {"speed_factors": [1.0], "gain_db": 0.0, "noise_probability": 0.0}


def main() -> None:
    """Measure; print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", required=True, help="speech; copied to FLAC for the time")
    parser.add_argument("--utterances", type=int, default=400, help="as many of it (default: 400)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--configs", nargs="*", default=["librispeech/stage2"], metavar="NAME")
    parser.add_argument("--epochs", type=int, default=5, help="of each row; medians are given")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch

    from voxformer.evaluation.circumstances import circumstances
    from voxformer.evaluation.results import write_json

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        speech = to_flac(read_manifest(args.manifest), args.utterances, Path(folder))
        noise = Path(folder) / "noise.jsonl"
        write_manifest(noise, speech[:20])
        tokenizer = train_tokenizer([u.text for u in speech], 500, Path(folder) / "tokenizer")
        rows = []
        for name, augment, workers in [*cases(str(noise)), *map(case_of, args.configs)]:
            figures = [
                measure(speech, tokenizer, augment, workers, args.batch_size, epoch)
                for epoch in range(args.epochs + 1)
            ][1:]
            core, clock = (statistics.median(column) for column in zip(*figures, strict=True))
            rows.append([name, workers, round(core), round(clock), "yes" if core >= AIM else "no"])
            print("  ".join(str(cell) for cell in rows[-1]), flush=True)
    hours = sum(u.duration for u in speech) / 3600
    values = {
        "columns": ["augmentation", "workers", "s/s a core", "s/s by the clock", "1,000 a core"],
        "rows": rows,
        "note": f"{len(speech)} utterances ({hours:.2f} h) of {Path(args.manifest).stem} as FLAC; "
        f"batches of {args.batch_size}; medians of {args.epochs} epochs.",
        **circumstances(),
    }
    if args.json:
        write_json(args.json, values)


Case = tuple[str, AugmentConfig, int]


def cases(noise_manifest: str) -> list[Case]:
    """Name, options and workers of each row."""
    always: dict[str, Any] = {**NOTHING, "noise_probability": 1.0}
    options: list[tuple[str, dict[str, Any], int]] = [
        *[("default", {}, workers) for workers in (0, 1, 2)],
        ("none", NOTHING, 0),
        ("speed 0.9, 1.0, 1.1", {**NOTHING, "speed_factors": [0.9, 1.0, 1.1]}, 0),
        ("speed 0.9 always", {**NOTHING, "speed_factors": [0.9]}, 0),
        ("speed 1.1 always", {**NOTHING, "speed_factors": [1.1]}, 0),
        ("tempo 0.9 always", {**NOTHING, "tempo_factors": [0.9]}, 0),
        ("tempo 1.1 always", {**NOTHING, "tempo_factors": [1.1]}, 0),
        ("level", {**NOTHING, "gain_db": 6.0}, 0),
        ("made noise always", always, 0),
        ("recorded noise always", {**always, "noise_manifest": noise_manifest}, 0),
        ("all, noise always", {"noise_probability": 1.0}, 0),
    ]
    return [(name, AugmentConfig(**values), workers) for name, values, workers in options]


def case_of(config: str) -> Case:
    """The row of a training config's augmentation."""
    return config, load_config(config)[0].augment, 0


def to_flac(utterances: list[Utterance], count: int, folder: Path) -> list[Utterance]:
    """Copies as FLAC of utterances that are spread evenly over a manifest."""
    import numpy as np
    import soundfile

    from voxformer.audio.io import read_audio

    copies = []
    for index, utterance in enumerate(spread(utterances, count)):
        samples = np.rint(read_audio(utterance.audio_path, RATE) * 32767).astype(np.int16)
        path = folder / f"{index}.flac"
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        copies.append(replace(utterance, audio_path=path, duration=len(samples) / RATE))
    return copies


def measure(
    utterances: list[Utterance],
    tokenizer: Tokenizer,
    augment: AugmentConfig,
    workers: int,
    batch_size: int,
    epoch: int,
) -> tuple[float, float]:
    """Seconds of audio a second of CPU time, and a second of the clock, over one epoch."""
    sampler = BucketingSampler([u.duration for u in utterances], batch_size, None, seed=1)
    sampler.num_batches(epoch)
    used, began = cpu_seconds(), time.perf_counter()
    batches = iterate_batches(
        utterances, tokenizer, sampler, epoch, augment=augment, seed=1, num_workers=workers
    )
    heard = sum(batch.audio_seconds for batch in batches)
    clock = time.perf_counter() - began
    del batches  # workers end, and their time is counted
    return heard / (cpu_seconds() - used), heard / clock


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


if __name__ == "__main__":
    leave(main)
