"""Best-path decoding: the most probable token of every frame."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .arrays import LogProbArray, check_batch, check_values, check_vocabulary
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
    if len(frames) == 0:
        frames = np.full(num_utterances, num_frames, dtype=np.int64)
    hypotheses = []
    for i in range(num_utterances):
        if not 0 <= frames[i] <= num_frames:
            raise ValueError(
                f"utterance {i}: its length is {frames[i]}, but log_probs has {num_frames} frames"
            )
        utterance = batch[i, : frames[i]]
        check_values(utterance, i)
        hypotheses.append(_best_path(utterance, blank_id, vocabulary))
    return hypotheses


def _best_path(log_probs: LogProbArray, blank_id: int, tokens: Sequence[str] | None) -> Hypothesis:
    if len(log_probs) == 0:
        return Hypothesis((), "", score=0.0, ctc_score=0.0, confidence=1.0)
    path = log_probs.argmax(axis=1)
    path_log_probs = log_probs.max(axis=1).astype(np.float64)
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
