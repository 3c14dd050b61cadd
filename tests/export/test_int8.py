"""int8 products against arithmetic with the rounded numbers themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from voxformer.export.calibration import MOST_RUNS, RecordingEngine
from voxformer.export.int8 import matrices, to_int8

INNER, OUTER = 24, 7


def graph(*, bias, sums=1):
    """y = relu(x W + b), and further readers of the product beside the bias."""
    random = np.random.default_rng(3)
    nodes = [helper.make_node("MatMul", ["x", "W"], ["product"], "matmul")]
    last = "product"
    for i in range(sums):
        if bias:
            nodes.append(helper.make_node("Add", ["b", "product"], [f"sum{i}"], f"add{i}"))
            last = f"sum{i}"
    nodes.append(helper.make_node("Relu", [last], ["y"], "relu"))
    weights = {
        "W": random.normal(size=(INNER, OUTER)).astype(np.float32),
        "b": random.normal(size=OUTER).astype(np.float32),
    }
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, ["n", INNER])],
            [value("y", TensorProto.FLOAT, ["n", OUTER])],
            [numpy_helper.from_array(w, name) for name, w in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return model, weights


def ranges(low, high):
    data = TensorData(lowest=np.float32(low), highest=np.float32(high))
    return TensorsData(CalibrationMethod.MinMax, {"x": data})


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("low", [-1.5, 0.0, 0.25])
def test_product_is_that_of_the_rounded_numbers_with_the_bias_added(low):
    model, weights = graph(bias=True)
    made = to_int8(model, ranges(low, 2.0), matrices(model))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["QuantizeLinear", "MatMulIntegerToFloat", "Relu"]
    x = np.random.default_rng(0).uniform(low, 2.0, size=(5, INNER)).astype(np.float32)
    step = (2.0 - min(low, 0.0)) / 255
    zero = round(-min(low, 0.0) / step)
    rounded = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    scales = np.abs(weights["W"]).max(axis=0) / 127
    matrix = np.rint(weights["W"] / scales) * scales
    expected = np.maximum(rounded @ matrix + weights["b"], 0.0)
    np.testing.assert_allclose(run(made, x), expected, atol=1e-3)
    assert np.abs(run(made, x) - run(model, x)).max() < 0.3


def test_stored_matrices_are_rounded_and_their_activations_are_not():
    model, weights = graph(bias=True)
    made = to_int8(model, ranges(-1, 1), [], matrices(model))
    onnx.checker.check_model(made)
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert kinds["W.int8"] == TensorProto.INT8
    assert not {"W", "W.zero"} & kinds.keys()
    x = np.random.default_rng(0).uniform(-9, 9, size=(5, INNER)).astype(np.float32)
    scales = np.abs(weights["W"]).max(axis=0) / 127
    expected = np.maximum(x @ (np.rint(weights["W"] / scales) * scales) + weights["b"], 0.0)
    np.testing.assert_allclose(run(made, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bias", "sums", "additions"), [(False, 1, 0), (True, 2, 2)])
def test_only_a_bias_that_is_all_that_reads_a_product_goes_into_it(bias, sums, additions):
    model, _ = graph(bias=bias, sums=sums)
    made = to_int8(model, ranges(-1, 1), matrices(model))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Add") == additions
    x = np.random.default_rng(0).uniform(-1, 1, size=(5, INNER)).astype(np.float32)
    assert np.abs(run(made, x) - run(model, x)).max() < 0.2


def test_float_weights_are_left_only_where_something_still_reads_them():
    model, _ = graph(bias=True)
    kinds = {
        tensor.name: tensor.data_type
        for tensor in to_int8(model, ranges(-1, 1), ["matmul"]).graph.initializer
    }
    assert "W" not in kinds
    assert kinds["W.int8"] == TensorProto.INT8
    untouched = to_int8(model, ranges(-1, 1), [])
    assert untouched == model
    onnx.checker.check_model(untouched, full_check=True)


def test_matrices_that_are_reshaped_are_rounded_by_their_rows_in_the_file_alone():
    model, _ = graph(bias=True)
    other = np.random.default_rng(4).normal(size=(6, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(other, "other"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 12]), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["other", "shape"], ["z"], "reshape"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 12]))
    made = to_int8(model, ranges(-1, 1), matrices(model))
    onnx.checker.check_model(made)
    assert {t.name for t in made.graph.initializer if t.data_type == TensorProto.FLOAT} == {
        "b",
        "W.scale",
        "x.scale",
        "other.scale",
    }
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.zeros((1, INNER), dtype=np.float32)
    scales = np.abs(other).max(axis=1, keepdims=True) / 127
    expected = (np.rint(other / scales) * scales).reshape(2, 12)
    np.testing.assert_allclose(session.run(["z"], {"x": x})[0], expected, rtol=1e-6)


def test_recorded_runs_are_few_and_spread_over_all(graphs):
    engine = RecordingEngine(graphs, 16000, 0.04)
    count = 5 * MOST_RUNS + 3
    for number in range(count):
        waveforms = np.full((1, 400), number, dtype=np.float32)
        engine.encode(waveforms, np.array([400]))
    kept = [int(feeds["waveforms"][0, 0]) for feeds in engine.feeds["encoder.onnx"]]
    assert MOST_RUNS <= len(kept) < 2 * MOST_RUNS
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0
    assert kept[-1] >= count - 4
