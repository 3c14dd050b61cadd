"""A run that is killed between two checkpoints and goes on: what it says, what it needs.

    python benchmarks/kill_and_resume.py --config configs/stage4_fixed.yaml --steps 4 \\
      --set data.train_manifest=train.jsonl --set data.valid_manifest=dev.jsonl --json out.json

The config is copied into a folder of its own and trained there by `voxformer train`, saving after
every step; SIGKILL comes once step 2 is saved and step 3 is under way, then the same command runs
again to its end.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json

COLUMNS = ("start", "said", "step", "loss", "ctc", "ce", "audio s/s", "ended by", "peak memory")
KILLED_AFTER_STEP = 2


def main() -> int:
    """Run both parts; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4, help="of both parts together")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        shutil.copy(args.config, place)
        command = [sys.executable, "-m", "voxformer", "train", "--config", args.config.name]
        sets = [_absolute(override) for override in args.set]
        sets += ["training.save_interval=1", "training.log_interval=1"]
        for override in [*sets, f"training.max_steps={args.steps}"]:
            command += ["--set", override]
        folder = place / "checkpoints" / args.config.stem
        first = _until_killed(command, place, folder)
        second = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in steps if row["type"] == "train"]
    rows = _rows("first", first, trained[:KILLED_AFTER_STEP], "SIGKILL")
    rows += _rows("second", second.stderr, trained[KILLED_AFTER_STEP:], "its last step")
    for row in (COLUMNS, *rows):
        print("  ".join(map(str, row)))
    parameters = re.search(r"[\d.]+ M parameters, \d+ utterances \([\d.]+ h\)", first)
    note = f"{parameters[0] if parameters else ''}; `{args.config}`."
    if args.json:
        values = {"columns": COLUMNS, "rows": rows, "note": note, **circumstances()}
        write_json(args.json, values)
    return 0


def _absolute(override: str) -> str:
    """The run has another working folder: what names a file is made absolute."""
    key, _, value = override.partition("=")
    return f"{key}={Path(value).resolve()}" if Path(value).exists() else override


def _until_killed(command: list[str], place: Path, folder: Path) -> str:
    """Start, wait for the checkpoint and for work after it, kill; returns what it had said."""
    log = place / "first.log"
    with log.open("w") as output, subprocess.Popen(command, cwd=place, stderr=output) as process:
        while not (folder / f"step_{KILLED_AFTER_STEP}.pt").is_file():
            if process.poll() is not None:
                raise RuntimeError(f"training ended early: {log.read_text()}")
            time.sleep(0.5)
        time.sleep(5.0)
        process.kill()
    return log.read_text()


def _rows(start: str, said: str, steps: list[dict[str, Any]], ended: str) -> list[list[Any]]:
    opening = said.splitlines()[0]
    memory = re.search(r"peak memory ([\d.]+ GiB)", said)
    return [
        [
            start,
            opening,
            row["step"],
            f"{row['loss']:.3f}",
            f"{row['ctc']:.3f}",
            f"{row['ce']:.3f}",
            f"{row['audio_per_second']:.1f}",
            ended,
            memory[1] if memory else "",
        ]
        for row in steps
    ]


if __name__ == "__main__":
    sys.exit(main())
