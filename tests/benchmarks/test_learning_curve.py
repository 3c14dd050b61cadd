"""The learning curve of a recipe: hours add up over its stages, and nothing is left out."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from voxformer.data.manifest import Utterance, write_manifest
from voxformer.training.checkpoint import CheckpointError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def learning_curve(script):
    return script("learning_curve")


@pytest.fixture
def run(learning_curve, tmp_path, monkeypatch):
    """Two stages that have heard 3 and 0.5 epochs of two hours."""
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, [Utterance("a", Path("a.wav"), 3600.0, "yes")])
    data = {"train_manifest": [{"path": str(manifest), "weight": 2.0}], "max_duration": 1e9}
    states = {}
    for stage, epoch, micro_batch, steps in (("stage2", 3, 0, 30), ("stage4", 0, 5, 5)):
        folder = tmp_path / "checkpoints" / stage
        folder.mkdir(parents=True)
        (folder / "latest.pt").touch()
        states[folder / "latest.pt"] = {
            "config": {"data": data},
            "position": {"epoch": epoch, "micro_batch": micro_batch, "step": steps},
            "data": {"num_batches": 10},
        }
    write_rows(
        tmp_path / "checkpoints" / "stage2",
        {"type": "train", "step": 1, "time": 100.0},
        {"type": "train", "step": 10, "time": 700.0},
        {"type": "valid", "step": 15, "time": 900.0, "wer_ctc_greedy": 0.9, **errors(9)},
        # Killed and resumed from step 10 on.
        {"type": "train", "step": 12, "time": 950.0},
        {"type": "valid", "step": 15, "time": 1000.0, "wer_ctc_greedy": 0.5, **errors(7)},
        {"type": "train", "step": 30, "time": 2000.0},
        {"type": "valid", "step": 30, "time": 2500.0, "wer_ctc_greedy": 0.25, **errors(2)},
    )
    write_rows(
        tmp_path / "checkpoints" / "stage4",
        {"type": "train", "step": 5, "time": 3000.0},
        {"type": "valid", "step": 5, "time": 3060.0, "wer_ctc_greedy": 0.2, **errors(1)}
        | {"wer_rescoring": 0.1, "insertions_rescoring": 0},
    )
    monkeypatch.setattr(learning_curve, "load_checkpoint", states.__getitem__)
    return tmp_path


def errors(insertions: int) -> dict:
    return {"insertions_ctc_greedy": insertions}


def write_rows(folder: Path, *rows: dict) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"type": "tr'
    (folder / "metrics.jsonl").write_text(text, "utf-8")


def test_hours_add_up_over_the_stages(learning_curve, run):
    points = learning_curve.points_of(run)
    assert [(p["stage"], p["mode"], p["hours"], p["wer"]) for p in points] == [
        ("stage2", "ctc_greedy", 3.0, 0.5),
        ("stage2", "ctc_greedy", 6.0, 0.25),
        ("stage4", "ctc_greedy", 7.0, 0.2),
        ("stage4", "rescoring", 7.0, 0.1),
    ]
    rows = learning_curve.rows_of(points)
    assert rows[1] == ["stage2", "30", "6", "40", "ctc_greedy", "25.00%", "2"]


def test_the_plot_has_a_curve_for_each_mode(learning_curve, run):
    root = ElementTree.fromstring(learning_curve.plot(learning_curve.points_of(run), "a < b"))
    curves = [line.get("points").split() for line in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [3, 1]
    heights = [float(point.split(",")[1]) for point in curves[0]]
    assert heights == sorted(heights)  # down the page, as the rates fall
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a < b", "ctc_greedy", "rescoring"} <= set(texts)


def test_a_folder_without_stages_is_one_line(learning_curve, tmp_path):
    with pytest.raises(FileNotFoundError, match="no stage with evaluations"):
        learning_curve.points_of(tmp_path)
    stage = tmp_path / "checkpoints" / "stage2"
    stage.mkdir(parents=True)
    (stage / "best.pt").touch()
    with pytest.raises(CheckpointError, match=r"stage2: no latest\.pt, which knows how much"):
        learning_curve.points_of(tmp_path)
