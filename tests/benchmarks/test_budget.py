"""The cost of a recipe that has not run, and the table of runs that have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import budget
import experiments
import pytest
from training import count_flops

from voxformer.config import RunConfig
from voxformer.config.load import validate_config
from voxformer.data.manifest import read_manifest
from voxformer.plan import Language, Plan
from voxformer.recipe import Corpus
from voxformer.text import train_tokenizer
from voxformer.training.loop import train

from ..tones import write_corpus

SMALL = [
    "model.vocab_size=18",
    "model.d_model=32",
    "model.encoder_layers_per_block=1",
    "model.subsampling_channels=8",
    "training.batch_seconds=3",
    "training.num_epochs=4",
    "training.max_minutes=0.5",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_stage_costs_its_steps_times_what_a_step_costs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "BATCHES", 2)
    manifest = corpus / "train.jsonl"
    stages = ("stage1", "stage2", "stage3", "stage4")
    sets = {stage: [(manifest, 2.0)] for stage in stages}
    hours = {stage: 2 * sum(u.duration for u in read_manifest(manifest)) / 3600 for stage in stages}
    overrides = {stage: list(SMALL) for stage in stages}
    minutes = dict.fromkeys(stages, 0.5)
    plan = Plan(
        Corpus(sets, corpus / "dev.jsonl", {}),
        overrides,
        Language((), order=3),
        hours,
        minutes,
        weights=dict.fromkeys(["train"], [2.0] * 4),
        scale=None,
        exporter="trace",
    )
    found = budget.measure("librispeech", plan, "H100", tmp_path)
    for stage, values in zip(stages, found, strict=True):
        assert values["stage"] == stage
        assert values["audio_hours"] == pytest.approx(4 * hours[stage])
        assert values["flops"] == pytest.approx(values["flops_a_step"] * values["steps"])
        assert values["needed_share"] == pytest.approx(values["flops"] / 30 / 989e12)
        assert values["minutes_at"]["0.1"] == pytest.approx(values["flops"] / 98.9e12 / 60)
        # Each of the 48 draws is in a batch, which holds 3 s and at least half of that.
        seconds = hours[stage] * 3600
        assert seconds / 3 <= values["steps"] / 4 <= 2 * seconds / 3 + 2
    # Stage 4 has a decoder beside stage 2's encoder; stage 3 has no gradients in its encoder.
    assert found[3]["flops"] > found[1]["flops"] > found[2]["flops"]
    rows = [*map(budget.row_of, found), budget.total_row(found, 989e12)]
    assert {len(row) for row in rows} == {len(budget.COLUMNS)}
    assert rows[-1][3] == str(sum(values["steps"] for values in found))


def test_both_views_are_counted(corpus: Path, tmp_path: Path) -> None:
    utterances = read_manifest(corpus / "train.jsonl")
    tokenizer = train_tokenizer([u.text for u in utterances], 18, tmp_path)
    model = {"vocab_size": 18, "d_model": 32, "encoder_layers_per_block": 1}
    costs = []
    for weight in (0.0, 0.2):
        config = RunConfig.model_validate(
            {"stage": "ctc", "training": {"cr_ctc_weight": weight}, "model": model}
        )
        shapes = budget._shapes(config, [[0, 1, 2]], utterances, tokenizer)
        frames = round(100 * max(u.duration for u in utterances[:3]))
        assert shapes == [("Encoder", (6 if weight else 3, frames))]
        costs.append(count_flops(config, shapes))
    assert costs[1] == 2 * costs[0]


def test_runs_are_added_to_a_table_and_replace_themselves(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = validate_config(
        {
            "stage": "ctc",
            "model": {"vocab_size": 18, "d_model": 32, "encoder_layers_per_block": 1},
            "training": {
                "num_epochs": 3,
                "batch_size": 8,
                "warmup_steps": 2,
                "num_workers": 0,
                "device": "cpu",
                "seed": 5,
                "checkpoint_dir": str(tmp_path / "run"),
            },
            "data": {
                "train_manifest": [{"path": str(corpus / "train.jsonl"), "weight": 2}],
                "valid_manifest": str(corpus / "dev.jsonl"),
            },
        }
    )
    assert train(config, "run") == 0
    table = tmp_path / "table.json"

    def add(change: str, learned: str) -> list[list[str]]:
        arguments = ["--run", str(tmp_path / "run"), "--manifest", str(corpus / "dev.jsonl")]
        arguments += ["--change", change, "--learned", learned, "--json", str(table)]
        monkeypatch.setattr(sys, "argv", ["experiments.py", *arguments, "--utterances", "4"])
        experiments.main()
        rows: list[list[str]] = json.loads(table.read_text())["rows"]
        return rows

    add("first", "a")
    add("second", "b")
    rows = add("first", "c")
    assert [(row[0], row[6], row[-1]) for row in rows] == [
        ("first", "ctc_greedy", "c"),
        ("first", "ctc_beam", "c"),
        ("second", "ctc_greedy", "b"),
        ("second", "ctc_beam", "b"),
    ]
    assert rows[0][1:3] == ["5", "ctc"]
    heard = 6 * sum(u.duration for u in read_manifest(corpus / "train.jsonl")) / 3600
    assert float(rows[0][4]) == pytest.approx(heard, abs=0.05)
