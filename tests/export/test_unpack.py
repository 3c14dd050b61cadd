"""A bundle's weights as a checkpoint again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from voxformer.cli import main
from voxformer.config import RunConfig
from voxformer.export import Provenance, bundle, convert, export_bundle
from voxformer.export.onnx_export import export_graphs
from voxformer.export.unpack import unpack_bundle
from voxformer.runtime.bundle import sha256_of
from voxformer.text import train_tokenizer
from voxformer.training.checkpoint import load_checkpoint, load_model_checkpoint

STEPS = {"fp32": 0.0, "fp16": 2**-11, "int8": 1 / 254}
"""How far a weight may be from the model's, over the largest of its row."""


@pytest.fixture(scope="module")
def traced(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    export_graphs(trained, folder, {}, "trace")
    return folder


@pytest.fixture
def exported(trained, traced, vocabulary, tokenizer, speech, tmp_path, monkeypatch):
    """`exported(**options)`: a bundle of the changed model."""

    def graphs_made(model, folder, metadata, exporter):
        shutil.copytree(traced, folder, dirs_exist_ok=True)

    monkeypatch.setattr(bundle, "export_graphs", graphs_made)
    config = RunConfig(model=trained.config)

    def export(**options) -> Path:
        return export_bundle(
            trained,
            vocabulary.tokens,
            config,
            tmp_path / "bundle",
            speech,
            max_tokens_per_second=4.5,
            longest_seconds=16.5,
            provenance=Provenance("runs/best.pt", "ab" * 32, 1200, "hybrid"),
            **{"tokenizer": tokenizer, **options},
        )

    return export


@pytest.mark.parametrize(
    ("precision", "topk", "kept"),
    [
        ("fp32", None, 0.0),
        ("fp32", 4, 0.0),
        ("fp16", None, 0.0),
        ("int8", None, 0.0),
        ("int8", None, 0.5),
    ],
)
def test_weights_are_the_models(
    exported, trained, precision, topk, kept, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(convert, "KEPT_SHARES", (kept,))
    folder, out = exported(precision=precision, ctc_topk=topk), tmp_path / "start.pt"
    assert main(["checkpoints", "unpack", str(folder), str(out)]) == 0
    assert f"{out}: the weights of {folder}; log-probs differ by" in capsys.readouterr().out
    found, expected = load_checkpoint(out)["model"], trained.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        is_share = name.endswith("downsample.weights")
        ours, theirs = (w.softmax(0) if is_share else w for w in (found[name], value))
        largest = theirs.abs().amax(-1, keepdim=True) if theirs.dim() == 2 else theirs.abs().max()
        step = 1e-6 if is_share and precision == "fp32" else STEPS[precision] * 1.001
        assert ((ours - theirs).abs() <= step * largest + 1e-7).all(), name


def test_checkpoint_says_what_the_bundle_does(exported, vocabulary, tokenizer, tmp_path):
    out = tmp_path / "start.pt"
    folder = exported(search={"beam_size": 30, "ctc_weight": 0.9})
    assert unpack_bundle(folder, out) < 1e-3
    loaded = load_model_checkpoint(out)
    assert loaded.tokens == list(vocabulary.tokens)
    assert loaded.tokenizer == tokenizer
    assert loaded.config.data.pronunciation is None
    assert (loaded.config.decoding.beam_size, loaded.config.decoding.ctc_weight) == (30, 0.9)
    assert loaded.metadata["step"] == 1200
    assert loaded.metadata["stage"] == "hybrid"
    assert loaded.metadata["max_tokens_per_second"] == 4.5
    assert loaded.metadata["data"]["longest_seconds"] == 16.5


def refusal(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    out = tmp_path / "start.pt"
    assert main(["checkpoints", "unpack", str(folder), str(out)]) == 2
    assert not out.exists()
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_bundle_without_tokenizer_is_one_line(exported, tmp_path, capsys):
    error = refusal(exported(tokenizer=None), tmp_path, capsys)
    assert "has no tokenizer.model, which training needs; export its checkpoint again" in error


def vouch(folder: Path, name: str) -> None:
    """Have bundle.json name what a file holds now."""
    values = json.loads((folder / "bundle.json").read_text())
    values["files"][name]["sha256"] = sha256_of(folder / name)
    (folder / "bundle.json").write_text(json.dumps(values))


def reread(graph, old: str, new: str) -> None:
    """Have every node that reads a constant read another."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def change(folder: Path, edit) -> None:
    """Change encoder.onnx."""
    path = folder / "encoder.onnx"
    proto = onnx.load(path)
    edit(proto.graph)
    onnx.save(proto, path)
    vouch(folder, "encoder.onnx")


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (["provenance"], None, "bundle.json: incomplete or of another shape"),
        (["provenance", "step"], "12", "step '12'"),
        (["provenance", "stage"], "pretrain", "stage 'pretrain'"),
        (["precision"], "bf16", "precision 'bf16'"),
        (["parity"], {}, "KeyError('max_abs_difference')"),
        (["pronunciation"], 5, "data.pronunciation"),
        (["model", "d_model"], 3, "bundle.json"),
        (["model"], None, "bundle.json"),
    ],
)
def test_wrong_value_is_one_line(exported, keys, value, line, tmp_path, capsys):
    folder = exported()
    values = json.loads((folder / "bundle.json").read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / "bundle.json").write_text(json.dumps(values))
    assert line in refusal(folder, tmp_path, capsys)


@pytest.mark.parametrize("content", [b"garbage", b"", None], ids=["garbage", "empty", "another"])
def test_tokenizer_of_other_tokens_is_one_line(exported, content, tmp_path, capsys):
    folder = exported()
    if content is None:
        train_tokenizer(["hello low yellow"] * 3, 10, tmp_path)
        content = (tmp_path / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(content)
    vouch(folder, "tokenizer.model")
    assert "tokenizer.model" in refusal(folder, tmp_path, capsys)


@pytest.mark.parametrize("name", ["", "bundle.json", "tokenizer.model"])
def test_bundle_is_not_overwritten(exported, name, capsys):
    folder = exported()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["checkpoints", "unpack", str(folder), str(folder / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_graph_that_is_none_is_one_line(exported, tmp_path, capsys):
    folder = exported()
    (folder / "encoder.onnx").write_bytes(b"garbage")
    vouch(folder, "encoder.onnx")
    assert "encoder.onnx: cannot be read" in refusal(folder, tmp_path, capsys)


def test_weights_in_a_link_are_one_line(exported, tmp_path, capsys):
    folder = exported()
    (folder / "decoder.weights").rename(tmp_path / "weights")
    (folder / "decoder.weights").symlink_to(tmp_path / "weights")
    error = refusal(folder, tmp_path, capsys)
    assert "symbolic link" in error
    assert "put copies in the place of links" in error


def test_weight_that_is_not_found_is_named(exported, tmp_path, capsys):
    folder = exported()
    name = "model.encoder.blocks.2.layers.0.norm.bias"

    def rename(graph):
        next(tensor for tensor in graph.initializer if tensor.name == name).name = "another"
        reread(graph, name, "another")

    change(folder, rename)
    error = refusal(folder, tmp_path, capsys)
    assert "1 of " in error
    assert "encoder.blocks.2.layers.0.norm.bias first" in error


def test_weights_that_say_something_else_are_refused(exported, tmp_path, capsys):
    """A name that lies: what is multiplied is not what bears the weight's name."""
    folder = exported()
    name = "model.encoder.subsampling.norm.weight"

    def lie(graph):
        kept = next(tensor for tensor in graph.initializer if tensor.name == name)
        graph.initializer.append(numpy_helper.from_array(2 * numpy_helper.to_array(kept), "other"))
        reread(graph, name, "other")

    change(folder, lie)
    assert "the weights found do not say what it says: log_probs differ by" in refusal(
        folder, tmp_path, capsys
    )


def test_folder_that_is_no_bundle_is_one_line(tmp_path, capsys):
    assert "bundle.json" in refusal(tmp_path, tmp_path, capsys)
