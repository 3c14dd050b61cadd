"""The small random model exported, for tests that break its graphs."""

from __future__ import annotations

import shutil

import onnx
import pytest

from voxformer.config import RunConfig
from voxformer.export import bundle
from voxformer.export.onnx_export import export_graphs


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
