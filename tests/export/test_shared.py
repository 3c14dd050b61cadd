"""Weights that both forms of the decoder have lie in one file, and compute what they did."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from voxformer.export import export_bundle
from voxformer.export.shared import SHARED_NAME, share_weights
from voxformer.runtime import read_bundle
from voxformer.runtime.bundle import BundleError

DECODERS = ("decoder.onnx", "decoder_step.onnx")
SIZES = {"rows": 2, "batch": 2, "frames": 7, "n": 3, "length": 4, "past": 2}


def outputs_of(path):
    """What a graph makes of random numbers, the same for each copy of it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(3)
    feeds = {}
    for given in session.get_inputs():
        shape = [SIZES[axis] if isinstance(axis, str) else axis for axis in given.shape]
        if given.type == "tensor(float)":
            feeds[given.name] = random.normal(size=shape).astype(np.float32)
        else:
            feeds[given.name] = random.integers(2, 4, shape)
    return session.run(None, feeds)


def tensors_of(path):
    proto = onnx.load(path)
    return {t.name: numpy_helper.to_array(t).tobytes() for t in proto.graph.initializer}


def test_shared_weights_lie_outside_of_both_graphs_once(graphs, tmp_path):
    shutil.copytree(graphs, tmp_path, dirs_exist_ok=True)
    before = sum((graphs / name).stat().st_size for name in DECODERS)
    assert share_weights(tmp_path, DECODERS) == SHARED_NAME
    sizes = [(tmp_path / name).stat().st_size for name in DECODERS]
    shared = (tmp_path / SHARED_NAME).stat().st_size
    assert sum(sizes) + shared < 0.75 * before
    for name in DECODERS:
        assert tensors_of(tmp_path / name) == tensors_of(graphs / name)
        onnx.checker.check_model(str(tmp_path / name), full_check=True)
        for here, there in zip(outputs_of(tmp_path / name), outputs_of(graphs / name), strict=True):
            assert np.array_equal(here, there)


def test_graphs_without_a_common_weight_stay_as_they_are(graphs, tmp_path):
    shutil.copytree(graphs, tmp_path, dirs_exist_ok=True)
    proto = onnx.load(tmp_path / DECODERS[1])
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.25), tensor.name))
    onnx.save(proto, tmp_path / DECODERS[1])
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert share_weights(tmp_path, DECODERS) is None
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_a_bundle_vouches_for_its_shared_weights(exports, model, vocabulary, config, tmp_path):
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert SHARED_NAME in read_bundle(out).values["files"]
    content = (out / SHARED_NAME).read_bytes()
    (out / SHARED_NAME).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(BundleError, match=r"decoder\.weights"):
        read_bundle(out)
    (out / SHARED_NAME).unlink()
    with pytest.raises(BundleError, match=r"decoder\.weights"):
        read_bundle(out)
