"""`export --ctc-topk`: the best tokens of every frame leave the encoder, not the whole CTC matrix.

A vocabulary of 2,000 tokens is 200 kB a second of audio to move off a device; the best 16 of each
frame with their ids are 3 kB. The nodes are added to a graph that has passed the gate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from voxformer.runtime.onnx_engine import TOP_OUTPUTS

from .errors import ExportRefused


def check_k(k: int | None, outputs: int) -> None:
    """Refuse a number of tokens that no frame has.

    Args:
        k: tokens of a frame to keep, or None for all.
        outputs: of CTC.

    Raises:
        ExportRefused: `k` is not from 1 to `outputs`.
    """
    if k is not None and not 1 <= k <= outputs:
        raise ExportRefused(
            f"the best {k} tokens of a frame were asked for, and CTC has {outputs} outputs; name "
            "fewer with --ctc-topk, or leave it out"
        )


def keep_best(path: Path, k: int, blank_id: int) -> None:
    """Change an encoder.onnx in place: `TOP_OUTPUTS` for `log_probs`.

    Args:
        path: of the graph, in any precision; its output `log_probs` is fp32.
        k: tokens of a frame, at least 1.
        blank_id: whose log-prob comes out in any case.
    """
    model = onnx.load(path)
    graph = model.graph
    [whole] = [output for output in graph.output if output.name == "log_probs"]
    batch, frames, _ = whole.type.tensor_type.shape.dim
    axes = [batch.dim_param or batch.dim_value, frames.dim_param or frames.dim_value]
    graph.output.remove(whole)
    ids, values, blanks = TOP_OUTPUTS
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([k], dtype=np.int64), "ctc_top_k"),
            numpy_helper.from_array(np.array(blank_id, dtype=np.int64), "ctc_blank_id"),
        ]
    )
    wide = f"{ids}.int64"
    graph.node.extend(
        [
            helper.make_node("TopK", ["log_probs", "ctc_top_k"], [values, wide], "top_k", axis=-1),
            helper.make_node("Cast", [wide], [ids], f"{ids}.cast", to=TensorProto.INT32),
            helper.make_node("Gather", ["log_probs", "ctc_blank_id"], [blanks], "blank", axis=2),
        ]
    )
    graph.output.extend(
        [
            helper.make_tensor_value_info(ids, TensorProto.INT32, [*axes, k]),
            helper.make_tensor_value_info(values, TensorProto.FLOAT, [*axes, k]),
            helper.make_tensor_value_info(blanks, TensorProto.FLOAT, axes),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
