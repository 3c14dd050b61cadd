"""A small random model: its graphs must be it, whatever the weights are."""

from __future__ import annotations

import shutil

import onnx
import pytest
import torch

from voxformer.config import ModelConfig, RunConfig
from voxformer.export import bundle
from voxformer.export.onnx_export import export_graphs
from voxformer.model import VoxFormer
from voxformer.runtime import Vocabulary

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
def config(model):
    return RunConfig(model=model.config)


@pytest.fixture(scope="session")
def graphs(model, tmp_path_factory):
    """A folder with the three graphs, for tests to copy and break."""
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(model, folder, {}, "trace")
    return folder


@pytest.fixture
def exports(graphs, monkeypatch):
    """`export_bundle` with graphs made beforehand, changed by what is put into the dictionary."""
    edits = {}

    def copy_graphs(model, folder, metadata, exporter):
        shutil.copytree(graphs, folder, dirs_exist_ok=True)
        for name, edit in edits.items():
            proto = onnx.load(folder / name)
            edit(proto.graph)
            onnx.save(proto, folder / name)

    monkeypatch.setattr(bundle, "export_graphs", copy_graphs)
    return edits
