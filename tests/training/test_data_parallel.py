"""Several processes train as one does: same steps, same stops, and none waits for ever."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from voxformer.config import RunConfig
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.distributed import planned
from voxformer.training.loop import train
from voxformer.training.setup import RunError

from . import processes

Maker = Callable[..., RunConfig]
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def rows(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def largest_difference(first: Path, second: Path) -> float:
    one, other = (load_checkpoint(f / "latest.pt")["model"] for f in (first, second))
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def said(folder: Path, rank: int) -> str:
    return (folder / f"{rank}.txt").read_text()


@pytest.mark.parametrize(
    "stage",
    [
        "attention",
        "hybrid",
        pytest.param("pretrain", marks=pytest.mark.slow),
        pytest.param("ctc", marks=pytest.mark.slow),
    ],
)
def test_two_processes_make_the_steps_of_one(
    make_config: Maker, tmp_path: Path, stage: str
) -> None:
    """24 utterances in batches of 5: the last step of an epoch leaves the second process idle."""
    options = {"batch_size": 5, "log_interval": 1, "eval_interval": 100, "ema_decay": 0.9}
    if stage in ("ctc", "hybrid"):
        options |= {"optimizer": "muon", "cr_ctc_weight": 0.2}
    alone = make_config(stage, "alone", gradient_accumulation_steps=2, **options)
    assert train(alone, "run") == 0
    both = make_config(stage, "both", **options)
    assert processes.finish(processes.start([both, both], tmp_path)) == [0, 0], said(tmp_path, 0)
    expected, found = rows(tmp_path / "alone"), rows(tmp_path / "both")
    assert len(found) == len(expected) == 6
    for one, other in zip(expected, found, strict=True):
        for key in ("loss", "gradient_norm", "learning_rate", "epoch"):
            assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), key
    assert largest_difference(tmp_path / "alone", tmp_path / "both") < 1e-4
    epochs = rows(tmp_path / "alone", "epoch")
    for one, other in zip(epochs, rows(tmp_path / "both", "epoch"), strict=True):
        assert other["epoch"] == one["epoch"]
        if stage == "pretrain":
            assert other["codebook_perplexity"] == pytest.approx(one["codebook_perplexity"])


def test_only_the_first_process_writes_and_speaks(make_config: Maker, tmp_path: Path) -> None:
    config = make_config("ctc", num_epochs=1)
    assert processes.finish(processes.start([config] * 2, tmp_path)) == [0, 0]
    assert said(tmp_path, 1) == ""
    assert "stage ctc on cpu and 1 more" in said(tmp_path, 0)
    steps = [row["step"] for row in rows(tmp_path / "run")]
    assert steps == sorted(set(steps))


def test_no_thread_of_the_connections_is_left_when_the_run_is_over(
    make_config: Maker, tmp_path: Path
) -> None:
    """One that lets go of a tensor while the interpreter shuts down would abort the process."""
    config = make_config("ctc", num_epochs=1)
    assert processes.finish(processes.fork(2, train_and_list_threads, config, tmp_path)) == [0, 0]
    for rank in range(2):
        names = (tmp_path / f"{rank}.threads").read_text().split()
        assert "pt_gloo_runloop" not in names, names


def train_and_list_threads(rank: int, config: RunConfig, output: Path) -> None:
    code = train(config, "run")
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    (output / f"{rank}.threads").write_text("".join(names))
    sys.exit(code)


def test_a_run_goes_on_with_another_number_of_processes(make_config: Maker, tmp_path: Path) -> None:
    """At the same place of the epoch and of the schedules; with equal steps, to equal weights."""
    options = {"batch_size": 3, "num_epochs": 3, "save_interval": 2, "log_interval": 1}
    whole = make_config("hybrid", "whole", gradient_accumulation_steps=2, **options)
    assert train(whole, "run") == 0
    parts = make_config("hybrid", "parts", **options)
    stopping = processes.start([parts] * 2, tmp_path, stop_at_step_five)
    assert processes.finish(stopping) == [143, 143], said(tmp_path, 0)
    saved = load_checkpoint(tmp_path / "parts" / "latest.pt")
    assert saved["step"] == 5
    assert (saved["position"]["epoch"], saved["position"]["micro_batch"]) == (1, 2)
    alone = make_config("hybrid", "parts", gradient_accumulation_steps=2, **options)
    alone.training.resume_from = str(tmp_path / "parts" / "latest.pt")
    assert train(alone, "run") == 0
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-4
    assert [r["step"] for r in rows(tmp_path / "parts")] == list(range(1, 13))


def stop_at_step_five(rank: int) -> None:
    """A signal to the second process alone, when all have said how they are in step 4."""
    if rank == 1:
        signal_in(4, signal.SIGTERM)


def signal_in(step: int, number: signal.Signals, saved: int | None = None) -> None:
    """The signal at the end of a step, but not before the background has saved step `saved`."""
    from voxformer.training import loop

    original = loop._Run._update

    def update(self: Any, *arguments: Any) -> float:
        if self.position.step == step:
            while saved is not None and self.saver.saved_step < saved:
                time.sleep(0.01)
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    loop._Run._update = update  # type: ignore[method-assign]


@pytest.mark.slow
def test_smaller_steps_leave_the_schedules_where_they_were(
    make_config: Maker, tmp_path: Path
) -> None:
    options = {"batch_size": 3, "num_epochs": 4, "log_interval": 1, "warmup_steps": 0}
    both = make_config("ctc", **options)
    started = processes.start([both] * 2, tmp_path, stop_at_step_five)
    assert processes.finish(started) == [143, 143]
    alone = make_config("ctc", **options)
    alone.training.resume_from = str(tmp_path / "run" / "latest.pt")
    assert train(alone, "run") == 0
    found = rows(tmp_path / "run")
    # 8 batches an epoch: 16 steps of two, of which 5 were made, and 22 of one for the rest.
    assert [row["step"] for row in found] == list(range(1, 28))
    rates = [row["learning_rate"] for row in found]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def kill_second_at_step_four(rank: int) -> None:
    if rank == 1:
        signal_in(4, signal.SIGKILL)


def kill_first_at_step_four(rank: int) -> None:
    if rank == 0:
        signal_in(4, signal.SIGKILL, saved=3)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_no_step_is_lost(
    make_config: Maker, tmp_path: Path
) -> None:
    # A process that reads audio lives on for a while, and must not keep its parent's connections.
    options = {"batch_size": 3, "save_interval": 100, "num_epochs": 3, "num_workers": 1}
    config = make_config("hybrid", **options)
    started = processes.start([config] * 2, tmp_path, kill_second_at_step_four)
    started[1].join(120)
    began = time.monotonic()
    assert processes.finish(started) == [2, -signal.SIGKILL]
    assert time.monotonic() - began < 30
    (line,) = [text for text in said(tmp_path, 0).splitlines() if "voxformer train:" in text]
    assert re.search(
        r"another of the 2 processes has ended.*; (at least )?step [34] is saved, go on", line
    )
    config.training.resume_from = str(tmp_path / "run" / "latest.pt")
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] in (3, 4)
    assert processes.finish(processes.start([config] * 2, tmp_path)) == [0, 0]
    whole = make_config(
        "hybrid", "whole", batch_size=3, save_interval=100, num_epochs=3, num_workers=1
    )
    assert processes.finish(processes.start([whole] * 2, tmp_path)) == [0, 0]
    assert largest_difference(tmp_path / "whole", tmp_path / "run") == 0.0


def test_without_the_first_process_the_others_end(make_config: Maker, tmp_path: Path) -> None:
    config = make_config("hybrid", batch_size=3, save_interval=2)
    started = processes.start([config] * 3, tmp_path, kill_first_at_step_four)
    assert processes.finish(started) == [-signal.SIGKILL, 2, 2]
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == 3  # of the epoch's end
    for rank in (1, 2):
        (line,) = said(tmp_path, rank).splitlines()
        assert re.search(r"at least step [23] is saved, go on with --resume", line)


def test_batches_that_nobody_can_read_leave_no_one_waiting(
    make_config: Maker, tmp_path: Path, corpus: Path
) -> None:
    lines = (corpus / "train.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for index, row in enumerate(entries):
        row["audio_filepath"] = str(corpus / row["audio_filepath"])
        if index % 2:
            broken = tmp_path / f"broken{index}.wav"
            broken.write_bytes(Path(row["audio_filepath"]).read_bytes()[:2000])
            row["audio_filepath"] = str(broken)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in entries))
    config = make_config("hybrid", batch_size=1, num_epochs=1, log_interval=1)
    config.data.train_manifest = str(tmp_path / "train.jsonl")
    assert processes.finish(processes.start([config] * 2, tmp_path)) == [0, 0]
    found = rows(tmp_path / "run")
    assert len(found) == 12
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("truncated audio") == 12
    # With a batch each, some steps had none: they are skipped, as in one process.
    assert found[-1]["skipped_steps"] == log.count("none readable")


def test_what_is_wrong_in_one_process_is_one_line(make_config: Maker, tmp_path: Path) -> None:
    first, second = make_config("ctc"), make_config("ctc", batch_size=8)
    assert processes.finish(processes.start([first, second], tmp_path)) == [2, 2]
    (line,) = (said(tmp_path, 0) + said(tmp_path, 1)).splitlines()
    assert line == (
        "voxformer train: the configs differ: training.batch_size is 8 in process 1 and 4 in "
        "process 0; all processes need the same config, data and version"
    )
    assert train(make_config("ctc", max_steps=1), "run") == 0
    assert processes.finish(processes.start([first, first], tmp_path)) == [2, 2]
    lines = (said(tmp_path, 0) + said(tmp_path, 1)).splitlines()
    assert len(lines) == 1
    assert "already holds checkpoints: add --resume" in lines[0]


@pytest.mark.slow
def test_a_process_that_never_comes_is_one_line(make_config: Maker, tmp_path: Path) -> None:
    config = make_config("ctc", process_timeout_minutes=0.1)
    started = processes.start([config], tmp_path, WORLD_SIZE="2")
    assert processes.finish(started) == [2]
    (line,) = [text for text in said(tmp_path, 0).splitlines() if "voxformer train:" in text]
    assert "process 0 of 2 did not meet the others at 127.0.0.1:" in line
    assert "within 0.1 minutes" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 but RANK is not set; start with `torchrun"),
        ({**PLACE, "WORLD_SIZE": "2", "RANK": "2"}, "RANK=2, WORLD_SIZE=2 do not fit together"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "RANK=0, WORLD_SIZE=two do not fit together"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
    ],
)
def test_an_incomplete_environment_is_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        planned(environment)


def test_one_process_needs_no_environment() -> None:
    assert planned({}) == planned({"WORLD_SIZE": "1", "RANK": "0"}) == (0, 1, 0, 1)


def test_a_tensor_shared_is_the_first_processes(tmp_path: Path) -> None:
    from voxformer.training.distributed import _with_tensors, _without_tensors

    value = {"a": [torch.arange(3.0), (1, "x")], 2: {"b": torch.tensor(5), "n": None}}
    tensors: list[torch.Tensor] = []
    skeleton = _without_tensors(value, tensors)
    room: list[torch.Tensor] = []
    again = _with_tensors(skeleton, room)
    for empty, tensor in zip(room, tensors, strict=True):
        empty.copy_(tensor)
    assert again["a"][1] == (1, "x")
    assert torch.equal(again["a"][0], value["a"][0])
    assert int(again[2]["b"]) == 5


@pytest.mark.slow
def test_torchrun_passes_a_signal_on_and_the_run_goes_on(
    make_config: Maker, tmp_path: Path
) -> None:
    config = make_config("ctc", num_epochs=40, save_interval=1000)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "voxformer", "train", "--config", str(path), "--resume"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            while not (metrics.is_file() and metrics.read_text()):
                assert launcher.poll() is None
                time.sleep(0.1)
            launcher.terminate()
            assert launcher.stderr is not None
            printed = launcher.stderr.read()
        finally:
            launcher.kill()
    assert "SIGTERM: saving and leaving after this step" in printed
    step = load_checkpoint(tmp_path / "run" / "latest.pt")["step"]
    assert 0 < step < 120
    command[-1:] = ["--set", f"training.max_steps={step + 2}", "--resume"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == step + 2
