"""A small random model: every property here must hold whatever the weights are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxformer.config import ModelConfig, RunConfig
from voxformer.export import export_bundle
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
def bundle(model, vocabulary, tmp_path_factory):
    """The model as a bundle; the exporter is the quick one."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    config = RunConfig(model=model.config)
    return export_bundle(
        model, vocabulary.tokens, config, out, max_tokens_per_second=6.0, exporter="trace"
    )


@pytest.fixture
def noise():
    """Waveforms of so many samples each, reproducible."""

    def make(*lengths):
        random = np.random.default_rng(sum(lengths) + len(lengths))
        return [random.normal(0, 0.1, size=length).astype(np.float32) for length in lengths]

    return make
