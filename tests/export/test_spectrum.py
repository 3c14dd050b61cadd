"""The front end's transform that ONNX Runtime works out is the one that PyTorch has."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from voxformer.audio.features import LogMel
from voxformer.export.onnx_export import OPSET, export_graphs
from voxformer.export.spectrum import work_out_spectrum

RATE = 16000


def graph_of(kernel, *, as_node):
    """The convolution of a front end whose kernel is an initializer, or a node, as exporters do."""
    value = helper.make_tensor_value_info
    tensor = numpy_helper.from_array(kernel, "kernel")
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["y"], "conv", strides=[160])]
    if as_node:
        nodes.insert(0, helper.make_node("Constant", [], ["kernel"], "constant", value=tensor))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, [1, 1, "samples"])],
            [value("y", TensorProto.FLOAT, [1, kernel.shape[0], "frames"])],
            [] if as_node else [tensor],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )


def run(model, feeds):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("as_node", [False, True])
def test_the_transform_is_worked_out_to_the_same_numbers(rate, as_node):
    kernel = LogMel(rate).kernel.numpy()
    model = graph_of(kernel, as_node=as_node)
    size = model.ByteSize()
    x = np.random.default_rng(1).normal(size=(1, 1, 2 * rate)).astype(np.float32)
    (expected,) = run(model, {"x": x})
    assert work_out_spectrum(model, rate)
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < 0.1 * size
    (found,) = run(model, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_a_graph_with_other_numbers_stays_as_it_is():
    kernel = LogMel(RATE).kernel.numpy()
    kernel[3, 0, 5] += 1.0
    model = graph_of(kernel, as_node=False)
    before = model.SerializeToString()
    assert not work_out_spectrum(model, RATE)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("exporter", ["dynamo", "trace"])
def test_both_exporters_leave_a_transform_that_is_found(exporter, model, tmp_path):
    export_graphs(model, tmp_path, {}, exporter)
    encoder = onnx.load(tmp_path / "encoder.onnx")
    size = encoder.ByteSize()
    assert work_out_spectrum(encoder, model.config.sample_rate)
    assert encoder.ByteSize() < size - 700_000
