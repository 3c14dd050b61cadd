"""Transcripts with times; `formats` writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from voxformer.decoding import Hypothesis
from voxformer.runtime.options import SPACE, Vocabulary


@dataclass(frozen=True)
class Word:
    """A word, and where it is in the recording.

    CTC says a token in few frames, not from where its sound begins to where it ends: expect the
    times to be right to a tenth of a second or two.
    """

    text: str
    start: float
    """Seconds: where its first token begins."""
    end: float
    """Seconds: where its last token ends."""
    confidence: float | None = None
    """Geometric mean of its tokens' confidences, 0 to 1."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, and what was said in it."""

    start: float
    """Seconds."""
    end: float
    """Seconds: where the next one starts."""
    text: str
    """Without what the segments beside it say already."""
    words: tuple[Word, ...]
    """Of the text."""
    hypotheses: tuple[Hypothesis, ...]
    """N-best of `heard`, best first; their timesteps count from its start."""
    heard: tuple[float, float]
    """Seconds: what was recognised in one go. Longer than the segment where speech had no pause, so
    that neighbours heard the same words."""


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    text: str
    words: tuple[Word, ...]
    duration: float
    """Seconds of audio."""
    segments: tuple[Segment, ...]
    """One, unless the recording was too long to be recognised in one go."""

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """N-best of a recording of one segment; of more segments, see there: empty."""
        return self.segments[0].hypotheses if len(self.segments) == 1 else ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds."""
        return {
            "text": self.text,
            "duration": self.duration,
            "words": [asdict(word) for word in self.words],
            "segments": [
                {
                    "start": segment.start,
                    "end": segment.end,
                    "text": segment.text,
                    "hypotheses": [_plain(hypothesis) for hypothesis in segment.hypotheses],
                }
                for segment in self.segments
            ],
        }


def transcript_of(segments: Sequence[Segment], duration: float) -> Transcript:
    """The transcript of a recording of so many seconds."""
    return Transcript(
        text=" ".join(segment.text for segment in segments if segment.text),
        words=tuple(word for segment in segments for word in segment.words),
        duration=duration,
        segments=tuple(segments),
    )


def words_of(
    hypothesis: Hypothesis, vocabulary: Vocabulary, frame_shift_s: float, start: float = 0.0
) -> list[Word]:
    """Words of a hypothesis with their times; of a lexicon's words the tokens give the times.

    Args:
        hypothesis: with token_starts and token_ends; without them (its tokens could not be aligned)
            all its words get `start` as both their times.
        vocabulary: of the model.
        frame_shift_s: seconds between encoder frames.
        start: seconds, where frame 0 is.
    """
    words: list[Word] = []
    pieces: list[str] = []
    times = hypothesis.token_times(frame_shift_s)
    spoken: list[tuple[float, float]] = []
    sure: list[float] = []

    def finish() -> None:
        if pieces:
            first = start + spoken[0][0] if spoken else start
            last = start + spoken[-1][1] if spoken else start
            confidence = geometric_mean(sure)
            text = "".join(pieces)
            if hypothesis.words is not None:
                text = hypothesis.words[len(words)]
            words.append(Word(text, round(first, 3), round(last, 3), confidence))
        for parts in (pieces, spoken, sure):
            parts.clear()

    for index, token_id in enumerate(hypothesis.token_ids):
        piece = vocabulary.tokens[token_id]
        if piece.startswith(SPACE):
            finish()
        sound = piece.replace(SPACE, "")
        if sound:
            pieces.append(sound)
            spoken.extend(times[index : index + 1])
            sure.extend(hypothesis.token_confidences[index : index + 1])
    finish()
    return words


def geometric_mean(values: Sequence[float]) -> float | None:
    """Of probabilities; None where there are none."""
    if not values:
        return None
    if min(values) <= 0.0:
        return 0.0
    return round(math.exp(sum(map(math.log, values)) / len(values)), 4)


def _plain(hypothesis: Hypothesis) -> dict[str, Any]:
    return {
        "text": hypothesis.text,
        "score": hypothesis.score,
        "ctc_score": hypothesis.ctc_score,
        "attention_score": hypothesis.attention_score,
        "confidence": hypothesis.confidence,
        "truncated": hypothesis.truncated,
    }
