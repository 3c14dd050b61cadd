"""A tiny corpus of spoken-like tones and a config that trains on it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from voxformer.config import RunConfig
from voxformer.config.load import validate_config

from ..tones import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.jsonl (24 utterances) and dev.jsonl (6)."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


ConfigMaker = Callable[..., RunConfig]


@pytest.fixture
def make_config(corpus: Path, tmp_path: Path) -> ConfigMaker:
    """`make_config(stage, run="name", **training)`: a config for the tiny corpus."""

    def make(stage: str, run: str = "run", **training: object) -> RunConfig:
        return validate_config(
            {
                "stage": stage,
                "model": {
                    "vocab_size": 18,
                    "d_model": 32,
                    "encoder_num_heads": 2,
                    "encoder_layers_per_block": 1,
                    "subsampling_channels": 8,
                    "decoder_num_heads": 2,
                    "decoder_num_layers": 1,
                },
                "training": {
                    "batch_size": 4,
                    "num_epochs": 2,
                    "warmup_steps": 2,
                    "num_workers": 0,
                    "num_threads": 1,
                    "device": "cpu",
                    "checkpoint_dir": str(tmp_path / run),
                    **training,
                },
                "pretrain": {"codebook_size": 8, "codebook_dim": 4, "mask_frames": 2},
                "data": {
                    "train_manifest": str(corpus / "train.jsonl"),
                    "valid_manifest": str(corpus / "dev.jsonl"),
                },
                "decoding": {"beam_size": 3, "n_best": 3},
            }
        )

    return make
