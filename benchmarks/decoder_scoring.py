"""The exact CTC log-probability of a token sequence, in NumPy and independent of our decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def ctc_log_prob(log_probs: npt.NDArray[np.float32], token_ids: Sequence[int]) -> float:
    """ln p(token_ids), the sum over all alignments: the forward algorithm in float64.

    Graves et al. 2006, section 4.1.

    Args:
        log_probs: float32 [time, vocab]; the blank is column 0.
        token_ids: without blanks.
    """
    if len(log_probs) == 0:
        return -np.inf if token_ids else 0.0
    labels = np.zeros(2 * len(token_ids) + 1, dtype=np.int64)
    labels[1::2] = token_ids
    # A token may follow another without a blank between them unless it is the same.
    skips = np.zeros(len(labels), dtype=bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    emissions = log_probs[:, labels].astype(np.float64)
    alpha = np.full(len(labels), -np.inf)
    alpha[:2] = emissions[0, :2]
    two_before = np.full(len(labels), -np.inf)
    one_before = two_before.copy()
    for emission in emissions[1:]:
        one_before[1:] = alpha[:-1]
        two_before[2:] = np.where(skips[2:], alpha[:-2], -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, one_before), two_before) + emission
    return float(np.logaddexp.reduce(alpha[-2:]))
