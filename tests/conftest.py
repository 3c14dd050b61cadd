"""Settings of the whole suite, and the small random model that many tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Small tensors gain nothing from threads, and on a busy machine they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, and not whether the code is right.
settings.register_profile("voxformer", deadline=None)
settings.load_profile("voxformer")

PIECES = ["<unk>", "\u2581", "\u2581a", "b", "\u2581c", "d", "\u2581e", "f", "\u2581g", "h"]


@pytest.fixture(scope="session")
def vocabulary():
    """Ten pieces and the two specials."""
    from voxformer.runtime import Vocabulary

    return Vocabulary.from_tokens(["<blank>", *PIECES, "<sos/eos>"])


@pytest.fixture(scope="session")
def model():
    """Random weights: what is tested with it must hold whatever the weights are."""
    import torch

    from voxformer.config import ModelConfig
    from voxformer.model import VoxFormer

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
    """The model in PyTorch."""
    from voxformer.runtime.torch_engine import TorchEngine

    return TorchEngine(model)
