"""One process against two: how far losses and weights part, and what a killed process costs.

    python benchmarks/data_parallel.py --manifest train.jsonl --json out.json

Trains a small hybrid model for some steps, once in one process and once under torchrun in two
processes with half as many micro-batches each; an epoch has an odd number of them, so that in its
last step a process has fewer, or none. Then the second process is killed in the
middle of such a run, which goes on and is compared with the one that was not disturbed. Processes
compute on the CPU and talk over gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from one_line import leave

from voxformer.data.manifest import DataError, read_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.training.checkpoint import load_checkpoint

COLUMNS = ("compared", "steps", "largest loss difference", "largest weight difference", "note")
BATCH = 4
BATCHES = 15
LONGEST_S = 6.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        rows = _measure(args.manifest, args.steps, Path(name))
    for row in (COLUMNS, *rows):
        print("  ".join(map(str, row)))
    if args.json:
        note = (
            "Losses are relative, weights absolute; learning rate 1e-3, AdamW, dropout 0.1 and "
            "SpecAugment on, fp32, one thread a process."
        )
        write_json(args.json, {"columns": COLUMNS, "rows": rows, "note": note, **circumstances()})
    return 0


def _measure(manifest: Path, steps: int, place: Path) -> list[list[Any]]:
    start = place / "start.yaml"
    _write_config(start, manifest, steps)
    both = place / "both1"
    rows: list[list[Any]] = []
    for each in (1, 2):
        two, one = place / f"both{each}", place / f"alone{each}"
        _train(start, two, 2, _accumulating(each))
        _train(start, one, 1, _accumulating(2 * each))
        epochs = max(row["epoch"] for row in _rows(two))
        note = f"{epochs:.1f} epochs of {BATCHES} micro-batches: the last step of each is uneven"
        name = f"2 processes with {each} micro-batch(es), 1 with {2 * each}"
        rows.append([name, *_differences(one, two), note])
    again = place / "again"
    _train(start, again, 2)
    rows.append(["2 processes, the same again", *_differences(both, again), ""])
    killed = place / "killed"
    seconds, line = _train_and_kill(start, killed, steps // 2)
    step = load_checkpoint(killed / "latest.pt")["step"]
    _train(start, killed, 2)
    note = f"all ended {seconds:.1f} s after SIGKILL with step {step} saved: “{line}”"
    rows.append(["2 processes, one killed and resumed", *_differences(both, killed), note])
    moved = place / "moved"
    _train_and_kill(start, moved, steps // 2)
    _train(start, moved, 1, _accumulating(2))
    name = "2 processes, one killed, resumed by 1 with 2 micro-batches"
    rows.append([name, *_differences(both, moved), ""])
    return rows


def _accumulating(micro_batches: int) -> str:
    return f"training.gradient_accumulation_steps={micro_batches}"


def _write_config(path: Path, manifest: Path, steps: int) -> None:
    """A config, and beside it a manifest of short utterances."""
    short = [u for u in read_manifest(manifest) if 1.0 < u.duration < LONGEST_S]
    count = BATCH * BATCHES
    if len(short) < count:
        raise DataError(f"{manifest}: needs {count} utterances of 1 to {LONGEST_S:g} s")
    entries = [
        {
            "id": u.id,
            "audio_filepath": str(u.audio_path.resolve()),
            "duration": u.duration,
            "text": u.text,
        }
        for u in short[:: len(short) // count][:count]
    ]
    subset = path.with_name("train.jsonl")
    subset.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    config = {
        "stage": "hybrid",
        "model": {
            "vocab_size": 60,
            "d_model": 64,
            "encoder_layers_per_block": 1,
            "decoder_num_layers": 2,
        },
        "training": {
            "device": "cpu",
            "num_threads": 1,
            "num_workers": 0,
            "batch_size": BATCH,
            "num_epochs": 100,
            "max_steps": steps,
            "warmup_steps": 5,
            "log_interval": 1,
            "save_interval": 10,
        },
        "data": {"train_manifest": str(subset)},
    }
    path.write_text(yaml.safe_dump(config))


def _command(config: Path, folder: Path, processes: int, overrides: Sequence[str]) -> list[str]:
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run"]
    if launcher:
        launcher += ["--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "voxformer", "train", "--config", str(config)]
    for override in (f"training.checkpoint_dir={folder}", *overrides):
        command += ["--set", override]
    return [*command, "--resume"]


def _train(config: Path, folder: Path, processes: int, *overrides: str) -> None:
    command = _command(config, folder, processes, overrides)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _train_and_kill(config: Path, folder: Path, step: int) -> tuple[float, str]:
    """Two processes, the second of which is killed; seconds until all end, and what was said."""
    command = _command(config, folder, 2, ())
    log = folder.with_suffix(".log")
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as launcher:
        while not (rows := _rows(folder)) or rows[-1]["step"] < step:
            if launcher.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.02)
        os.kill(_second_process(launcher.pid), signal.SIGKILL)
        began = time.monotonic()
        launcher.wait()
    said = [line for line in log.read_text().splitlines() if line.startswith("voxformer train:")]
    return time.monotonic() - began, said[0] if said else "nothing"


def _second_process(launcher: int) -> int:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == launcher and b"\0RANK=1\0" in path.read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    raise RuntimeError("the second process was not found")


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [row for row in map(json.loads, lines) if row["type"] == "train"]


def _differences(first: Path, second: Path) -> list[Any]:
    """Steps, and how far their losses and the weights after the last are apart."""
    losses = [{row["step"]: row["loss"] for row in _rows(folder)} for folder in (first, second)]
    if losses[0].keys() != losses[1].keys():
        raise RuntimeError(f"{first.name} and {second.name} made different steps")
    loss = max(abs(losses[1][step] / value - 1.0) for step, value in losses[0].items())
    one, other = (load_checkpoint(folder / "latest.pt")["model"] for folder in (first, second))
    weight = max(float(torch.max(torch.abs(one[name] - other[name]))) for name in one)
    return [len(losses[0]), f"{loss:.1e}", f"{weight:.1e}"]


if __name__ == "__main__":
    leave(main)
