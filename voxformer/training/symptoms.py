"""What an evaluation measures for the watch: loops, empty hypotheses, attention that rests.

All of it comes from what the evaluation has computed anyway, but for one pass of the decoder over a
few utterances, whose attention is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from voxformer.decoding import Hypothesis
from voxformer.evaluation.repeats import most_repeated, repeated_units
from voxformer.model.masks import length_mask
from voxformer.model.voxformer import VoxFormer
from voxformer.text import normalise

MOST_LISTENED = 16
LEAST_POSITIONS = 8
LEAST_FRAMES = 12
WINDOW_FRAMES = 3

LEAST_REPEATS = 4
NEARLY_EMPTY = 0.1


def mode_symptoms(
    mode: str, ids: Sequence[str], hypotheses: Sequence[Hypothesis], references: Sequence[list[int]]
) -> dict[str, Any]:
    """Shares of one mode's hypotheses, as entries of the evaluation's row.

    - `capped_MODE`: cut by the length cap;
    - `looping_MODE`: cut, or half of it and twice as much as in its reference is one n-gram of
      tokens said four times or more in a row;
    - `empty_MODE`: at most a tenth of the tokens of its reference;
    - `most_repeated_MODE`: the words that are said most often in a row by one that loops.

    Args:
        mode: for the names.
        ids: of the utterances.
        hypotheses: the best of each utterance.
        references: their tokens.
    """
    count = max(1, len(hypotheses))
    looping = [_loops(h, r) for h, r in zip(hypotheses, references, strict=True)]
    empty = [
        len(h.token_ids) <= NEARLY_EMPTY * len(r)
        for h, r in zip(hypotheses, references, strict=True)
    ]
    found: dict[str, Any] = {
        f"capped_{mode}": sum(h.truncated for h in hypotheses) / count,
        f"looping_{mode}": sum(looping) / count,
        f"empty_{mode}": sum(empty) / count,
    }
    repeat = most_repeated(
        (utterance_id, normalise(hypothesis.text))
        for utterance_id, hypothesis, loops in zip(ids, hypotheses, looping, strict=True)
        if loops
    )
    if repeat is not None:
        found[f"most_repeated_{mode}"] = repeat.to_json()
    return found


def _loops(hypothesis: Hypothesis, reference: list[int]) -> bool:
    if hypothesis.truncated:
        return True
    tokens = hypothesis.token_ids
    filled = repeated_units(tokens, LEAST_REPEATS)
    return filled > 0 and 2 * filled >= len(tokens) and filled > 2 * repeated_units(reference, 2)


class BlankMeter:
    """Mean probability of `<blank>` over the frames of an evaluation."""

    def __init__(self) -> None:
        self._sum, self._frames = 0.0, 0

    def add(self, log_probs: Any, lengths: Any) -> None:
        """float32 [batch, frames, outputs] with the blank at 0, and valid frames [batch]."""
        for row, length in zip(log_probs, lengths, strict=True):
            self._sum += float(torch.as_tensor(row[: int(length), 0]).double().exp().sum())
            self._frames += int(length)

    def row(self) -> dict[str, float]:
        """`blank_probability`, if there was a frame."""
        return {"blank_probability": self._sum / self._frames} if self._frames else {}


class AttentionMeter:
    """Whether the decoder's cross-attention moves with what it writes.

    For each head, attention is averaged over the positions of an utterance under teacher forcing;
    the largest share of that average within `WINDOW_FRAMES` encoder frames (120 ms) is the head's
    peak. A head that follows the speech looks elsewhere for each token, and its average is spread
    over the utterance; a head that rests on one place has a peak near 1. Single heads that rest are
    common in decoders that work (Clark et al. 2019, section 3; Xiao et al. 2024), so the decoder's
    peak is that of its least resting head: near 1 only where no head of any layer moves.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._utterances = 0

    @torch.no_grad()
    def add(
        self,
        model: VoxFormer,
        memory: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
    ) -> None:
        """Look at a batch until `MOST_LISTENED` utterances have been seen.

        Utterances of fewer than `LEAST_POSITIONS` tokens or `LEAST_FRAMES` frames tell nothing:
        an average over few positions has a peak in any case.

        Args:
            model: in evaluation mode.
            memory: float [batch, frames, d_model], of `VoxFormer.encode`.
            lengths: int64 [batch], valid frames.
            tokens: int64 [batch, max_tokens].
            token_lengths: int64 [batch].
        """
        long_enough = (token_lengths + 1 >= LEAST_POSITIONS) & (lengths >= LEAST_FRAMES)
        rows = long_enough.nonzero().flatten()[: MOST_LISTENED - self._utterances]
        if not len(rows):
            return
        start = torch.full_like(tokens[rows, :1], model.sos_eos_id)
        inputs = torch.cat([start, tokens[rows]], dim=1)
        positions = length_mask(token_lengths[rows] + 1, inputs.size(1))  # (B, P)
        with _listening(model.decoder) as heard:
            model.decoder(memory[rows], lengths[rows], inputs)
        peaks = torch.stack([_peaks(weights, positions) for weights in heard])  # (L, B, H)
        summed = peaks.sum(dim=1).double().cpu()
        self._sum = summed if self._sum is None else self._sum + summed
        self._utterances += len(rows)

    def row(self) -> dict[str, float]:
        """`attention_peak`, if there was an utterance to look at."""
        if self._sum is None:
            return {}
        return {"attention_peak": float(self._sum.min()) / self._utterances}


def _peaks(weights: Tensor, positions: Tensor) -> Tensor:
    """[batch, heads] peaks of attention [batch, heads, positions, frames] over valid positions."""
    valid = positions[:, None, :, None].to(weights.dtype)
    mean = (weights * valid).sum(dim=2) / valid.sum(dim=2)  # (B, H, T)
    nearby = F.avg_pool1d(mean, WINDOW_FRAMES, stride=1, padding=WINDOW_FRAMES // 2)
    return WINDOW_FRAMES * nearby.amax(dim=2)


@contextmanager
def _listening(decoder: Any) -> Iterator[list[Tensor]]:
    """Collects the cross-attention [batch, heads, positions, frames] of every layer that runs."""
    heard: list[Tensor] = []

    def listen(module: Any, arguments: tuple[Any, ...]) -> None:
        heard.append(module.weights(*arguments))

    handles = [layer.cross_attention.register_forward_pre_hook(listen) for layer in decoder.layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
