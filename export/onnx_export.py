"""From a model to three ONNX files: opset 18, every length dynamic, one file each.

Opset 18 is the newest that all our engines take: 23 emits `Attention`, which TensorRT-RTX refuses.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from voxformer.model import VoxFormer

from .errors import ExportRefused
from .graphs import DecoderGraph, DecoderStepGraph, EncoderGraph

OPSET = 18

# Sizes to trace with: distinct, so that no two dimensions are taken for one, and above 1, which
# the exporter would make a constant.
TRACED_BATCH = 2
TRACED_N_BEST = 3
TRACED_TOKENS = 5
TRACED_ROWS = 7
TRACED_PAST = 4
TRACED_SECONDS = 1.1

Exporter = Literal["dynamo", "trace"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)

Axes = tuple[str | int, ...]
"""Name of each dynamic dimension of a tensor, and the size of each fixed one."""


@dataclass(frozen=True)
class Graph:
    """A module to export, with example inputs and the axes of everything that goes in or out."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]


def export_graphs(
    model: VoxFormer, folder: Path, metadata: Mapping[str, str], exporter: Exporter = "dynamo"
) -> None:
    """Write encoder.onnx, decoder.onnx and decoder_step.onnx into `folder`.

    Args:
        model: in eval mode, on the CPU, in fp32.
        folder: exists.
        metadata: goes into each file's metadata_props.
        exporter: `dynamo` (torch.export) or `trace` (TorchScript: about fifty times as fast, since
            it reasons about no symbolic shape, but deprecated by PyTorch).

    Raises:
        ExportRefused: a dimension became a constant, or a graph is not valid ONNX.
    """
    for name, graph in graphs_of(model).items():
        export_graph(graph, folder / f"{name}.onnx", {**metadata, "graph": name}, exporter)


def graphs_of(model: VoxFormer) -> dict[str, Graph]:
    """The graphs of a bundle by name."""
    config = model.config
    d_model, heads = config.d_model, config.decoder_num_heads
    samples = int(TRACED_SECONDS * config.sample_rate)
    random = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(TRACED_BATCH, samples, generator=random)
    lengths = torch.tensor([samples, samples // 2])
    with torch.no_grad():
        encoder_out, encoder_lengths, _ = model.encode(waveforms, lengths)
    hypotheses = (TRACED_BATCH, TRACED_N_BEST, TRACED_TOKENS)
    tokens = torch.randint(1, config.vocab_size + 1, hypotheses, generator=random)
    token_lengths = torch.full(hypotheses[:2], TRACED_TOKENS - 1)
    rows = torch.arange(TRACED_ROWS) % TRACED_BATCH
    layers, head_dim = config.decoder_num_layers, d_model // heads
    cache = torch.zeros(layers, 2, TRACED_ROWS, heads, TRACED_PAST, head_dim)
    return {
        "encoder": Graph(
            EncoderGraph(model),
            (waveforms, lengths),
            {"waveforms": ("batch", "samples"), "lengths": ("batch",)},
            {
                "encoder_out": ("batch", "frames", d_model),
                "encoder_lengths": ("batch",),
                "log_probs": ("batch", "frames", config.vocab_size + 1),
            },
        ),
        "decoder": Graph(
            DecoderGraph(model),
            (encoder_out, encoder_lengths, tokens, token_lengths),
            {
                "encoder_out": ("batch", "frames", d_model),
                "encoder_lengths": ("batch",),
                "tokens": ("batch", "n", "length"),
                "token_lengths": ("batch", "n"),
            },
            {"token_log_probs": ("batch", "n", "length + 1")},
        ),
        "decoder_step": Graph(
            DecoderStepGraph(model),
            (encoder_out[rows], encoder_lengths[rows], tokens.new_ones(TRACED_ROWS), cache),
            {
                "encoder_out": ("rows", "frames", d_model),
                "encoder_lengths": ("rows",),
                "tokens": ("rows",),
                "cache": (layers, 2, "rows", heads, "past", head_dim),
            },
            {
                "log_probs": ("rows", config.vocab_size + 2),
                "new_cache": (layers, 2, "rows", heads, "past + 1", head_dim),
            },
        ),
    }


def export_graph(
    graph: Graph, path: Path, metadata: Mapping[str, str], exporter: Exporter = "dynamo"
) -> None:
    """Trace one graph, check it and write it as one file.

    Raises:
        ExportRefused: a dimension became a constant, or the result is not valid ONNX.
        OSError: it cannot be written, as on a full disk.
    """
    try:
        with _quiet_exporter():
            if exporter == "dynamo":
                _export_dynamo(graph, path)
            else:
                _export_trace(graph, path)
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportRefused(f"{path.name}: PyTorch cannot export it: {reason}") from error
    proto = onnx.load(path)
    _forget_the_source(proto)
    _name_axes(proto, graph, path.name)
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = f"voxformer.{key}", value
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ExportRefused(f"{path.name}: not valid ONNX: {str(error).splitlines()[0]}") from None
    onnx.save(proto, path)


def _export_dynamo(graph: Graph, path: Path) -> None:
    dynamic_shapes = tuple(
        {i: Dim.DYNAMIC for i, axis in enumerate(axes) if isinstance(axis, str)}
        for axes in graph.inputs.values()
    )
    program = torch.onnx.export(
        graph.module.eval(),
        graph.example,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=dynamic_shapes,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)


def _export_trace(graph: Graph, path: Path) -> None:
    torch.onnx.export(
        graph.module.eval(),
        graph.example,
        path,
        dynamo=False,
        opset_version=OPSET,
        dynamic_axes={
            name: {i: axis for i, axis in enumerate(axes) if isinstance(axis, str)}
            for name, axes in (*graph.inputs.items(), *graph.outputs.items())
        },
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
    )


def _name_axes(proto: onnx.ModelProto, graph: Graph, name: str) -> None:
    """Give every dynamic axis its name, and refuse a graph in which one is a constant."""
    expected = {**graph.inputs, **graph.outputs}
    for value in (*proto.graph.input, *proto.graph.output):
        axes = expected[value.name]
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(axes):
            raise ExportRefused(f"{name}: {value.name} has {len(dims)} axes, expected {len(axes)}")
        for dim, axis in zip(dims, axes, strict=True):
            fixed = dim.HasField("dim_value")
            if isinstance(axis, str) and fixed:
                raise ExportRefused(
                    f"{name}: the axis {axis} of {value.name} became the constant {dim.dim_value}"
                )
            if isinstance(axis, int) and fixed and dim.dim_value != axis:
                raise ExportRefused(
                    f"{name}: {value.name} has size {dim.dim_value} where {axis} was expected"
                )
            if isinstance(axis, str):
                dim.dim_param = axis
            else:
                dim.dim_value = axis


def _forget_the_source(proto: onnx.ModelProto) -> None:
    """Drop stack traces (they hold paths of this machine) and the sizes of inner tensors."""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on its own internals; the parity gate judges its work."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
