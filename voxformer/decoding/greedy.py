"""Best-path decoding: the most probable token of every frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import check_batch, check_lengths, check_token_ids, check_values, check_vocabulary
from .hypothesis import Hypothesis
from .vocabulary import load_tokens, text_of


def ctc_greedy(
    log_probs: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
    tokens: Sequence[str] | str | os.PathLike[str] | None = None,
    blank_id: int = 0,
) -> list[Hypothesis]:
    """The most probable token of every frame, repeats merged and blanks taken out.

    This is best-path decoding (Graves et al. 2006, section 3.2): the tokens of the best single
    alignment, which need not be the most probable tokens.

    Args:
        log_probs: float32 or float16 [batch, time, vocab], natural logarithms.
        lengths: int64 [batch], frames of each utterance; None for all `time` frames.
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None for ids only.
        blank_id: column of the blank.

    Returns:
        One hypothesis per utterance. `ctc_score` and `score` are ln p of the best path; among
        equally probable tokens of a frame the lowest id counts.

    Raises:
        ValueError: as `CtcBeamDecoder.decode`.
    """
    batch, frames = check_batch(log_probs, lengths)
    vocabulary = load_tokens(tokens)
    check_vocabulary(vocabulary, batch.shape[2])
    num_utterances, num_frames, vocab = batch.shape
    if num_utterances and not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id is {blank_id}, but log_probs has tokens 0 to {vocab - 1}")
    hypotheses = []
    for i, length in enumerate(_whole_lengths(frames, num_utterances, num_frames)):
        utterance = batch[i, :length]
        check_values(utterance, i)
        path = utterance.argmax(axis=1) if length else np.empty(0, dtype=np.int64)
        best = utterance[np.arange(length), path]
        hypotheses.append(_best_path(path, best, blank_id, vocabulary))
    return hypotheses


def ctc_greedy_top_k(
    token_ids: npt.ArrayLike,
    log_probs: npt.ArrayLike,
    blank_log_probs: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
    tokens: Sequence[str] | str | os.PathLike[str] | None = None,
    blank_id: int = 0,
) -> list[Hypothesis]:
    """As `ctc_greedy`, from the best tokens of every frame: what it returns is the same.

    Args:
        token_ids: whole numbers [batch, time, k], in any order; the blank may be among them.
        log_probs: float32 [batch, time, k], of these ids.
        blank_log_probs: float32 [batch, time].
        lengths: int64 [batch], see `ctc_greedy`.
        tokens: see `ctc_greedy`.
        blank_id: id of the blank.

    Raises:
        ValueError: as `CtcBeamDecoder.decode_top_k`.
    """
    ids = check_token_ids(token_ids)
    values = np.asarray(log_probs, dtype=np.float32)
    blanks = np.asarray(blank_log_probs, dtype=np.float32)
    if ids.ndim != 3 or values.shape != ids.shape or blanks.shape != ids.shape[:2]:
        raise ValueError(
            f"token_ids {ids.shape}, log_probs {values.shape} and blank_log_probs {blanks.shape} "
            "differ in batch, time or k"
        )
    vocabulary = load_tokens(tokens)
    limit = np.iinfo(np.int32).max if vocabulary is None else len(vocabulary)
    if not 0 <= blank_id < limit:
        raise ValueError(f"blank_id is {blank_id}; ids are from 0 to {limit - 1}")
    lengths_of = _whole_lengths(check_lengths(lengths, len(ids)), len(ids), ids.shape[1])
    for i, length in enumerate(lengths_of):
        _refuse(i, ~(values[i, :length] < np.inf), "a log-prob is NaN or +inf")
        _refuse(i, ~(blanks[i, :length, None] < np.inf), "the blank's log-prob is NaN or +inf")
        outside = (ids[i, :length] < 0) | (ids[i, :length] >= limit)
        _refuse(i, outside, f"an id is not in the vocabulary of 0 to {limit - 1}")
    ids = np.concatenate([ids, np.full((*blanks.shape, 1), blank_id, dtype=np.int32)], axis=2)
    values = np.concatenate([values, blanks[:, :, None]], axis=2)
    best = values.max(axis=2)
    path = np.where(values == best[:, :, None], ids, np.iinfo(np.int32).max).min(axis=2)
    return [
        _best_path(path[i, :length], best[i, :length], blank_id, vocabulary)
        for i, length in enumerate(lengths_of)
    ]


def _refuse(utterance: int, wrong: npt.NDArray[np.bool_], what: str) -> None:
    """Raise ValueError for the first frame of [time, k] in which something is wrong."""
    if wrong.any():
        frame = int(np.argwhere(wrong)[0, 0])
        raise ValueError(f"utterance {utterance}, frame {frame}: {what}")


def _whole_lengths(
    lengths: npt.NDArray[np.int64], num_utterances: int, num_frames: int
) -> list[int]:
    """Frames of each utterance, all of them where none are given."""
    if len(lengths) == 0:
        return [num_frames] * num_utterances
    for i, length in enumerate(lengths.tolist()):
        if not 0 <= length <= num_frames:
            raise ValueError(
                f"utterance {i}: its length is {length}, but log_probs has {num_frames} frames"
            )
    return [int(length) for length in lengths]


def _best_path(
    path: npt.NDArray[np.integer[Any]],
    best: npt.NDArray[np.floating[Any]],
    blank_id: int,
    tokens: Sequence[str] | None,
) -> Hypothesis:
    """From the best token of every frame, and its log-prob."""
    if len(path) == 0:
        return Hypothesis((), "", score=0.0, ctc_score=0.0, confidence=1.0)
    path_log_probs = best.astype(np.float64)
    score = float(path_log_probs.sum())

    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    spoken = path[starts] != blank_id
    token_ids = tuple(int(i) for i in path[starts[spoken]])
    # A token's run of frames peaks where it is most probable; argmax takes the first of equals.
    timesteps = tuple(
        int(start + path_log_probs[start:end].argmax())
        for start, end in zip(starts[spoken], ends[spoken], strict=True)
    )
    peaks = np.minimum(path_log_probs[list(timesteps)] if timesteps else path_log_probs, 0.0)
    return Hypothesis(
        token_ids,
        "" if tokens is None else text_of(token_ids, tokens),
        score=score,
        ctc_score=score,
        timesteps=timesteps,
        token_starts=tuple(int(start) for start in starts[spoken]),
        token_ends=tuple(int(end) for end in ends[spoken]),
        token_confidences=tuple(float(p) for p in np.exp(peaks)) if timesteps else (),
        confidence=float(np.exp(peaks.mean())),
    )
