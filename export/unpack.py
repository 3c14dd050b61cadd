"""From a bundle back to a checkpoint, so that training goes on where only the bundle is at hand.

The exporters leave most weights their names. What they rename is told by what is done with it: a
matrix by the bias that is added to its product, the rest by its shape and its place. Whether the
weights found are the bundle's is then asked of both, on the gate's own cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from voxformer.config import DecodingConfig, RunConfig
from voxformer.config.load import validate_config
from voxformer.config.schema import Stage
from voxformer.model import VoxFormer
from voxformer.model.encoder import EncoderBlock
from voxformer.runtime import Bundle, BundleError, read_bundle
from voxformer.runtime.bundle import GRAPH_NAMES, MANIFEST_NAME
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.torch_engine import TorchEngine
from voxformer.text import Tokenizer
from voxformer.training.averaging import check_place
from voxformer.training.checkpoint import save_checkpoint

from .bundle import TOKENIZER_NAME
from .parity import compare_numbers
from .precision import LIMITS, Precision

Array = npt.NDArray[np.float32]

PREFIX = "model."
"""Of the weights that the exporters leave their names: those of `graphs`' modules."""
HALF = ".half"
"""The ending of what fp16 has rounded."""
MORE = 3.0
"""Times the differences that the export recorded: in coarse precisions rounding falls otherwise."""
TRAINED = {stage.value for stage in Stage} - {Stage.PRETRAIN.value}
INTEGER_PRODUCT = "MatMulIntegerToFloat"
PRODUCTS = ("MatMul", INTEGER_PRODUCT)


def unpack_bundle(bundle: str | Path, out: str | Path) -> float:
    """Write a bundle's weights as a checkpoint, of weights alone.

    Training begins from it with `training.init_from`, and it is evaluated and exported as any
    other, with the bundle's search options; a lexicon, a language model and its weights are named
    again. Weights that the bundle has rounded, in fp16 or int8, stay as it has them.

    Args:
        bundle: its directory; it has a tokenizer.model, which earlier versions did not write.
        out: the checkpoint.

    Returns:
        The largest difference between log-probs of the two, in nats, over the gate's cases: of
        rounded arithmetic, where the bundle's is.

    Raises:
        BundleError: it cannot be used, or holds other weights than such a model.
        ConfigError: sizes or options in bundle.json are none.
        TokenizerError: its tokenizer is damaged, or is not the one of its tokens.
        CheckpointError: `out` is one of its files, or no file.
        EngineError: ONNX Runtime cannot run it.
        OSError: the checkpoint cannot be written.
    """
    found, out = read_bundle(bundle), Path(out)
    path = found.path
    check_place(out, [path / name for name in (*found.values["files"], MANIFEST_NAME)])
    if TOKENIZER_NAME not in found.values["files"]:
        raise BundleError(
            f"{path}: has no {TOKENIZER_NAME}, which training needs; export its checkpoint again"
        )
    Tokenizer.load(path)
    config, step, recorded = _read_origin(found)
    model = VoxFormer(config.model).eval()
    weights = weights_of(path, model)
    own = model.state_dict()
    wrong = [k for k, v in own.items() if k not in weights or v.shape != weights[k].shape]
    if wrong:
        raise BundleError(
            f"{path}: {len(wrong)} of {len(own)} weights are not found in its graphs, {wrong[0]} "
            "first; export its checkpoint again"
        )
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in own})
    difference = _compare(found, model, recorded)
    state = {
        "stage": config.stage.value,
        "config": config.model_dump(mode="json"),
        "step": step,
        "tokens": list(found.vocabulary.tokens),
        "tokenizer": torch.tensor(list(found.file(TOKENIZER_NAME).read_bytes()), dtype=torch.uint8),
        "max_tokens_per_second": found.decoding.max_tokens_per_second,
        "data": {"longest_seconds": found.longest_seconds},
        "model": model.state_dict(),
    }
    save_checkpoint(out, state)
    return difference


def _read_origin(found: Bundle) -> tuple[RunConfig, int, dict[str, float]]:
    """What bundle.json says of the run, its step, and the recorded differences by output."""
    where, values = found.path / MANIFEST_NAME, found.values
    options = found.decoding.to_json()
    try:
        provenance = values["provenance"]
        stage = provenance["stage"] or Stage.HYBRID.value
        step = provenance["step"] or 0
        recorded = {name: float(v) for name, v in values["parity"]["max_abs_difference"].items()}
        if stage not in TRAINED or type(step) is not int or found.precision not in LIMITS:
            raise ValueError(f"stage {stage!r}, step {step!r}, precision {found.precision!r}")
        made = {
            "stage": stage,
            "model": values["model"],
            "data": {"pronunciation": values["pronunciation"]},
            "decoding": {key: options[key] for key in DecodingConfig.model_fields & options.keys()},
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{where}: incomplete or of another shape ({error!r}); export its checkpoint again"
        ) from None
    return validate_config(made, source=str(where)), step, recorded


