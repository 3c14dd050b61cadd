"""A tiny corpus of spoken-like tones and a config that trains on it in seconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
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


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, of as many MiB as the test is parametrized with, or 2."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = getattr(request, "param", 2)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root and the right to mount (CAP_SYS_ADMIN)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
