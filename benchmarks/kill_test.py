"""Runs of a small training that are killed, each somewhere else, and go on to the same weights.

    python benchmarks/kill_test.py --json benchmarks/results/kill_test.json

Every run is a forked process of its own that saves after each step, or each third. It gets SIGKILL
at a random instant, or (`--injected`) on entering a random system call, which strace sees to. Then
every checkpoint in its folder must verify, and the run, started again, must end with the weights of
one that was left alone, bit for bit. Where a run was when it was hit is known from memory that it
shares with this process: functions note their phase there when they are entered and left.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from voxformer.config import RunConfig
from voxformer.config.load import validate_config
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.training import checkpoint, loop, saver, storage
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.snapshot import Snapshot
from voxformer.training.storage import DigestError, verify

# From the opening of the temporary file to the fsync of the folder, in order.
IN_A_SAVE = (
    "temporary file: open, write",
    "fsync of the file",
    "reading it back",
    "digest file: write, fsync, rename",
    "rename",
    "fsync of the folder",
)
DIGEST_ONCE_MORE = "digest file of what was replaced"
PHASES = (
    "nothing",
    *IN_A_SAVE,
    DIGEST_ONCE_MORE,
    "linking latest.pt and epoch_N.pt",
    "deleting older ones",
    "making room",
    "starting, resuming",
    "between steps",
    "a step",
    "copying to host memory",
    "evaluating",
    "waiting for the last save",
)
SYSTEM_CALLS = ("openat", "write", "fsync", "rename", "link", "unlink")
MOST_CALLS = 60
COLUMNS = ("hit during", "at a random instant", "at a system call", "resumed bit-equal")


def main(arguments: list[str] | None = None) -> int:
    """Kill and resume; 1 where a run did not come back to the same weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="killed at random instants")
    parser.add_argument("--injected", type=int, default=100, help="killed at system calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.injected and not shutil.which("strace"):
        parser.error("--injected needs strace; install it, or give --injected 0")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        trial = _Trial(Path(name), random.Random(args.seed))
        began = time.monotonic()
        trial.kill(args.runs, "instant")
        trial.kill(args.injected, "call")
        seconds = time.monotonic() - began
    table = trial.table()
    for row in (COLUMNS, *table):
        print(f"{row[0]:36} {row[1]!s:>20} {row[2]!s:>18} {row[3]!s:>18}")
    for failure in trial.failures:
        print(failure, file=sys.stderr)
    if args.json:
        values = {
            "columns": COLUMNS,
            "rows": table,
            "note": f"Seed {args.seed}, {seconds:.0f} s; {trial.missed} more runs ended before "
            "they were hit and are not counted. Where a save is under way it is what is named, "
            "whatever training does meanwhile.",
            "failures": trial.failures,
            **circumstances(),
        }
        write_json(args.json, values)
    return 1 if trial.failures else 0


@dataclass
class _Trial:
    """All runs, and where they were hit."""

    place: Path
    draw: random.Random
    hits: dict[str, Counter[str]] = field(default_factory=dict)
    equal: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    missed: int = 0

    def __post_init__(self) -> None:
        self.hits = {"instant": Counter(), "call": Counter()}
        self.save_interval = 1
        make_corpus(self.place, seed=0)
        self.phase = mmap.mmap(-1, 2)
        # In this process, so that what follows is forked from one that has imported all it needs.
        if loop.train(self._config("whole"), "whole") != 0:
            raise RuntimeError("the run that is left alone failed")
        self.expected = weights(self.place / "whole")
        _note_phases(self.phase)
        began = time.monotonic()
        if os.waitstatus_to_exitcode(os.waitpid(self._start("timed"), 0)[1]) != 0:
            raise RuntimeError("a forked run that is left alone failed")
        self.run_s = time.monotonic() - began
        if not same(self.expected, weights(self.place / "timed")):
            raise RuntimeError("two runs that are left alone differ")

    def kill(self, runs: int, how: str) -> None:
        """Kill `runs` runs and resume each."""
        done = 0
        while done < runs:
            folder = self.place / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            self.phase[:] = bytes(2)
            self.save_interval = self.draw.choice((1, 1, 1, 3))
            hit = self._killed_at_an_instant() if how == "instant" else self._killed_at_a_call()
            if not hit:
                self.missed += 1
                continue
            done += 1
            main_phase, save_phase = (PHASES[number] for number in self.phase[:2])
            where = save_phase if save_phase != "nothing" else main_phase
            self.hits[how][where] += 1
            failure = self._resume(folder)
            if failure is None:
                self.equal[where] += 1
            else:
                self.failures.append(f"{how} {done}, hit during {where}: {failure}")
            if done % 20 == 0:
                print(f"{how}: {done} of {runs}", file=sys.stderr, flush=True)

    def table(self) -> list[tuple[str, Any, Any, Any]]:
        """Rows under `COLUMNS`; the last ones are sums."""
        instants, calls = self.hits["instant"], self.hits["call"]
        rows: list[tuple[str, Any, Any, Any]] = [
            (where, instants[where], calls[where], self.equal[where])
            for where in PHASES[1:]
            if instants[where] or calls[where]
        ]
        for name, phases in (
            ("from opening the temporary file to the fsync of the folder", IN_A_SAVE),
            ("all", PHASES),
        ):
            sums = [sum(counts[p] for p in phases) for counts in (instants, calls, self.equal)]
            rows.append((name, *sums))  # type: ignore[arg-type]
        return rows

    def _killed_at_an_instant(self) -> bool:
        pid = self._start("killed")
        time.sleep(self.draw.uniform(0.0, self.run_s))
        os.kill(pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def _killed_at_a_call(self) -> bool:
        pid = self._start("killed", traced=True)
        call, when = self.draw.choice(SYSTEM_CALLS), self.draw.randint(1, MOST_CALLS)
        inject = f"inject={call}:signal=KILL:when={when}"
        command = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]
        with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE) as strace:
            assert strace.stderr is not None
            if b"attached" not in (line := strace.stderr.readline()):
                os.kill(pid, signal.SIGKILL)
                raise RuntimeError(f"strace cannot attach to a process here: {line.decode()}")
            status = os.waitpid(pid, 0)[1]
            strace.stderr.read()
        return os.WIFSIGNALED(status)

    def _resume(self, folder: Path) -> str | None:
        """Start a killed run again; returns what is wrong, or None."""
        for path in folder.glob("*.pt"):
            try:
                verify(path)
            except DigestError as error:
                return f"after the kill: {error}"
        status = os.waitstatus_to_exitcode(os.waitpid(self._start("killed"), 0)[1])
        if status != 0:
            return f"the resumed run ended with {status}"
        for path in (*folder.glob("*.pt"), folder / "best.pt"):
            verify(path)
        if not same(self.expected, weights(folder)):
            return "other weights than those of the run that was left alone"
        if left := [path.name for path in folder.glob(".*")]:
            return f"left behind: {', '.join(left)}"
        return None

    def _start(self, name: str, traced: bool = False) -> int:
        """Fork a training process that goes on from what its folder holds; returns its id."""
        config = self._config(name)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                output = os.open(self.place / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 2)
                while traced and "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
                    time.sleep(0.002)
                code = loop.train(config, name)
            finally:
                os._exit(code)
        return pid

    def _config(self, name: str) -> RunConfig:
        folder = self.place / name
        return validate_config(
            {
                "stage": "hybrid",
                "model": {
                    "vocab_size": 18,
                    "d_model": 32,
                    "encoder_num_heads": 2,
                    "encoder_layers_per_block": 1,
                    "subsampling_channels": 8,
                    "decoder_num_heads": 2,
                    "decoder_num_layers": 1,
                },
                "training": {
                    "batch_size": 4,
                    "num_epochs": 2,
                    "warmup_steps": 2,
                    "ema_decay": 0.9,
                    "save_interval": self.save_interval,
                    "eval_interval": 4,
                    "log_interval": 1,
                    "keep_last_n": 2,
                    "num_workers": 0,
                    "num_threads": 1,
                    "device": "cpu",
                    "checkpoint_dir": str(folder),
                    "resume_from": str(folder / "latest.pt"),
                },
                "data": {
                    "train_manifest": str(self.place / "train.jsonl"),
                    "valid_manifest": str(self.place / "dev.jsonl"),
                },
                "decoding": {"beam_size": 2, "n_best": 2, "attention_beam_size": 2},
            }
        )


