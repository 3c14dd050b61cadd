"""Invariant 7: a run killed at any instant and resumed gives the same weights, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from voxformer.config import RunConfig
from voxformer.config.load import validate_config
from voxformer.training.checkpoint import CheckpointError, load_checkpoint
from voxformer.training.loop import train
from voxformer.training.setup import RunError


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder / "latest.pt")
    return {**state["model"], **{f"ema.{k}": v for k, v in (state["ema"] or {}).items()}}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@pytest.mark.parametrize("stage", ["pretrain", "ctc", "attention", "hybrid"])
def test_resumed_run_is_bit_equal(make_config, tmp_path: Path, stage: str) -> None:  # type: ignore[no-untyped-def]
    options = {
        "ema_decay": 0.9,
        "gradient_accumulation_steps": 2,
        "eval_interval": 3,
        "optimizer": "muon" if stage in ("ctc", "hybrid") else "adamw",
    }
    if stage in ("ctc", "hybrid"):
        options |= {"cr_ctc_weight": 0.2, "inter_ctc_weight": 0.3}
    assert train(make_config(stage, "whole", **options), "whole") == 0
    # The schedule depends on the planned length, so the interruption is a signal, not max_steps.
    interrupted = make_config(stage, "parts", **options)
    assert run_until_step(interrupted, 2) == 143
    state = load_checkpoint(tmp_path / "parts" / "latest.pt")
    assert 0 < state["step"] < load_checkpoint(tmp_path / "whole" / "latest.pt")["step"]
    interrupted.training.resume_from = str(tmp_path / "parts" / "latest.pt")
    assert train(interrupted, "parts") == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_resumed_run_with_weighted_sets_is_bit_equal(
    make_config, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("few", lines[:8]), ("many", lines[8:])):
        rows = [json.loads(line) for line in part]
        for row in rows:
            row["audio_filepath"] = str(corpus / row["audio_filepath"])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)

    def config(run: str) -> RunConfig:
        values = make_config("hybrid", run, num_epochs=3).model_dump(mode="json")
        values["data"]["train_manifest"] = [
            {"path": str(tmp_path / "few.jsonl"), "weight": 2.25},
            {"path": str(tmp_path / "many.jsonl"), "weight": 0.5},
        ]
        values["data"]["memory_hours"] = 0.0
        return validate_config(values)

    assert train(config("whole"), "whole") == 0
    interrupted = config("parts")
    assert run_until_step(interrupted, 9) == 143
    interrupted.training.resume_from = str(tmp_path / "parts" / "latest.pt")
    assert train(interrupted, "parts") == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    # 8 of weight 2.25 and 16 of 0.5 are 26 draws, 7 batches of 4.
    assert load_checkpoint(tmp_path / "parts" / "latest.pt")["step"] == 21


def test_resumed_run_with_growing_masks_is_bit_equal(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def config(run: str, warmup_share: float = 0.8) -> RunConfig:
        made = make_config("ctc", run, optimizer="muon", cr_ctc_weight=0.2)
        made.augment.spec_augment.warmup_share = warmup_share
        return made

    assert train(config("whole"), "whole") == 0
    interrupted = config("parts")
    assert run_until_step(interrupted, 5) == 143
    interrupted.training.resume_from = str(tmp_path / "parts" / "latest.pt")
    assert train(interrupted, "parts") == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert train(config("full", warmup_share=0.0), "full") == 0
    full = weights(tmp_path / "full")
    assert any(not torch.equal(full[k], v) for k, v in weights(tmp_path / "whole").items())


def run_until_step(config: RunConfig, step: int) -> int:
    """Train in this process and send it SIGTERM when it reports the given step."""
    from voxformer.training import loop

    original = loop._Run._report

    def report(self, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        original(self, *arguments)  # type: ignore[arg-type]
        if self.position.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    loop._Run._report = report  # type: ignore[method-assign,assignment]
    try:
        return train(config, "parts")
    finally:
        loop._Run._report = original  # type: ignore[method-assign]


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_weights(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = {"save_interval": 2, "ema_decay": 0.9, "num_epochs": 3}
    assert train(make_config("hybrid", "whole", **options), "whole") == 0
    expected = weights(tmp_path / "whole")
    context = multiprocessing.get_context("spawn")
    delays = torch.Generator().manual_seed(0)
    for attempt in range(5):
        config = make_config("hybrid", f"killed{attempt}", **options)
        folder = tmp_path / f"killed{attempt}"
        config.training.resume_from = str(folder / "latest.pt")
        for _ in range(3):
            process = context.Process(target=train, args=(config, "killed"))
            process.start()
            while not list(folder.glob("*.pt")) and process.is_alive():
                time.sleep(0.05)
            time.sleep(float(torch.rand((), generator=delays)) * 1.5)
            process.kill()
            process.join()
        assert train(config, "killed") == 0
        assert_same(expected, weights(folder))


def test_own_latest_starts_fresh_only_in_an_empty_folder(
    make_config, tmp_path: Path, caplog
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    config = make_config("ctc", num_epochs=1, resume_from=str(folder / "latest.pt"))
    assert train(config, "run") == 0
    assert "starting fresh" in (folder / "training.log").read_text()
    assert train(config, "run") == 0
    assert "already finished" in (folder / "training.log").read_text()


def test_a_run_is_never_overwritten(make_config) -> None:  # type: ignore[no-untyped-def]
    config = make_config("ctc", max_steps=1)
    assert train(config, "run") == 0
    with pytest.raises(RunError, match="already holds checkpoints: add --resume"):
        train(config, "run")


def test_missing_file_is_an_error_that_names_it(make_config) -> None:  # type: ignore[no-untyped-def]
    for key in ("resume_from", "init_from"):
        with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such checkpoint"):
            train(make_config("ctc", **{key: "nowhere.pt"}), "run")


def test_other_architecture_is_refused_with_the_difference(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert train(make_config("ctc", max_steps=1), "run") == 0
    other = make_config("ctc", resume_from=str(tmp_path / "run" / "latest.pt"))
    other.model.d_model = 64
    with pytest.raises(CheckpointError, match="another architecture: d_model 32 there, 64 here"):
        train(other, "run")


def test_damaged_latest_is_set_aside_and_the_newest_verified_is_used(
    make_config, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    options = {"save_interval": 2, "keep_epochs_n": 0}
    assert train(make_config("ctc", "whole", **options), "whole") == 0
    config = make_config("ctc", **options)
    assert run_until_step(config, 5) == 143
    newest = folder / "step_5.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)  # latest.pt is a link to it, so both are damaged
    config.training.resume_from = str(folder / "latest.pt")
    assert train(config, "run") == 0
    log = (folder / "training.log").read_text()
    assert "resuming" in log
    assert "step_4.pt at step 4" in log
    assert (folder / "latest.pt.damaged").is_file()
    assert_same(weights(tmp_path / "whole"), weights(folder))


def test_the_last_evaluation_is_part_of_the_saved_state(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert train(make_config("ctc", save_interval=100, eval_interval=100), "run") == 0
    state = load_checkpoint(tmp_path / "run" / "latest.pt")
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert state["position"]["evaluated"] == state["step"] == best["step"]
    assert state["position"]["best"] == best["metrics"]["wer_ctc_greedy"]


def test_a_run_stopped_in_its_last_evaluation_saves_and_evaluates_when_resumed(
    make_config,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from voxformer.training.validation import Validator

    config = make_config("ctc", eval_interval=100)
    evaluate = Validator.run

    def interrupted(self, averaged):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, averaged)

    monkeypatch.setattr(Validator, "run", interrupted)
    assert train(config, "run") == 143
    monkeypatch.setattr(Validator, "run", evaluate)
    config.training.resume_from = str(tmp_path / "run" / "latest.pt")
    assert train(config, "run") == 0
    assert (tmp_path / "run" / "best.pt").is_file()


def test_best_never_stands_alone(
    make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    from voxformer.training.checkpoint import CheckpointFolder

    resumable: list[int] = []
    save_best = CheckpointFolder.save_best

    def noting(self, *arguments):  # type: ignore[no-untyped-def]
        resumable.append(load_checkpoint(tmp_path / "run" / "latest.pt")["position"]["step"])
        save_best(self, *arguments)

    monkeypatch.setattr(CheckpointFolder, "save_best", noting)
    assert train(make_config("ctc", eval_interval=1, save_interval=100), "run") == 0
    assert resumable[0] == 1


def test_going_back_to_an_older_checkpoint_asks_to_move_the_newer_ones(
    make_config, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    options = {"save_interval": 4, "keep_epochs_n": 0}
    assert train(make_config("ctc", **options), "run") == 0
    older = make_config("ctc", resume_from=str(folder / "step_4.pt"), **options)
    with pytest.raises(RunError, match=r"holds step_12\.pt, which is newer than step_4\.pt"):
        train(older, "run")
    for path in [*folder.glob("step_8.*"), *folder.glob("step_12.*"), *folder.glob("latest.*")]:
        path.unlink()
    expected = load_checkpoint(folder / "step_4.pt")["step"]
    assert expected == 4
    assert train(older, "run") == 0
    assert load_checkpoint(folder / "latest.pt")["step"] == 12


def test_the_config_goes_before_the_saved_hyperparameters(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert train(make_config("ctc", weight_decay=0.01), "run") == 0
    latest = str(tmp_path / "run" / "latest.pt")
    more = make_config("ctc", weight_decay=0.5, num_epochs=3, resume_from=latest)
    assert train(more, "run") == 0
    groups = load_checkpoint(latest)["optimizer"]["adamw"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
