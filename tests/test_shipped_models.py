"""The models in models/: whole, small, without paths of the machine that made them, and running."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from voxformer.card import render_card
from voxformer.config import load_config
from voxformer.data.noises import noise
from voxformer.data.seeds import derived_generator
from voxformer.export.unpack import unpack_bundle
from voxformer.runtime import Recognizer, read_bundle
from voxformer.training.checkpoint import check_architecture, load_checkpoint

MODELS = Path(__file__).parents[1] / "models"
LARGEST = 15e6
FOLDERS = sorted(path.parent for path in MODELS.glob("*/bundle.json"))


def test_there_is_a_model() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_model_is_whole_small_and_from_nowhere(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert set(bundle.modes) == {"ctc_greedy", "ctc_beam", "attention", "rescoring"}
    assert bundle.decoding.language_model is not None
    tracked = [folder / name for name in (*bundle.values["files"], "bundle.json")]
    assert sum(path.stat().st_size for path in tracked) <= LARGEST
    kept_fp32 = bundle.values["parity"].get("kept_fp32", {})
    nodes = [node for kept in kept_fp32.values() for node in kept]
    for name in ("bundle.json", "model-card.json", "model-card.md"):
        text = (folder / name).read_text("utf-8")
        for node in nodes:  # of a graph, and named like paths
            text = text.replace(json.dumps(node), "")
        assert not re.search(r"""["'` ]/\w+/""", text), f"{name} names a place of another machine"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_card_is_made_from_its_figures(folder: Path) -> None:
    values = json.loads((folder / "model-card.json").read_text("utf-8"))
    assert (folder / "model-card.md").read_text("utf-8") == render_card(values)
    digest = json.loads((folder / "bundle.json").read_text("utf-8"))["provenance"]
    assert values["results"]["checkpoint_sha256"] == digest["checkpoint_sha256"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_model_runs_and_hears_nothing_where_nobody_speaks(folder: Path) -> None:
    recognizer = Recognizer.load(folder, threads=1)
    quiet = np.random.default_rng(0).normal(0, 1e-4, 32000).astype(np.float32)
    # Of another seed than those that it has heard.
    noises = [noise(derived_generator("noise", 99, number)) for number in range(20)]
    heard = recognizer.transcribe([quiet, *noises])
    assert [transcript.text for transcript in heard] == [""] * 21


def test_read_english_can_be_trained_further(tmp_path: Path) -> None:
    unpack_bundle(MODELS / "read-english", tmp_path / "start.pt")
    state = load_checkpoint(tmp_path / "start.pt")
    config, _ = load_config("fine_tune")
    check_architecture("start.pt", state["config"]["model"], config.model)
    assert state["config"]["data"]["pronunciation"] == config.data.pronunciation
