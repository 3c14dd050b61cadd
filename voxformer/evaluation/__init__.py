"""Evaluation: error rates with alignments and confidence intervals, and time over audio."""

from voxformer.evaluation.evaluate import Evaluation, ModeResult, UtteranceResult, evaluate
from voxformer.evaluation.wer import (
    Alignment,
    ErrorCounts,
    align_words,
    band,
    character_errors,
    confidence_interval,
    oracle_errors,
)

__all__ = [
    "Alignment",
    "ErrorCounts",
    "Evaluation",
    "ModeResult",
    "UtteranceResult",
    "align_words",
    "band",
    "character_errors",
    "confidence_interval",
    "evaluate",
    "oracle_errors",
]
