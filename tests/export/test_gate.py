"""The gate (invariant 5): each way of being wrong is refused, and nothing is written."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from voxformer.evaluation import ErrorCounts
from voxformer.export import ExportRefused, export_bundle, parity
from voxformer.export.parity import _difference
from voxformer.export.precision import LIMITS
from voxformer.model.masks import MASKED
from voxformer.runtime import encode, pad_batch
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.torch_engine import TorchEngine


def edited(folder, name, edit):
    """Change one graph of a folder in place."""
    proto = onnx.load(folder / name)
    edit(proto.graph)
    onnx.save(proto, folder / name)


def without_mask(graph):
    """The attention bias of padded frames becomes 0: every frame is heard."""
    changed = 0
    attributes = [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for tensor in (*graph.initializer, *attributes):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size == 1 and values.item() == np.float32(MASKED):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(values), tensor.name))
            changed += 1
    assert changed


def without(name):
    """The graph ignores a length that goes in, and takes the padded size instead."""

    def edit(graph):
        source, axis = {
            "lengths": ("waveforms", 1),
            "encoder_lengths": ("encoder_out", 1),
            "token_lengths": ("tokens", 2),
        }[name]
        for node in graph.node:
            node.input[:] = ["full_lengths" if value == name else value for value in node.input]
        added = [
            helper.make_node("Shape", [source], ["size"], start=axis, end=axis + 1),
            helper.make_node("Shape", [name], ["shape_of_lengths"]),
            helper.make_node("Expand", ["size", "shape_of_lengths"], ["full_lengths"]),
        ]
        before = list(graph.node)
        del graph.node[:]
        graph.node.extend([*added, *before])

    return edit


def scaled_weight(graph):
    """One weight matrix off by 3 %: a wrong constant, or a precision that does not do."""
    largest = max(graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(largest) * np.float32(1.03)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))


def frozen_cache(graph):
    """The step forgets what it appended: the cache that comes out is not the one that went on."""
    [output] = [value for value in graph.output if value.name == "new_cache"]
    for node in graph.node:
        node.output[:] = ["true_cache" if v == output.name else v for v in node.output]
    graph.initializer.append(numpy_helper.from_array(np.float32([0.0]), "nothing"))
    graph.node.append(helper.make_node("Mul", ["true_cache", "nothing"], ["new_cache"]))


BROKEN = {
    "encoder without mask": ("encoder.onnx", without_mask),
    "encoder without lengths": ("encoder.onnx", without("lengths")),
    "encoder with a wrong weight": ("encoder.onnx", scaled_weight),
    "decoder without mask": ("decoder.onnx", without_mask),
    "decoder without encoder lengths": ("decoder.onnx", without("encoder_lengths")),
    "decoder without token lengths": ("decoder.onnx", without("token_lengths")),
    "step without mask": ("decoder_step.onnx", without_mask),
    "step without encoder lengths": ("decoder_step.onnx", without("encoder_lengths")),
    "step with a dead cache": ("decoder_step.onnx", frozen_cache),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_graph_is_refused_and_leaves_no_bundle(
    fault, exports, model, vocabulary, config, tmp_path
):
    name, edit = BROKEN[fault]
    exports[name] = edit
    with pytest.raises(ExportRefused, match=r"differ|encoder lengths are"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_encoder_lengths_are_refused(exports, model, vocabulary, config, tmp_path):
    def one_more(graph):
        for node in graph.node:
            node.output[:] = ["fewer" if v == "encoder_lengths" else v for v in node.output]
            node.input[:] = ["fewer" if v == "encoder_lengths" else v for v in node.input]
        graph.initializer.append(numpy_helper.from_array(np.int64([1]), "one"))
        graph.node.append(helper.make_node("Add", ["fewer", "one"], ["encoder_lengths"]))

    exports["encoder.onnx"] = one_more
    with pytest.raises(ExportRefused, match="encoder lengths are"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_numbers_are_refused(exports, model, vocabulary, config, tmp_path):
    def poison(graph):
        [bias] = [t for t in graph.initializer if list(t.dims) == [12]]
        values = np.full(12, np.nan, dtype=np.float32)
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    exports["decoder.onnx"] = poison
    with pytest.raises(ExportRefused, match="by nan"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_refused_export_leaves_an_earlier_bundle_as_it_was(
    exports, model, vocabulary, config, tmp_path
):
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    exports["decoder.onnx"] = without_mask
    with pytest.raises(ExportRefused):
        export_bundle(model, vocabulary.tokens, config, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_gate_holds_more_than_the_traced_shape(graphs, model, tmp_path):
    """Without padding the edit is invisible: it is the uneven lengths that find it."""
    shutil.copytree(graphs, tmp_path, dirs_exist_ok=True)
    edited(tmp_path, "encoder.onnx", without_mask)
    waveform = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    batch = pad_batch([waveform])
    broken, whole = OnnxEngine(tmp_path, 16000, 0.04), TorchEngine(model)
    even = encode(whole, *batch).log_probs - encode(broken, *batch).log_probs
    assert np.abs(even).max() < LIMITS["fp32"].difference
    lengths = {len(case.lengths) for case in parity.cases(16000)}
    assert 1 in lengths
    assert max(lengths) >= 3


def test_wer_is_compared_and_recorded(exports, model, vocabulary, config, speech, tmp_path):
    import json

    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", speech)
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    for mode in parity.WER_MODES:
        rates = values["parity"]["wer"][mode]
        assert rates["torch"] == rates["onnxruntime"] == values["wer"]["modes"][mode]["wer"]
    assert values["wer"]["utterances"] == 6
    assert values["provenance"]["manifest"] == str(speech)


@pytest.mark.parametrize(("more", "refused"), [(1, False), (2, True)])
def test_wer_apart_by_more_than_a_word_is_refused(
    more, refused, exports, model, vocabulary, config, speech, tmp_path, monkeypatch
):
    """600 reference words: one is 0.17 points, so that a single word is let pass on its own."""
    evaluate = parity.evaluate

    def worse(engine, *arguments):
        evaluation = evaluate(engine, *arguments)
        if isinstance(engine, OnnxEngine):
            result = evaluation.modes["rescoring"]
            words = result.words + ErrorCounts(insertions=more)
            evaluation.modes["rescoring"] = dataclasses.replace(result, words=words)
        return evaluation

    monkeypatch.setattr(parity, "evaluate", worse)
    out = tmp_path / "out"
    if refused:
        with pytest.raises(ExportRefused, match="rescoring: WER"):
            export_bundle(model, vocabulary.tokens, config, out, speech)
    else:
        export_bundle(model, vocabulary.tokens, config, out, speech)
    assert out.exists() != refused


def test_exported_model_is_a_copy(exports, model, vocabulary, config, tmp_path):
    before = copy.deepcopy(model.state_dict())
    export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_of_what_is_improbable_the_rounding_is_relative():
    expected = np.array([[[-0.1, -40.0]]], dtype=np.float32)
    limits = LIMITS["fp32"]
    far = expected + np.array([0.0, 0.003], dtype=np.float32)
    assert _difference(expected, far, limits) == pytest.approx(0.003 / 4, rel=1e-3)
    near = expected - np.array([0.003, 0.0], dtype=np.float32)
    assert _difference(expected, near, limits) == pytest.approx(0.003, rel=1e-3)
    assert np.isnan(_difference(expected, expected * np.nan, limits))