def _compare(found: Bundle, model: VoxFormer, recorded: Mapping[str, float]) -> float:
    """The largest difference between bundle and model, in nats.

    Raises:
        BundleError: they differ by more than the bundle and the model that it was made of did.
    """
    limits = replace(LIMITS[cast(Precision, found.precision)], difference=math.inf)
    exported = OnnxEngine(found.path, found.sample_rate, found.frame_shift_s)
    numbers = compare_numbers(TorchEngine(model), exported, limits)
    worst = numbers.to_json(limits, found.sample_rate)["max_abs_difference"]
    allowed = {name: MORE * recorded.get(name, 0.0) + LIMITS["fp32"].difference for name in worst}
    wrong = [numbers.failure] if numbers.failure is not None else []
    wrong += [
        f"{name} differ by {difference:.2g} nats, at most {allowed[name]:.2g} is expected"
        for name, difference in worst.items()
        if not difference <= allowed[name]
    ]
    if wrong:
        raise BundleError(
            f"{found.path}: the weights found do not say what it says: {wrong[0]}; export its "
            "checkpoint again"
        )
    return float(max(worst.values()))


def weights_of(folder: Path, model: VoxFormer) -> dict[str, Array]:
    """The weights in a bundle's graphs.

    Args:
        folder: of the graphs.
        model: of the same sizes.

    Returns:
        By their names in the model and in its shapes; what was not found is missing.

    Raises:
        BundleError: a graph, or what it has beside it, cannot be read.
    """
    blocks = model.encoder.blocks
    slow = [i for i, block in enumerate(blocks) if cast(EncoderBlock, block).factor > 1]
    encoder, decoder, step = (_Graph(_load(folder / name)) for name in GRAPH_NAMES)
    weights = {**encoder.named, **decoder.named, **step.named}
    for bias, matrix in (*encoder.products, *decoder.products):
        if bias is not None and bias.endswith(".bias"):
            weights[f"{bias.removesuffix('.bias')}.weight"] = matrix
    # [1, 1, factor, 1]: softmax comes back to the same shares of frames from their logarithms.
    shares = [np.log(values.ravel()) for values in encoder.factors if values.ndim == 4]
    bypasses = [values for values in encoder.factors if values.shape == (model.config.d_model,)]
    keys = [matrix for bias, matrix in decoder.products if bias is None]
    for names, found in (
        ([f"encoder.blocks.{i}.downsample.weights" for i in slow], shares),
        ([f"encoder.blocks.{i}.bypass" for i in slow], bypasses),
        ([f"decoder.layers.{i}.cross_attention.key.weight" for i in range(len(keys))], keys),
    ):
        weights = {**dict(zip(names, found, strict=False)), **weights}
    shared = {**encoder.shared, **decoder.shared, **step.shared}
    for name, value in model.state_dict().items():
        if name not in weights:
            kin = [a for n, a in shared.items() if _kind(n) == _kind(name)]
            kin = [a for a in kin if a.shape == value.shape]
            if kin and all(np.array_equal(a, kin[0]) for a in kin):
                weights[name] = kin[0]
    return weights


def _load(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path).graph
    except Exception as error:  # onnx raises protobuf's errors as well as its own
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{path}: cannot be read: {reason}; put copies in the place of links, or export its "
            "checkpoint again"
        ) from None


class _Graph:
    """The constants of a graph that may be weights, float32.

    Attributes:
        named: by their names in the model, where the exporter left these.
        products: matrices by which activations are multiplied, in their order, as `nn.Linear` has
            them, with the name of the bias that is added to the product alone, or None.
        factors: nameless ones of elementwise products, in their order.
        shared: named ones that several nodes read. Of equal weights, as those of a decoder that was
            not trained yet, an exporter keeps one.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        cast = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Cast" and self._is_int8(node.input[0])
        }
        self._rounded = {
            node.output[0]: (cast[node.input[0]], node.input[1])
            for node in graph.node
            if node.op_type == "Mul" and node.input[0] in cast
        }
        self.named = {
            _own_name(name): self._values(name)
            for name in self._constants
            if name.startswith(PREFIX)
        }
        self.products = list(self._products(graph.node))
        self.factors = [
            self._values(name)
            for node in graph.node
            if node.op_type == "Mul" and node.output[0] not in self._rounded
            for name in node.input
            if name in self._constants and not name.startswith(PREFIX)
        ]
        self.shared = {name: values for name, values in self.named.items() if self._is_shared(name)}

    def _is_int8(self, name: str) -> bool:
        tensor = self._constants.get(name)
        return tensor is not None and tensor.data_type == onnx.TensorProto.INT8

    def _is_shared(self, name: str) -> bool:
        return any(len(self._readers.get(f"{PREFIX}{name}{end}", [])) > 1 for end in ("", HALF))

    def _values(self, name: str) -> Array:
        return numpy_helper.to_array(self._constants[name]).astype(np.float32)

    def _products(self, nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str | None, Array]]:
        for node in nodes:
            name = node.input[1] if node.op_type in PRODUCTS else ""
            if name in self._rounded:
                name, scale = self._rounded[name]
                matrix = self._values(name) * self._values(scale)
            elif name in self._constants:
                matrix = self._values(name)
            else:
                continue
            if node.op_type == INTEGER_PRODUCT:
                matrix *= self._values(node.input[3])
                bias = next(iter(node.input[6:]), None)
            else:
                bias = self._added(node.output[0])
            if matrix.ndim == 2:
                yield bias and _own_name(bias), np.ascontiguousarray(matrix.T)

    def _added(self, product: str) -> str | None:
        """What constant is added to a product, if there is one."""
        readers = self._readers.get(product, [])
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        return next((name for name in readers[0].input if name in self._constants), None)


def _own_name(name: str) -> str:
    """A weight's name in the model, of its name in a graph."""
    return name.removeprefix(PREFIX).removesuffix(HALF)


def _kind(name: str) -> str:
    """The last part of a weight's name: `weight`, `bias`, ..."""
    return name.rpartition(".")[2]
