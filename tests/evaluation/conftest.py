"""A small random model and a manifest of noise."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from voxformer.config import ModelConfig
from voxformer.data import Utterance
from voxformer.model import VoxFormer
from voxformer.runtime import Vocabulary
from voxformer.runtime.torch_engine import TorchEngine

PIECES = ["<unk>", "\u2581", "\u2581a", "b", "\u2581c", "d", "\u2581e", "f", "\u2581g", "h"]


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary.from_tokens(["<blank>", *PIECES, "<sos/eos>"])


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(7)
    config = ModelConfig(
        vocab_size=len(PIECES),
        d_model=32,
        encoder_num_heads=2,
        encoder_num_blocks=3,
        encoder_layers_per_block=1,
        encoder_conv_kernel=5,
        subsampling_channels=8,
        decoder_num_heads=2,
        decoder_num_layers=2,
    )
    return VoxFormer(config).eval()


@pytest.fixture(scope="session")
def engine(model):
    return TorchEngine(model)


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
