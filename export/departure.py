"""Where one ONNX graph first departs from another: by their inner tensors, which share names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Feeds = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Departure:
    """The first node whose output is another.

    Attributes:
        node: its name.
        op_type: what it computes.
        difference: largest absolute difference, over the largest value of the reference; NaN or
            infinite where an output is.
    """

    node: str
    op_type: str
    difference: float

    def __str__(self) -> str:
        return (
            f"first departs at {self.node} ({self.op_type}), by {self.difference:.2g} of its size"
        )


def inner_values(
    model: onnx.ModelProto, feeds: Feeds
) -> dict[str, npt.NDArray[np.floating[npt.NBitBase]]]:
    """Every floating-point tensor that a graph computes, by name, run without optimisation."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    named = {output.name for output in shown.graph.output}
    for node in shown.graph.node:
        for name in node.output:
            if name and name not in named:
                shown.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    return {
        name: value.astype(np.float32)
        for name, value in found.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }


def first_departure(
    reference: onnx.ModelProto, other: onnx.ModelProto, feeds: Feeds, tolerance: float
) -> Departure | None:
    """The first node of `reference` whose output in `other` differs by more than `tolerance`.

    Args:
        reference: the graph that is right.
        other: made from it, with the same names where it computes the same.
        feeds: the inputs of both.
        tolerance: of the largest absolute difference over the largest value.

    Returns:
        None where all that both have is alike.
    """
    expected, found = inner_values(reference, feeds), inner_values(other, feeds)
    for node in reference.graph.node:
        for name in node.output:
            if name not in expected or name not in found:
                continue
            difference = _relative_difference(expected[name], found[name])
            if not difference <= tolerance:
                return Departure(node.name, node.op_type, difference)
    return None


def _relative_difference(
    expected: npt.NDArray[np.floating[npt.NBitBase]], found: npt.NDArray[np.floating[npt.NBitBase]]
) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    size = float(np.abs(expected).max())
    with np.errstate(invalid="ignore"):
        return float(np.abs(expected - found).max() / max(size, 1e-6))
