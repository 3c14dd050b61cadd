"""int8 graphs: the matrices that multiply activations, per channel; other products stay fp32.

Activations have one scale and zero point for a tensor, from their range on real speech; weights
one scale for each output channel. Scales that follow each batch's own range (dynamic quantisation)
would let batch-mates change a result. Products of activations (attention) stay fp32, as do
convolutions, which hold few of the weights.

A matrix and its bias become one `MatMulIntegerToFloat` of ONNX Runtime, which is what its optimiser
makes of QuantizeLinear and DequantizeLinear pairs, except that it leaves the bias out. Such a graph
is for ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization.calibrate import TensorsData

from .calibration import Feeds

DOMAIN = "com.microsoft"

LEAST_SCALE = 1e-12
"""Of what is zero throughout."""


def matrices(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply an activation by a matrix of weights."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[0] not in weights
    ]


def to_int8(
    model: onnx.ModelProto,
    ranges: TensorsData,
    nodes: Sequence[str],
    stored: Sequence[str] = (),
) -> onnx.ModelProto:
    """The graph with these nodes in int8.

    Args:
        model: fp32; it stays as it is.
        ranges: of its tensors.
        nodes: of `matrices`.
        stored: others of them, whose weights alone are int8: they multiply in fp32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not nodes and not stored:
        return copy
    quantizer = _Quantizer(copy.graph, ranges)
    chosen, kept = set(nodes), set(stored)
    made = quantizer.reshaped()
    for node in copy.graph.node:
        if node.name in chosen:
            made += quantizer.product(node)
        elif node.name in kept:
            made += quantizer.fp32_product(node)
        elif node.output[0] not in quantizer.fused:
            made.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    _drop_unused(copy.graph)
    del copy.graph.value_info[:]
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy


class _Quantizer:
    """Adds to a graph what its products need; each activation and matrix once."""

    def __init__(self, graph: onnx.GraphProto, ranges: TensorsData) -> None:
        self.graph = graph
        self.ranges = ranges
        self.fused: set[str] = set()
        """What biases were added to: outputs of additions that products have taken over."""
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}
        self._done: set[str] = set()

    def product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that stand for a matrix product, and for the addition of its bias."""
        activation, matrix = node.input
        made = self._activation(activation)
        self._matrix(matrix)
        bias, output = self._bias(node.output[0], matrix)
        parts = (".int8", ".scale", ".zero")
        left, right = ([f"{name}{part}" for part in parts] for name in (activation, matrix))
        inputs = [name for pair in zip(left, right, strict=True) for name in pair]
        made.append(
            helper.make_node(
                "MatMulIntegerToFloat", [*inputs, *bias], [output], node.name, domain=DOMAIN
            )
        )
        return made

    def fp32_product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The product with its matrix in a byte a weight and its activations as they are."""
        name = node.input[1]
        self._matrix(name)
        output = f"{name}.fp32"
        node.input[1] = output
        if output in self._done:
            return [node]
        self._done.add(output)
        # Not DequantizeLinear: of that and MatMul, ONNX Runtime makes a MatMulNBits, which rounds
        # activations. Cast and Mul, of constants alone, it works out when it loads the graph.
        cast = f"{name}.cast"
        return [
            helper.make_node("Cast", [f"{name}.int8"], [cast], cast, to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [cast, f"{name}.scale"], [output], f"{name}.rescale"),
            node,
        ]

    def reshaped(self) -> list[onnx.NodeProto]:
        """Nodes that give back matrices which the graph reads in another shape alone, as a step of
        the decoder does those of keys and values: int8 in the file, fp32 in products. They are
        kept as the other decoder graph multiplies by them, transposed, so that both share them;
        ONNX Runtime turns them when it loads the graph."""
        made = []
        for name, tensor in self._weights.items():
            readers = self._readers.get(name, [])
            if len(tensor.dims) != 2 or {node.op_type for node in readers} != {"Reshape"}:
                continue
            values = numpy_helper.to_array(tensor)
            if values.dtype != np.float32:
                continue
            rounded, scales = _rounded(values.T)
            self._add(f"{name}.int8", rounded)
            self._add(f"{name}.scale", scales)
            turned, output = f"{name}.turned", f"{name}.fp32"
            made += [
                helper.make_node("Transpose", [f"{name}.int8"], [turned], f"{name}.transpose"),
                helper.make_node(
                    "DequantizeLinear",
                    [turned, f"{name}.scale"],
                    [output],
                    f"{name}.dequantize",
                    axis=0,
                ),
            ]
            for node in readers:
                node.input[:] = [output if i == name else i for i in node.input]
        return made

    def _activation(self, name: str) -> list[onnx.NodeProto]:
        if name in self._done:
            return []
        self._done.add(name)
        low, high = self.ranges[name].range_value
        least, most = min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0)
        scale = max((most - least) / 255, LEAST_SCALE)
        zero = min(max(round(-least / scale), 0), 255)
        self._add(f"{name}.scale", np.array(scale, dtype=np.float32))
        self._add(f"{name}.zero", np.array(zero, dtype=np.uint8))
        inputs = [name, f"{name}.scale", f"{name}.zero"]
        return [helper.make_node("QuantizeLinear", inputs, [f"{name}.int8"], f"{name}.quantize")]

    def _matrix(self, name: str) -> None:
        if name in self._done:
            return
        self._done.add(name)
        values = numpy_helper.to_array(self._weights[name])
        rounded, scales = _rounded(values)
        self._add(f"{name}.int8", rounded)
        self._add(f"{name}.scale", scales)
        self._add(f"{name}.zero", np.zeros(len(scales), dtype=np.int8))

    def _bias(self, output: str, matrix: str) -> tuple[list[str], str]:
        """The bias that is added to a product and to nothing else, and what the sum is called."""
        readers = self._readers.get(output, [])
        if len(readers) != 1 or readers[0].op_type != "Add" or output in self._outputs:
            return [], output
        others = [name for name in readers[0].input if name != output]
        channels = self._weights[matrix].dims[1]
        if len(others) != 1 or others[0] not in self._weights:
            return [], output
        if list(self._weights[others[0]].dims) != [channels]:
            return [], output
        self.fused.add(readers[0].output[0])
        return others, readers[0].output[0]

    def _add(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))


def _rounded(
    matrix: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """[in, out] in int8, and the scale of each output channel, [out]."""
    scales = np.maximum(np.abs(matrix).max(axis=0) / 127, LEAST_SCALE).astype(np.float32)
    return np.clip(np.rint(matrix / scales), -127, 127).astype(np.int8), scales


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def by_sensitivity(
    model: onnx.ModelProto, ranges: TensorsData, feeds: Sequence[Feeds], output: str
) -> list[str]:
    """The nodes of `matrices`, first that which alone in int8 changes `output` most.

    Args:
        model: fp32.
        ranges: of its tensors.
        feeds: inputs to compare on.
        output: of log-probs; the mean square of differences, weighted by probability, decides.
    """
    expected = _outputs(model, feeds, output)
    change = {}
    for node in matrices(model):
        found = _outputs(to_int8(model, ranges, [node]), feeds, output)
        change[node] = sum(
            float((np.exp(a) * np.square(a - b)).sum())
            for a, b in zip(expected, found, strict=True)
        )
    return sorted(change, key=lambda node: -change[node])


def _outputs(
    model: onnx.ModelProto, feeds: Iterable[Feeds], output: str
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [session.run([output], feed)[0] for feed in feeds]
