"""What export writes, and where it refuses to."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from voxformer.export import ExportRefused, Provenance, bundle, export_bundle, onnx_export
from voxformer.export.onnx_export import TRACED_ROWS, export_graph, graphs_of
from voxformer.export.parity import check_numbers
from voxformer.export.precision import LIMITS
from voxformer.runtime import read_bundle
from voxformer.runtime.bundle import sha256_of
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.torch_engine import TorchEngine

GRAPHS = ("encoder.onnx", "decoder.onnx", "decoder_step.onnx")


def test_bundle_says_what_is_in_it_and_where_it_comes_from(model, vocabulary, config, tmp_path):
    said = []
    out = export_bundle(
        model,
        vocabulary.tokens,
        config,
        tmp_path / "deep" / "out",
        max_tokens_per_second=4.5,
        longest_seconds=16.5,
        provenance=Provenance("runs/best.pt", "ab" * 32, 1200, "hybrid"),
        exporter="trace",
        say=said.append,
    )
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        (*GRAPHS, "bundle.json", "tokens.txt")
    )
    for name, entry in values["files"].items():
        assert entry == {
            "sha256": sha256_of(out / name),
            "bytes": (out / name).stat().st_size,
        }
    assert values["vocabulary"] == {"size": 12, "blank_id": 0, "sos_eos_id": 11}
    assert values["decoding"]["max_tokens_per_second"] == 4.5
    assert values["longest_seconds"] == 16.5
    assert values["decoding"]["beam_size"] == config.decoding.beam_size
    assert values["provenance"]["step"] == 1200
    assert values["provenance"]["versions"]["onnx"] == onnx.__version__
    assert values["wer"] is None
    assert values["parity"]["max_abs_difference"]["log_probs"] <= LIMITS["fp32"].difference
    assert read_bundle(out).vocabulary == vocabulary
    assert said


def test_cap_of_the_config_goes_before_the_measured_one(
    exports, model, vocabulary, config, tmp_path
):
    decoding = config.decoding.model_copy(update={"max_tokens_per_second": 2.0})
    own = config.model_copy(update={"decoding": decoding})
    out = export_bundle(model, vocabulary.tokens, own, tmp_path / "out", max_tokens_per_second=4.5)
    assert read_bundle(out).decoding.max_tokens_per_second == 2.0


def test_graphs_are_opset_18_with_dynamic_axes_and_no_paths(graphs):
    for name in GRAPHS:
        proto = onnx.load(graphs / name)
        onnx.checker.check_model(proto, full_check=True)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
        for value in (*proto.graph.input, *proto.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param or "cache" in value.name
        content = (graphs / name).read_bytes()
        assert str(Path(__file__).resolve().parents[2]).encode() not in content
        assert b"voxformer.py" not in content


def test_wrong_number_of_tokens_is_refused(model, vocabulary, config, tmp_path):
    with pytest.raises(ExportRefused, match="it needs 12"):
        export_bundle(model, vocabulary.tokens[:-1], config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_place_that_holds_something_else_is_left_alone(model, vocabulary, config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path)
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text("utf-8") == "years of work"
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "null")
    assert (tmp_path / "null").is_char_device()


def test_a_full_disk_is_not_said_to_be_pytorchs_fault(
    model, vocabulary, config, tmp_path, monkeypatch
):
    def full(graph, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_export, "_export_trace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out", exporter="trace")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing_leaves_no_bundle(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class FixedRows(torch.nn.Module):
    """A graph that works for seven rows only: what a Python number in a reshape does."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, encoder_out, encoder_lengths, tokens, cache):
        log_probs, cache = self.step(encoder_out, encoder_lengths, tokens, cache)
        return log_probs.reshape(TRACED_ROWS, 12), cache


def test_graph_for_one_shape_only_is_refused(model, graphs, tmp_path):
    shutil.copytree(graphs, tmp_path, dirs_exist_ok=True)
    graph = graphs_of(model)["decoder_step"]
    fixed = dataclasses.replace(graph, module=FixedRows(graph.module))
    export_graph(fixed, tmp_path / "decoder_step.onnx", {}, "trace")
    with pytest.raises(ExportRefused, match="the graphs cannot run"):
        check_numbers(TorchEngine(model), OnnxEngine(tmp_path, 16000, 0.04))


@pytest.mark.slow
def test_dynamo_refuses_an_axis_that_became_a_constant(model, tmp_path):
    graph = graphs_of(model)["decoder_step"]
    fixed = dataclasses.replace(graph, module=FixedRows(graph.module))
    with pytest.raises(ExportRefused, match=r"decoder_step\.onnx"):
        export_graph(fixed, tmp_path / "decoder_step.onnx", {}, "dynamo")


@pytest.mark.slow
def test_dynamo_graphs_are_the_model(model, vocabulary, config, tmp_path):
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", exporter="dynamo")
    read = read_bundle(out)
    report = check_numbers(TorchEngine(model), OnnxEngine.from_bundle(read))
    assert max(report["max_abs_difference"].values()) <= LIMITS["fp32"].difference
