"""int8 graphs: the matrices that multiply activations, per channel; all else stays fp32.

Activations have one scale and zero point for a tensor, from their range on real speech; weights one
for each output channel. Products of activations (attention) stay fp32, as do convolutions, which
hold few of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from .calibration import Feeds

OPTIONS = {
    # The product goes on in fp32, in the accumulator's precision.
    "OpTypesToExcludeOutputQuantization": ["MatMul"],
    "DedicatedQDQPair": False,
    "WeightSymmetric": True,
    "ActivationSymmetric": False,
}


def matrices(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply an activation by a matrix of weights."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[0] not in weights
    ]


def to_int8(model: onnx.ModelProto, ranges: TensorsData, nodes: Sequence[str]) -> onnx.ModelProto:
    """The graph with these nodes in int8, as QuantizeLinear and DequantizeLinear pairs.

    Args:
        model: fp32; it stays as it is.
        ranges: of its tensors.
        nodes: of `matrices`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not nodes:
        return copy
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options=dict(OPTIONS),
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


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
    model: onnx.ModelProto, feeds: Sequence[Feeds], output: str
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [session.run([output], feed)[0] for feed in feeds]
