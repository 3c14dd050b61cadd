from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.data import Utterance
from voxformer.text import Tokenizer, train_tokenizer

RATE = 16000
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


@pytest.fixture(scope="session")
def write_audio():
    """A function that writes so many seconds of noise and returns the path."""
    return _write_audio


def _write_audio(path: Path, seconds: float, seed: int = 0, rate: int = RATE) -> Path:
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, generator.uniform(-0.3, 0.3, round(seconds * rate)), rate)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Twenty FLAC files of 0.6 to 2.5 s."""
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for i in range(20):
        seconds = 0.6 + 0.1 * i
        path = _write_audio(folder / f"{i}.flac", seconds, seed=i)
        text = " ".join(WORDS[(i + k) % len(WORDS)] for k in range(1 + i % 3))
        utterances.append(Utterance(f"u{i}", path, seconds, text))
    return utterances


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(WORDS, 15, tmp_path_factory.mktemp("tokenizer"), "char")
