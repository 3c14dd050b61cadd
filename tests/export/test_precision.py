"""fp16 and int8 bundles: what they hold, and what the gate says of wrong ones."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from voxformer.export import ExportRefused, convert, export_bundle
from voxformer.export.departure import first_departure
from voxformer.export.half import to_half
from voxformer.export.int8 import matrices
from voxformer.export.shared import LEAST_BYTES
from voxformer.runtime import Recognizer, read_bundle
from voxformer.runtime.bundle import BundleWarning


def values_of(out):
    return json.loads((out / "bundle.json").read_text("utf-8"))


def stored(path, kind):
    """Numbers of a type that the initializers of a graph hold."""
    graph = onnx.load(path).graph
    return sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == kind)


def test_fp16_halves_the_weights_and_keeps_the_numbers(
    exports, model, vocabulary, config, speech, tmp_path
):
    full = export_bundle(model, vocabulary.tokens, config, tmp_path / "full")
    out = export_bundle(
        model, vocabulary.tokens, config, tmp_path / "out", speech, precision="fp16"
    )
    assert read_bundle(out).precision == "fp16"
    for name in ("encoder.onnx", "decoder.onnx", "decoder_step.onnx"):
        whole, half = stored(out / name, TensorProto.FLOAT), stored(out / name, TensorProto.FLOAT16)
        assert half > 0.8 * stored(full / name, TensorProto.FLOAT) - whole
        graph = onnx.load(out / name).graph
        ends = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        assert TensorProto.FLOAT16 not in ends
    parity = values_of(out)["parity"]
    assert 0.0 < parity["max_abs_difference"]["log_probs"] < parity["tolerance"]
    assert parity["cases"]["odd"]["samples"] == [26666, 5333, 12444]
    assert set(parity["largest_activations"]) >= {"largest_half", "encoder.onnx", "decoder.onnx"}
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert Recognizer.load(out).transcribe([noise])[0].text is not None


def test_fp16_without_islands_is_refused_and_the_first_wrong_node_named(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(convert, "to_half", partial(to_half, islands=False))
    with pytest.raises(ExportRefused, match=r"log_probs differ .* first departs at .* \(Conv\)"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_speech(exports, model, vocabulary, config, tmp_path):
    with pytest.raises(ExportRefused, match="--manifest"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out", precision="int8")


def test_int8_stores_every_matrix_in_a_byte_a_weight(
    exports, model, vocabulary, config, speech, tmp_path
):
    out = export_bundle(
        model, vocabulary.tokens, config, tmp_path / "out", speech, precision="int8"
    )
    values = values_of(out)
    assert values["precision"] == "int8"
    assert values["parity"]["kept_fp32"] == {
        name: [] for name in ("encoder.onnx", "decoder.onnx", "decoder_step.onnx")
    }
    whole = export_bundle(model, vocabulary.tokens, config, tmp_path / "whole")
    for name in ("encoder.onnx", "decoder.onnx", "decoder_step.onnx"):
        graph = onnx.load(whole / name).graph
        inputs = {node.name: node.input for node in graph.node}
        chosen = {inputs[node][1] for node in matrices(onnx.load(whole / name))}
        weights = {t.name: int(np.prod(t.dims)) for t in graph.initializer}
        assert stored(out / name, TensorProto.INT8) >= sum(weights[n] for n in chosen)
    for name in ("decoder.onnx", "decoder_step.onnx"):  # both forms have the same matrices
        graph = onnx.load(out / name, load_external_data=False).graph
        assert not [t.name for t in graph.initializer if len(t.raw_data) >= LEAST_BYTES]


@pytest.mark.slow
def test_int8_keeps_sensitive_matrices_until_the_gate_is_content(
    exports, model, vocabulary, config, speech, tmp_path, monkeypatch
):
    said = []
    verdicts = iter(["too far", None])
    judged = convert.Judge.verdict

    def verdict(self, exported, precision):
        found = judged(self, exported, precision)
        if precision == "fp32":
            return found
        return convert.Verdict(found.parity, found.evaluation, next(verdicts), None)

    monkeypatch.setattr(convert.Judge, "verdict", verdict)
    out = export_bundle(
        model,
        vocabulary.tokens,
        config,
        tmp_path / "out",
        speech,
        precision="int8",
        say=said.append,
    )
    kept = values_of(out)["parity"]["kept_fp32"]
    assert len(kept["encoder.onnx"]) >= 1
    graph = onnx.load(out / "encoder.onnx")
    assert matrices(graph) == []  # each is stored in a byte a weight
    products = {node.name: node.op_type for node in graph.graph.node}
    assert {products[name] for name in kept["encoder.onnx"]} == {"MatMul"}
    assert "too far" in said
    assert any("sensitive" in line for line in said)


def test_forced_bundle_says_what_is_wrong_with_it(exports, model, vocabulary, config, tmp_path):
    def broken(graph):
        largest = max(graph.initializer, key=lambda tensor: np.prod(tensor.dims))
        values = numpy_helper.to_array(largest) * np.float32(1.03)
        largest.CopyFrom(numpy_helper.from_array(values, largest.name))

    exports["encoder.onnx"] = broken
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", force=True)
    assert "log_probs differ" in values_of(out)["parity"]["failure"]
    with pytest.warns(BundleWarning, match="written with --force: .*log_probs differ"):
        read_bundle(out)


def test_departure_is_the_first_node_that_computes_something_else(graphs):
    model, other = (onnx.load(graphs / "decoder.onnx") for _ in range(2))
    weights = {tensor.name: tensor for tensor in other.graph.initializer}
    third = matrices(model)[2]
    [node] = [node for node in other.graph.node if node.name == third]
    weight = weights[node.input[1]]
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    random = np.random.default_rng(0)
    d_model = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    feeds = {
        "encoder_out": random.normal(size=(1, 9, d_model)).astype(np.float32),
        "encoder_lengths": np.array([9]),
        "tokens": np.ones((1, 2, 4), dtype=np.int64),
        "token_lengths": np.array([[4, 2]]),
    }
    assert first_departure(model, model, feeds, 1e-3) is None
    departure = first_departure(model, other, feeds, 1e-3)
    assert departure.node == node.name
    assert departure.difference > 0.1
