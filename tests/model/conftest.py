"""Small random models."""

from __future__ import annotations

import pytest
import torch

from voxformer.config import ModelConfig
from voxformer.model import VoxFormer


def small_model(**changes: object) -> VoxFormer:
    torch.manual_seed(0)
    values = {
        "vocab_size": 20,
        "d_model": 32,
        "encoder_num_heads": 2,
        "encoder_layers_per_block": 1,
        "subsampling_channels": 8,
        "decoder_num_heads": 2,
        "decoder_num_layers": 2,
        **changes,
    }
    return VoxFormer(ModelConfig.model_validate(values)).eval()


@pytest.fixture(scope="session")
def model() -> VoxFormer:
    """Blocks at 25, 12.5 and 25 frames/s."""
    return small_model()


@pytest.fixture(scope="session")
def model_of_three_rates() -> VoxFormer:
    """Blocks at 25, 12.5, 6.25 and 25 frames/s."""
    return small_model(encoder_num_blocks=4, encoder_downsampling=[1, 2, 4, 1])
