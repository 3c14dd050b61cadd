"""A run whose machine is gone goes on from its mirror, with the weights that it would have had."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from voxformer.config import RunConfig
from voxformer.training import loop
from voxformer.training import mirror as mirroring
from voxformer.training.checkpoint import CheckpointError, load_checkpoint
from voxformer.training.loop import train
from voxformer.training.setup import RunError


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stop_at(step)`: SIGTERM once when a run reports that step."""
    wanted: list[int] = []
    original = loop._Run._report

    def report(self: loop._Run, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        if self.position.step in wanted:
            wanted.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Run, "_report", report)
    return wanted.append


def mirrored(config: RunConfig, far: Path) -> RunConfig:
    config.mirror.url = str(far)
    return config


def test_an_empty_folder_resumes_from_the_mirror_bit_for_bit(
    make_config: Callable[..., RunConfig], tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    options = {"ema_decay": 0.9, "eval_interval": 2, "log_interval": 1}
    assert train(make_config("ctc", "whole", **options), "whole") == 0
    far = tmp_path / "far"
    stop_at(5)
    assert train(mirrored(make_config("ctc", **options), far), "run") == 143
    shutil.rmtree(tmp_path / "run")
    assert train(mirrored(make_config("ctc", **options), far), "run") == 0
    log = (tmp_path / "run" / "training.log").read_text()
    assert "step_5.pt at step 5, fetched from the mirror" in log
    assert log.count("starting fresh") == 1  # in the lines of the first part
    whole, parts = (load_checkpoint(tmp_path / name / "latest.pt") for name in ("whole", "run"))
    for key in ("model", "ema"):
        assert whole[key].keys() == parts[key].keys()
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key])
    assert load_checkpoint(tmp_path / "run" / "best.pt")["step"] <= parts["step"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row["step"] for row in rows if row["type"] == "train"]
    assert steps == list(range(1, parts["step"] + 1))
    assert {"mirror_step", "mirror_age_s", "mirror_pending_bytes", "mirror_error"} <= set(rows[0])
    assert (far / f"step_{parts['step']}.pt").is_file()


def test_a_far_end_that_is_not_there_is_warned_of_once(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "pause_s", lambda failures: 0.0)
    config = mirrored(make_config("ctc", max_steps=2), tmp_path / "unmounted" / "far")
    config.mirror.final_minutes = 0.0
    assert train(config, "run") == 0
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("training goes on, and it is tried again") == 1
    assert "starting fresh without knowing whether the mirror holds checkpoints" in log
    assert "done: " in log


def test_resume_from_takes_a_url_and_a_mirror_of_another_run_leaves_nothing(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    far = tmp_path / "far"
    assert train(mirrored(make_config("ctc", "first", max_steps=2), far), "first") == 0
    other = mirrored(make_config("hybrid", "other", max_steps=2), far)
    with pytest.raises(CheckpointError, match=r"is of another run: .* of stage ctc, this config"):
        train(other, "other")
    assert not list((tmp_path / "other").glob("**/*.pt"))
    place = f"file://{far}"
    config = make_config("ctc", "second", max_steps=2, resume_from=f"{place}/step_2.pt")
    assert train(config, "second") == 0
    assert "already finished at step 2" in (tmp_path / "second" / "training.log").read_text()
    with pytest.raises(RunError, match="already holds checkpoints"):
        train(make_config("ctc", "second", resume_from=place), "second")


def test_a_second_signal_does_not_wait_for_the_mirror(
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[[int], None],
) -> None:
    waiting: list[bool] = []
    finish = mirroring.Mirror._finish

    def finish_and_say(self: mirroring.Mirror) -> None:
        waiting.append(True)
        finish(self)

    def signal_while_waited_for(failures: int) -> float:
        if waiting:
            waiting.clear()
            os.kill(os.getpid(), signal.SIGTERM)
            return 600.0
        return 0.0

    monkeypatch.setattr(mirroring.Mirror, "_finish", finish_and_say)
    monkeypatch.setattr(mirroring, "pause_s", signal_while_waited_for)
    stop_at(2)
    with pytest.raises(SystemExit) as left:
        train(mirrored(make_config("ctc"), tmp_path / "unmounted" / "far"), "run")
    assert left.value.code == 143
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == 2
