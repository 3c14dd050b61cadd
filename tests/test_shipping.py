"""Which weights a recipe chooses from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from voxformer.shipping import candidates
from voxformer.training.checkpoint import load_checkpoint, save_checkpoint


def checkpoint(path: Path, step: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"encoder.weight": torch.full((2,), float(step))}
    save_checkpoint(
        path, {"stage": "hybrid", "config": {"model": {}}, "step": step, "model": weights}
    )
    return path


@pytest.mark.parametrize("best", [7, 9])
def test_the_last_step_is_a_candidate_where_another_was_better(tmp_path: Path, best: int) -> None:
    run = tmp_path / "checkpoints" / "stage4"
    checkpoint(run / "best.pt", best)
    checkpoint(run / "latest.pt", 9)
    expected = {"best evaluation": run / "best.pt"}
    if best != 9:
        expected["last step"] = run / "latest.pt"
    assert candidates(run, tmp_path) == expected
    checkpoint(run.parent / "stage3" / "best.pt", 3)
    mixtures = candidates(run, tmp_path)
    shares = {f"{share}% of stage 4 in stage 3" for share in (0, 30, 50, 70)}
    assert mixtures.keys() - expected.keys() == shares
    unchanged = load_checkpoint(mixtures["0% of stage 4 in stage 3"])
    assert unchanged["model"]["encoder.weight"].tolist() == [3.0, 3.0]
