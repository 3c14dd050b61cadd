"""Which utterances can be trained on; the others are reported by id, before the first step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.schema import DataConfig
from ..text import Tokenizer
from .manifest import DataError, Utterance

_NAMED_IN_ERROR = 5


@dataclass(frozen=True)
class Screened:
    """What is left of a manifest, and what is not, with the reason."""

    kept: list[Utterance]
    rejected: list[tuple[str, str]]
    """(utterance id, reason)."""


def screen(
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer | None,
    config: DataConfig,
    sample_rate: int = 16000,
) -> Screened:
    """Leave out what is empty, too short, too long, missing, or has more tokens than frames.

    Args:
        utterances: of one or several manifests.
        tokenizer: None for pre-training, which needs no text.
        config: limits of duration, and the share that may be bad.
        sample_rate: of the model; with the duration it gives the number of encoder frames.

    Raises:
        DataError: nothing is left, or more than `config.max_bad_fraction` is bad.
    """
    if not utterances:
        raise DataError("there are no utterances; `voxformer prepare` makes a manifest")
    kept: list[Utterance] = []
    rejected: list[tuple[str, str]] = []
    for utterance in utterances:
        reason = _reason(utterance, tokenizer, config, sample_rate)
        if reason is None:
            kept.append(utterance)
        else:
            rejected.append((utterance.id, reason))
    share = len(rejected) / len(utterances)
    if share > config.max_bad_fraction or not kept:
        named = "; ".join(f"{i}: {reason}" for i, reason in rejected[:_NAMED_IN_ERROR])
        more = len(rejected) - _NAMED_IN_ERROR
        raise DataError(
            f"{len(rejected)} of {len(utterances)} utterances ({share:.1%}) cannot be used, "
            f"data.max_bad_fraction allows {config.max_bad_fraction:.1%}; mend or remove them: "
            f"{named}" + (f"; and {more} more" if more > 0 else "")
        )
    return Screened(kept, rejected)


def encoder_frames(num_samples: int, sample_rate: int = 16000) -> int:
    """Encoder frames (40 ms) of so many samples.

    Features are 25 ms windows every 10 ms that lie wholly in the signal; two convolutions of
    stride 2 each give ceil(frames / 2).
    """
    window, hop = sample_rate * 25 // 1000, sample_rate // 100
    if num_samples < window:
        return 0
    frames = 1 + (num_samples - window) // hop
    return (((frames + 1) // 2) + 1) // 2


def ctc_frames_needed(tokens: Sequence[int]) -> int:
    """Shortest input that CTC can align: a frame a token, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def _reason(
    utterance: Utterance, tokenizer: Tokenizer | None, config: DataConfig, sample_rate: int
) -> str | None:
    if utterance.duration < config.min_duration:
        return f"{utterance.duration:.2f} s is shorter than data.min_duration"
    if utterance.duration > config.max_duration:
        return f"{utterance.duration:.2f} s is longer than data.max_duration"
    frames = encoder_frames(round(utterance.duration * sample_rate), sample_rate)
    if frames == 0:
        return f"{utterance.duration:.3f} s is shorter than one analysis window"
    if tokenizer is not None:
        tokens = tokenizer.encode(utterance.text)
        if not tokens and utterance.speech:
            return "empty text"
        if tokenizer.unknown_id in tokens:
            return f"a character of {utterance.text!r:.60} is not in the tokenizer"
        needed = ctc_frames_needed(tokens)
        if frames < needed:
            return f"{frames} encoder frames for {needed} CTC labels: audio cut off or wrong text"
    if not utterance.audio_path.is_file():
        return f"no audio file {utterance.audio_path}"
    return None
