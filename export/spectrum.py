"""The front end's Fourier transform as a rule in place of its numbers, 0.8 MB of a graph.

They are linear in a frame and of a frame of any speech the same: cosines and sines, the window,
pre-emphasis and the removal of the mean, one after the other (`voxformer.audio.features`). ONNX
Runtime works them out when it loads the graph, in double precision, as PyTorch does.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from voxformer.audio.features import INT16_SCALE, PRE_EMPHASIS, LogMel, povey_window

PREFIX = "front_end.kernel"


def work_out_spectrum(model: onnx.ModelProto, sample_rate: int) -> bool:
    """Replace the kernel of the front end by nodes that make it.

    Args:
        model: an encoder graph, changed in place.
        sample_rate: in Hz.

    Returns:
        False where the graph does not have it among its constants, and is left as it was.
    """
    graph = model.graph
    kernel = LogMel(sample_rate).kernel.numpy()
    name = _take(graph, kernel)
    if name is None:
        return False
    nodes, constants = _nodes(kernel.shape, name)
    graph.initializer.extend(constants)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return True


def _take(graph: onnx.GraphProto, kernel: npt.NDArray[np.float32]) -> str | None:
    """Remove the constant that has these values, and say what it was called."""
    for tensor in graph.initializer:
        if _equal(tensor, kernel):
            graph.initializer.remove(tensor)
            return str(tensor.name)
    for node in graph.node:
        if node.op_type == "Constant" and _equal(node.attribute[0].t, kernel):
            graph.node.remove(node)
            return str(node.output[0])
    return None


def _equal(tensor: TensorProto, kernel: npt.NDArray[np.float32]) -> bool:
    if tuple(tensor.dims) != kernel.shape or tensor.data_type != TensorProto.FLOAT:
        return False
    return bool(np.array_equal(numpy_helper.to_array(tensor), kernel))


def _nodes(shape: tuple[int, ...], output: str) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """What makes a kernel [2 · bins, 1, window], and the constants that it is made from."""
    bins, window = shape[0] // 2, shape[-1]
    n_fft = 2 * bins
    turn = 2 * math.pi * np.arange(n_fft) / n_fft
    constants = {
        "bins": np.arange(bins, dtype=np.int64)[:, None],
        "samples": np.arange(window, dtype=np.int64),
        "turns": np.array(n_fft, dtype=np.int64),
        "cosines": np.cos(turn),
        "sines": -np.sin(turn),
        "window": INT16_SCALE * povey_window(window).numpy(),
        "emphasis": np.array(PRE_EMPHASIS),
        "pads": np.array([0, 0, 0, 1], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "end": np.array([window + 1], dtype=np.int64),
    }
    steps: tuple[tuple[str, str, str, dict[str, int]], ...] = (
        ("Mul", "bins samples", "angle", {}),
        ("Mod", "angle turns", "phase", {}),
        ("Gather", "cosines phase", "real", {"axis": 0}),
        ("Gather", "sines phase", "imaginary", {"axis": 0}),
        ("Concat", "real imaginary", "fourier", {"axis": 0}),
        ("Mul", "fourier window", "windowed", {}),
        # Sample n of a frame is in the windowed samples n and n + 1; in the first one twice, where
        # the window is 0.
        ("Pad", "windowed pads", "padded", {}),
        ("Slice", "padded one end one", "next", {}),
        ("Mul", "next emphasis", "subtracted", {}),
        ("Sub", "windowed subtracted", "emphasised", {}),
        ("ReduceMean", "emphasised one", "mean", {"keepdims": 1}),
        ("Sub", "emphasised mean", "double", {}),
        ("Cast", "double", "single", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", "single one", "", {}),
    )
    nodes = [
        helper.make_node(
            op,
            [f"{PREFIX}.{name}" for name in inputs.split()],
            [f"{PREFIX}.{made}" if made else output],
            f"{PREFIX}.{made}.node" if made else f"{PREFIX}.node",
            **attributes,
        )
        for op, inputs, made, attributes in steps
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(values), f"{PREFIX}.{name}")
        for name, values in constants.items()
    ]
    return nodes, tensors
