"""fp16 graphs: half precision with fp32 islands where halves overflow or lose what matters.

An island is kept whole: a value stays fp32 from the node that makes it to every node of an island
that reads it, and is cast only where it leaves. Islands are the front end (powers of a spectrum
pass 65504), normalisation and softmax, the angles of positions, and whatever counts frames.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .errors import ExportRefused

NORMALISING = frozenset({"LayerNormalization", "Softmax", "LogSoftmax", "ReduceSum", "ReduceMean"})
"""Sums over many values, or of exponentials."""

COUNTING = frozenset(
    {"Range", "Floor", "Ceil", "Sin", "Cos", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
)
"""What decides by a number has that number, and all that it is made of, in fp32."""

FRONT_END_ENDS = "subsampling.conv1.weight"
"""The first weight after the front end; all that its node reads is made by the front end."""

LARGEST = float(np.finfo(np.float16).max)


def to_half(model: onnx.ModelProto, islands: bool = True) -> onnx.ModelProto:
    """The graph in fp16; its inputs and outputs stay fp32.

    Args:
        model: fp32, without subgraphs.
        islands: False leaves in fp32 only what counts, to see what the other islands are for.

    Raises:
        ExportRefused: the graph has subgraphs.
    """
    model = _copy(model)
    graph = model.graph
    types = _element_types(model)
    kept = island_nodes(model, types, islands)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    half: set[str] = set()  # values that are fp16 from where they are made
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, int], str] = {}

    def read(name: str, wanted: int) -> str:
        """The name of value `name` in type `wanted`; a cast or another initializer if need be."""
        if types.get(name) != TensorProto.FLOAT:
            return name
        if (wanted == TensorProto.FLOAT16) == (name in half):
            return name
        if (name, wanted) not in casts:
            suffix = "half" if wanted == TensorProto.FLOAT16 else "float"
            casts[name, wanted] = cast = f"{name}.{suffix}"
            if name in initializers:
                values = numpy_helper.to_array(initializers[name])
                narrow = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(narrow, cast))
            else:
                nodes.append(helper.make_node("Cast", [name], [cast], f"{cast}.cast", to=wanted))
        return casts[name, wanted]

    for node in list(graph.node):
        wanted = TensorProto.FLOAT if node.name in kept else TensorProto.FLOAT16
        node.input[:] = [read(name, wanted) for name in node.input]
        if wanted == TensorProto.FLOAT16:
            _narrow_attributes(node)
            half.update(name for name in node.output if types.get(name) == TensorProto.FLOAT)
        nodes.append(node)
    for output in graph.output:
        if output.name in half:
            made = f"{output.name}.half"
            for node in nodes:
                node.input[:] = [made if name == output.name else name for name in node.input]
                node.output[:] = [made if name == output.name else name for name in node.output]
            nodes.append(
                helper.make_node("Cast", [made], [output.name], f"{output.name}.cast", to=1)
            )
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    used = {name for node in nodes for name in node.input}
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)
    return model


def half_values(model: onnx.ModelProto) -> set[str]:
    """Names of the activations that are halves in `to_half`'s graph."""
    types = _element_types(model)
    kept = island_nodes(model, types)
    return {
        name
        for node in model.graph.node
        if node.name not in kept
        for name in node.output
        if types.get(name) == TensorProto.FLOAT
    }


def island_nodes(model: onnx.ModelProto, types: dict[str, int], islands: bool = True) -> set[str]:
    """Names of the nodes that stay fp32."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    kept = {node.name for node in graph.node if islands and node.op_type in NORMALISING}
    for node in graph.node:
        if node.op_type in COUNTING or _leaves_floats(node, types):
            kept |= _makers(node.input, made_by, types)
            kept.add(node.name)
        if islands and any(name.endswith(FRONT_END_ENDS) for name in node.input):
            kept |= _makers(node.input, made_by, types)
    return kept


def _makers(
    names: Iterable[str], made_by: dict[str, onnx.NodeProto], types: dict[str, int]
) -> set[str]:
    """All nodes whose fp32 values these values are made of."""
    found: set[str] = set()
    waiting = [name for name in names if types.get(name) == TensorProto.FLOAT]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        waiting += [name for name in node.input if types.get(name) == TensorProto.FLOAT]
    return found


def _leaves_floats(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    """Whether it makes integers or truths of floats."""
    reads = any(types.get(name) == TensorProto.FLOAT for name in node.input)
    makes = any(types.get(name) == TensorProto.FLOAT for name in node.output)
    return reads and not makes and node.op_type not in ("Shape", "Size")


def _narrow_attributes(node: onnx.NodeProto) -> None:
    """Types and constants that a node names itself."""
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise ExportRefused(f"{node.name}: a graph within the graph cannot be made fp16")
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.type == onnx.AttributeProto.TENSOR and (
            attribute.t.data_type == TensorProto.FLOAT
        ):
            values = np.clip(numpy_helper.to_array(attribute.t), -LARGEST, LARGEST)
            attribute.t.CopyFrom(numpy_helper.from_array(values.astype(np.float16)))


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    return types


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
