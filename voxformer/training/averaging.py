"""Checkpoints of weights alone: the mean of several, and what is left of one for a journey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxformer.model.voxformer import DECODER_PREFIX
from voxformer.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

KEPT = ("stage", "config", "step", "tokens", "tokenizer", "max_tokens_per_second", "data")
"""What a checkpoint of weights alone says of itself, as `best.pt` does."""


def average_checkpoints(paths: Sequence[Path], out: Path) -> Path:
    """Write the mean of the weights of several checkpoints of one run (Vaswani et al. 2017).

    The weights themselves are averaged, not their moving averages. Everything else is the last
    one's.

    Args:
        paths: from the oldest to the newest.
        out: the new checkpoint, of weights alone.

    Raises:
        CheckpointError: none was named, one cannot be used, they are not of one run, or `out` is
            one of them or no file.
    """
    if not paths:
        raise CheckpointError("no checkpoints to average; name a run folder with step_N.pt files")
    check_place(out, paths)
    sums: dict[str, Tensor] = {}
    last: dict[str, Any] = {}
    for path in paths:
        state = load_checkpoint(path)
        if last:
            _check_alike(path, state, last, same_stage=True)
        for name, value in state["model"].items():
            if value.is_floating_point():
                # float64, so that the order of the files does not matter to float32 precision.
                sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value
        last = state
    means = {
        name: (sums[name] / len(paths)).to(value.dtype) if name in sums else value
        for name, value in last["model"].items()
    }
    return _write(out, last, means)


def mix_checkpoints(
    first: Path, second: Path, share: float, out: Path, decoder_share: float | None = None
) -> Path:
    """Write weights between those of a model and of what further training made of it.

    Such weights can be better than both ends (Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models"), and so can those between two runs that began with the same weights ("Model
    soups", of the same year). Moving averages are taken where there are some; everything else is of
    the second.

    Args:
        first: before, or one of the runs.
        second: after, or the other.
        share: of the second, from 0 to 1.
        out: the new checkpoint, of weights alone.
        decoder_share: of the second's attention decoder; None is `share`. With shares of 0 and 1
            the encoder of a stage 2 gets the decoder that learned to read an earlier state of it.

    Raises:
        CheckpointError: one cannot be used, their weights have other shapes, or `out` is one of
            them or no file.
    """
    check_place(out, [first, second])
    before, after = load_checkpoint(first), load_checkpoint(second)
    _check_alike(first, before, after)
    start, end = (state.get("ema") or state["model"] for state in (before, after))
    of_decoder = share if decoder_share is None else decoder_share
    mixed = dict(end)
    for name, value in end.items():
        if value.is_floating_point():
            of_second = of_decoder if name.startswith(DECODER_PREFIX) else share
            mixed[name] = torch.lerp(start[name], value, of_second)
    return _write(out, after, mixed)


def slim_checkpoint(path: Path, out: Path, half: bool = False) -> Path:
    """Write a checkpoint's weights alone, averaged where the run kept averages.

    Args:
        path: any checkpoint.
        out: the new one; training begins from it with `init_from`, and it is evaluated and
            exported as any other, but no run goes on from it.
        half: store matrices as float16, which halves the file and rounds each weight by up to
            0.05 %; they are float32 again once loaded.

    Raises:
        CheckpointError: it cannot be used, or `out` is the same file, or no file.
    """
    check_place(out, [path])
    state = load_checkpoint(path)
    weights: Mapping[str, Tensor] = state.get("ema") or state["model"]
    if half:
        weights = {
            name: value.half() if value.is_floating_point() and value.dim() > 1 else value
            for name, value in weights.items()
        }
    return _write(out, state, weights)


def with_decoding(path: Path, out: Path, decoding: Mapping[str, Any]) -> Path:
    """Write a checkpoint's weights alone with other decoding options in its config."""
    state = load_checkpoint(path)
    section = {**state["config"].get("decoding", {}), **decoding}
    state["config"] = {**state["config"], "decoding": section}
    return _write(out, state, state.get("ema") or state["model"])


def check_place(out: Path, paths: Sequence[Path]) -> None:
    """Refuse a place for weights alone: no run goes on from these, so they replace no source.

    Raises:
        CheckpointError: `out` is one of the files that it is made of, or no file.
    """
    if out.exists() and not out.is_file():
        raise CheckpointError(f"{out}: exists and is not a file; name another")
    for path in paths:
        if out.exists() and path.exists() and out.samefile(path):
            raise CheckpointError(f"{out}: would be replaced by its weights alone; name another")


def _write(out: Path, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = {key: state[key] for key in KEPT if key in state}
    save_checkpoint(out, {**kept, "model": dict(weights)})
    return out


def _check_alike(
    path: Path, state: Mapping[str, Any], last: Mapping[str, Any], same_stage: bool = False
) -> None:
    for key in ("stage", "tokens") if same_stage else ("tokens",):
        if state.get(key) != last.get(key):
            raise CheckpointError(f"{path}: not of the same run: its {key} differs")
    shapes = {name: value.shape for name, value in state["model"].items()}
    if shapes != {name: value.shape for name, value in last["model"].items()}:
        raise CheckpointError(f"{path}: not of the same run: its weights have other shapes")
