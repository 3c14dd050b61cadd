"""A manifest of noise for the small random model."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from voxformer.data import Utterance


@pytest.fixture(scope="session")
def utterances(tmp_path_factory):
    """Nine recordings of noise, 0.01 to 2 s, with texts that the model knows nothing of."""
    folder = tmp_path_factory.mktemp("speech")
    random = np.random.default_rng(5)
    result = []
    for index, samples in enumerate((16000, 160, 9000, 32000, 20011, 8000, 12800, 400, 25000)):
        path = folder / f"u{index}.wav"
        soundfile.write(path, random.normal(0, 0.1, samples).astype(np.float32), 16000)
        text = ["a c", "", "E, g!", "ab cd ef gh", "c"][index % 5]
        result.append(Utterance(f"u{index}", path, samples / 16000, text))
    return result
