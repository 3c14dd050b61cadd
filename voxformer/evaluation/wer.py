"""Word and character error rates: counts, a confidence interval, and the bands of a report.

Alignments are jiwer's (minimum edit distance). Every rate is a fraction, with its counts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class ErrorCounts:
    """What an alignment counted; words here, or characters where `character_errors` made it."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def reference_words(self) -> int:
        """Units of the reference."""
        return self.substitutions + self.deletions + self.hits

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors over reference units, a fraction; insertions can bring it above 1.

        Raises:
            ZeroDivisionError: the reference is empty.
        """
        return self.errors / self.reference_words

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )

    def to_json(self) -> dict[str, int]:
        """Plain values, `reference_words` with them."""
        return {
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "hits": self.hits,
            "reference_words": self.reference_words,
        }


@dataclass(frozen=True)
class Chunk:
    """A stretch of an alignment: reference words [start, end) against hypothesis words."""

    kind: str
    """`equal`, `substitute`, `delete` or `insert`."""
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True)
class Alignment:
    """One utterance's words against its reference's."""

    counts: ErrorCounts
    chunks: tuple[Chunk, ...]


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align each hypothesis with its reference, word by word; texts as they are.

    An empty reference is allowed: all words of its hypothesis are insertions.

    Raises:
        ValueError: the lists differ in length.
    """
    return _align(references, hypotheses, "process_words")


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """The same for characters, spaces between words counted; counts only."""
    return [alignment.counts for alignment in _align(references, hypotheses, "process_characters")]


def total(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    """Pooled counts: long utterances weigh more, as WER is defined."""
    return sum(counts, ErrorCounts())


def oracle_errors(reference: str, n_best: Sequence[str]) -> ErrorCounts:
    """Counts of the hypothesis of an n-best with the fewest word errors, the first of equals."""
    alignments = align_words([reference] * len(n_best), list(n_best))
    return min((alignment.counts for alignment in alignments), key=lambda counts: counts.errors)


def confidence_interval(
    counts: Sequence[ErrorCounts], resamples: int = 1000, level: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Bootstrap percentile interval of the pooled WER over utterances (Bisani & Ney 2004).

    Utterances are drawn with replacement, so that errors within one stay together.

    Args:
        counts: one entry per utterance.
        resamples: bootstrap samples.
        level: probability mass between the two ends.
        seed: same seed, same interval.

    Returns:
        Lower and upper end, fractions.

    Raises:
        ValueError: there is no reference word in `counts`.
    """
    errors = np.array([c.errors for c in counts], dtype=np.int64)
    words = np.array([c.reference_words for c in counts], dtype=np.int64)
    if words.sum() == 0:
        raise ValueError("the references hold no word: WER is not defined")
    random = np.random.default_rng(seed)
    rates: list[float] = []
    while len(rates) < resamples:
        rows = min(_RESAMPLES_AT_ONCE, resamples - len(rates))
        drawn = random.integers(0, len(counts), size=(rows, len(counts)))
        drawn_words = words[drawn].sum(axis=1)
        drawn_errors = errors[drawn].sum(axis=1)
        # A sample without a word (only where references are empty) has no rate and is drawn again.
        rates.extend((drawn_errors / np.maximum(drawn_words, 1))[drawn_words > 0])
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.array(rates), [tail, 1.0 - tail])
    return float(low), float(high)


def band(wer: float) -> str:
    """The label of a WER (a fraction): `critical`, `high`, `moderate`, `good` or `target`."""
    if wer > 1.0:
        return "critical"
    for lowest, label in ((0.50, "high"), (0.25, "moderate"), (0.15, "good")):
        if wer >= lowest:
            return label
    return "target"


def _align(references: Sequence[str], hypotheses: Sequence[str], process: str) -> list[Alignment]:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses")
    # Older versions of jiwer refuse empty references, so they stay out of its sight.
    filled = [i for i, reference in enumerate(references) if reference.split()]
    found: dict[int, Alignment] = {}
    if filled:
        output = getattr(_jiwer(), process)(
            [" ".join(references[i].split()) for i in filled],
            [" ".join(hypotheses[i].split()) for i in filled],
        )
        rows = zip(filled, output.references, output.hypotheses, output.alignments, strict=True)
        for index, reference, hypothesis, chunks in rows:
            found[index] = _alignment([_chunk(reference, hypothesis, chunk) for chunk in chunks])
    result: list[Alignment] = []
    for index, hypothesis in enumerate(hypotheses):
        if index in found:
            result.append(found[index])
            continue
        words = hypothesis.split()
        units = tuple(words if process == "process_words" else " ".join(words))
        result.append(_alignment([Chunk("insert", (), units)] if units else []))
    return result


def _chunk(reference: Sequence[str], hypothesis: Sequence[str], chunk: Any) -> Chunk:
    return Chunk(
        chunk.type,
        tuple(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
        tuple(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
    )


def _alignment(chunks: list[Chunk]) -> Alignment:
    def units(kind: str, side: str) -> int:
        return sum(len(getattr(chunk, side)) for chunk in chunks if chunk.kind == kind)

    counts = ErrorCounts(
        substitutions=units("substitute", "reference"),
        deletions=units("delete", "reference"),
        insertions=units("insert", "hypothesis"),
        hits=units("equal", "reference"),
    )
    return Alignment(counts, tuple(chunks))


def _jiwer() -> Any:
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scoring needs jiwer: pip install 'voxformer[train]' ({error})", name="jiwer"
        ) from None
    return jiwer