def make_corpus(folder: Path, seed: int) -> None:
    """Tones for words: `train.jsonl` of 24 utterances, `dev.jsonl` of 4."""
    generator = np.random.default_rng(seed)
    pitch = {"low": 200.0, "mid": 500.0, "high": 1200.0, "rise": 350.0, "fall": 800.0}
    for name, count in (("train", 24), ("dev", 4)):
        rows = []
        for index in range(count):
            words = [str(word) for word in generator.choice(list(pitch), 1 + index % 3)]
            seconds = np.arange(4000) / 16000
            tones = [0.2 * np.sin(2 * np.pi * pitch[word] * seconds) for word in words]
            audio = np.concatenate(tones) + generator.normal(0, 0.01, 4000 * len(words))
            path = folder / f"{name}{index}.wav"
            soundfile.write(path, audio, 16000, subtype="PCM_16")
            rows.append(
                {
                    "id": f"{name}{index}",
                    "audio_filepath": path.name,
                    "duration": len(audio) / 16000,
                    "text": " ".join(words),
                }
            )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and their moving average in a run's last checkpoint."""
    state = load_checkpoint(folder / "latest.pt")
    return {**state["model"], **{f"ema.{name}": value for name, value in state["ema"].items()}}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(
        first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first
    )


def _note_phases(shared: mmap.mmap) -> None:
    """Have training (byte 0) and the saver's thread (byte 1) note what they are doing."""

    def during(owner: Any, name: str, phase: str | Callable[..., str | None]) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            slot = int(threading.current_thread().name == "saver")
            now = phase if isinstance(phase, str) else phase(*arguments)
            before = shared[slot]
            if now is not None:
                shared[slot] = PHASES.index(now)
            try:
                return function(*arguments, **options)
            finally:
                shared[slot] = before

        setattr(owner, name, noted)

    written = False

    def in_save(phase: str) -> Callable[..., str | None]:
        """Noted where `write_verified` itself is at work, and not within another of its phases."""
        return lambda *_: phase if shared[1] == PHASES.index(IN_A_SAVE[0]) else None

    def digest_file(*_: Any) -> str | None:
        return in_save(DIGEST_ONCE_MORE if written else IN_A_SAVE[3])()

    def begin(*_: Any) -> str:
        nonlocal written
        written = False
        return IN_A_SAVE[0]

    def sync_folder(*_: Any) -> str | None:
        nonlocal written
        written = True
        return in_save(IN_A_SAVE[5])()

    during(loop._Run, "__init__", "starting, resuming")
    during(loop._Run, "run", "between steps")
    during(loop._Run, "_step", "a step")
    during(loop._Run, "_evaluate", "evaluating")
    during(Snapshot, "take", "copying to host memory")
    during(saver.CheckpointSaver, "finish", "waiting for the last save")
    during(saver, "make_room", "making room")
    during(checkpoint, "write_verified", begin)
    during(os, "fsync", in_save(IN_A_SAVE[1]))
    during(storage, "file_digest", in_save(IN_A_SAVE[2]))
    during(storage, "write_atomically", digest_file)
    during(os, "replace", in_save(IN_A_SAVE[4]))
    during(storage, "sync_folder", sync_folder)
    during(checkpoint, "link_verified", "linking latest.pt and epoch_N.pt")
    during(checkpoint, "remove_verified", "deleting older ones")


if __name__ == "__main__":
    sys.exit(main())
