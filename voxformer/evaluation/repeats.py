"""Words said over and over: the mark of an attention decoder that loops."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_NGRAM = 4


@dataclass(frozen=True)
class Repeat:
    """An n-gram that one hypothesis repeats back to back."""

    utterance_id: str
    ngram: str
    times: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"utterance": self.utterance_id, "ngram": self.ngram, "times": self.times}


def most_repeated(hypotheses: Iterable[tuple[str, str]]) -> Repeat | None:
    """The n-gram (1 to 4 words) whose back-to-back repetition fills the most words of a hypothesis.

    Args:
        hypotheses: (utterance id, text).

    Returns:
        The first of the worst, with the shortest n-gram; None if nothing is said twice in a row.
    """
    worst: Repeat | None = None
    filled = 0
    for utterance_id, text in hypotheses:
        words = text.split()
        for size in range(1, LONGEST_NGRAM + 1):
            for end, times in _runs(words, size):
                if times > 1 and times * size > filled:
                    filled = times * size
                    worst = Repeat(utterance_id, " ".join(words[end - size : end]), times)
    return worst


def repeated_units(units: Sequence[Hashable], least: int, longest: int = 8) -> int:
    """Most units that one n-gram fills by being repeated back to back, `least` times or more.

    Args:
        units: words or token ids.
        least: repetitions that count.
        longest: n, at most.
    """
    return max(
        (
            times * size
            for size in range(1, min(longest, len(units) // 2) + 1)
            for _, times in _runs(units, size)
            if times >= least
        ),
        default=0,
    )


def _runs(words: Sequence[Hashable], size: int) -> Iterable[tuple[int, int]]:
    """(end, times) of every maximal run in which words[i] equals words[i - size]."""
    same = 0
    for index in range(size, len(words)):
        if words[index] == words[index - size]:
            same += 1
            continue
        yield index, same // size + 1
        same = 0
    yield len(words), same // size + 1
