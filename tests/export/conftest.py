"""The small random model exported, for tests that break its graphs."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
import soundfile
import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from voxformer.config import RunConfig
from voxformer.data import Utterance, write_manifest
from voxformer.export import bundle
from voxformer.export.onnx_export import export_graphs
from voxformer.model import VoxFormer
from voxformer.text import train_tokenizer


@pytest.fixture(scope="session")
def config(model):
    return RunConfig(model=model.config)


@pytest.fixture(scope="session")
def trained(model):
    """Other weights in every place, and two blocks at lower frame rates, one after another."""
    sizes = model.config.model_copy(update={"encoder_downsampling": [1, 2, 4]})
    torch.manual_seed(3)
    changed = VoxFormer(sizes).eval()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return changed


@pytest.fixture(scope="session")
def tokenizer(vocabulary, tmp_path_factory):
    """A SentencePiece model of the ten pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a c e g abd f h"] * 3, 10, folder)
    model = ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    for piece, name in zip(model.pieces, vocabulary.tokens[1:-1], strict=True):
        piece.piece = name
    return model.SerializeToString()


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


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A manifest of noise, with texts that the random model does not know."""
    folder = tmp_path_factory.mktemp("speech")
    random = np.random.default_rng(5)
    utterances = []
    for index in range(6):
        path = folder / f"{index}.wav"
        samples = 8000 + 3001 * index
        soundfile.write(path, random.normal(0, 0.1, samples).astype(np.float32), 16000)
        utterances.append(Utterance(str(index), path, samples / 16000, "a c e g " * 25))
    write_manifest(folder / "speech.jsonl", utterances)
    return folder / "speech.jsonl"
