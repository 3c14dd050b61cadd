"""The benchmarks as modules, and a bundle of a checkpoint with random weights for them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.config import RunConfig
from voxformer.data import Utterance, write_manifest
from voxformer.export import export_checkpoint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SECONDS = (0.6, 1.3, 0.9, 2.0, 1.1)


@pytest.fixture(scope="session")
def script():
    """A benchmark by its file's stem; they import each other as scripts do."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    patch.undo()


@pytest.fixture(scope="session")
def noise_manifest(tmp_path_factory):
    """Noise of the lengths `SECONDS`, with texts."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    utterances = []
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number}.wav"
        samples = random.normal(0, 0.1, int(seconds * 16000)).astype(np.float32)
        soundfile.write(path, samples, 16000)
        utterances.append(Utterance(str(number), path, seconds, "b c d"))
    write_manifest(folder / "noise.jsonl", utterances)
    return folder / "noise.jsonl"


@pytest.fixture(scope="session")
def random_bundle(script, model, noise_manifest, tmp_path_factory):
    """The small model as `random_model.py` writes it, exported."""
    folder = tmp_path_factory.mktemp("random")
    checkpoint = folder / "run" / "best.pt"
    script("random_model").write(str(checkpoint), model, RunConfig(model=model.config), 12.0)
    return export_checkpoint(checkpoint, folder / "bundle", noise_manifest, exporter="trace")
