"""One copy on disk of the weights that two graphs of a bundle have: the decoder's two forms.

ONNX keeps tensors outside of a graph as "external data": a file beside it, an offset, a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

SHARED_NAME = "decoder.weights"
LEAST_BYTES = 1024
"""Smaller tensors stay in their graphs."""
ALIGNMENT = 64
"""Of what is mapped into memory: a cache line, and the widest vector."""


def share_weights(folder: Path, names: Sequence[str]) -> str | None:
    """Move the tensors that several graphs have, equal byte for byte, into one file beside them.

    Args:
        folder: of the graphs, which are changed in place and compute the same.
        names: of the graphs.

    Returns:
        `SHARED_NAME`, or None where there is nothing to share and nothing was changed.
    """
    models = {name: onnx.load(folder / name) for name in names}
    holders: dict[bytes, list[TensorProto]] = {}
    for model in models.values():
        own = {t.raw_data: t for t in model.graph.initializer if len(t.raw_data) >= LEAST_BYTES}
        for content, tensor in own.items():
            holders.setdefault(content, []).append(tensor)
    shared = {content: tensors for content, tensors in holders.items() if len(tensors) > 1}
    if not shared:
        return None
    with (folder / SHARED_NAME).open("wb") as file:
        for content, tensors in shared.items():
            file.write(bytes(-file.tell() % ALIGNMENT))
            for tensor in tensors:
                set_external_data(tensor, SHARED_NAME, file.tell(), len(content))
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
            file.write(content)
    for name, model in models.items():
        onnx.save(model, folder / name)
    return SHARED_NAME
