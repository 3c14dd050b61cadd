"""Windows of a recording, recognised one by one, become one sequence of words.

Where windows follow each other there is nothing to do. Where they overlap, both have heard the same
words, each of them worst at its own edge. The words that they agree on, in text and in time, are
found as their longest common subsequence; of these, the one nearest to the middle of the overlap is
the seam: words up to it are the left window's, words after it the right one's. It is the overlap
method of buffered recognition (in NVIDIA NeMo, `longest_common_subsequence_merge`; for CTC, the
strides that Hugging Face's pipelines drop), on words with times instead of frames or tokens, so
that it holds for every decoding mode and no word is cut. Where the windows agree on nothing, the
seam is a moment near the middle that is in no word of either. What a word is, the vocabulary's
spaces say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from voxformer.decoding import Hypothesis
from voxformer.runtime.transcript import Segment, Word

SAME_WORD_SECONDS = 0.3
"""Middles of a word as two windows hear it are no further apart than this."""


@dataclass(frozen=True)
class Window:
    """A stretch of a recording as it was recognised.

    Attributes:
        start: seconds on the recording's clock.
        end: seconds.
        hypotheses: N-best, best first.
        words: of the best, with times on the recording's clock.
    """

    start: float
    end: float
    hypotheses: tuple[Hypothesis, ...]
    words: tuple[Word, ...]


def join(windows: Sequence[Window], duration: float) -> list[Segment]:
    """Segments of a recording, each with the words that are its own.

    Args:
        windows: in order of their starts; each may overlap the one before.
        duration: seconds of the recording; no word ends later.

    Returns:
        One segment for each window. Their words are in order and do not overlap in time.
    """
    segments: list[Segment] = []
    begins, first = 0.0, 0
    spoken = 0.0
    for number, window in enumerate(windows):
        following = windows[number + 1] if number + 1 < len(windows) else None
        ends, last, next_first = window.end, len(window.words), 0
        if following is not None and following.start < window.end:
            ends, last, next_first = _seam(window, following)
        kept = window.words[first:last]
        words = []
        for word in kept:
            start = min(max(word.start, spoken), duration)
            spoken = min(max(word.end, start), duration)
            words.append(replace(word, start=start, end=spoken))
        whole = len(kept) == len(window.words)
        segments.append(
            Segment(
                start=begins,
                end=max(ends, begins),
                hypotheses=window.hypotheses,
                text=window.hypotheses[0].text if whole else " ".join(word.text for word in kept),
                words=tuple(words),
                heard=(window.start, window.end),
            )
        )
        begins, first = max(ends, begins), next_first
    return segments


def _seam(left: Window, right: Window) -> tuple[float, int, int]:
    """Seconds of the seam, how many words of the left window come before it, and the first after it
    of the right window.
    """
    middle = (right.start + left.end) / 2
    agreed = _agreed(left.words, right.words, right.start, left.end)
    if agreed:
        i, j = min(agreed, key=lambda pair: abs(_middle(left.words[pair[0]]) - middle))
        return left.words[i].end, i + 1, j + 1
    seam = _gap(left, right, middle)
    before = sum(_middle(word) < seam for word in left.words)
    return seam, before, sum(_middle(word) < seam for word in right.words)


def _agreed(
    left: Sequence[Word], right: Sequence[Word], start: float, end: float
) -> list[tuple[int, int]]:
    """Pairs of indices of the longest common subsequence of words in the overlap, in order.

    Of subsequences as long, that in which words are closest in time: where a word is said twice in
    a row, and one window heard it once, any other would have it twice or not at all.
    """
    ours = [i for i, word in enumerate(left) if word.end >= start]
    theirs = [j for j, word in enumerate(right) if word.start <= end]
    # Of what is behind (a, b): how many pairs, and minus the seconds between their words.
    best = [[(0, 0.0)] * (len(theirs) + 1) for _ in range(len(ours) + 1)]

    def paired(a: int, b: int) -> tuple[int, float]:
        apart = abs(_middle(left[ours[a]]) - _middle(right[theirs[b]]))
        if left[ours[a]].text != right[theirs[b]].text or apart > SAME_WORD_SECONDS:
            return (0, 0.0)
        count, closeness = best[a + 1][b + 1]
        return count + 1, closeness - apart

    for a in reversed(range(len(ours))):
        for b in reversed(range(len(theirs))):
            best[a][b] = max(best[a + 1][b], best[a][b + 1], paired(a, b))
    pairs = []
    a = b = 0
    while best[a][b][0]:
        if best[a][b] == best[a + 1][b]:
            a += 1
        elif best[a][b] == best[a][b + 1]:
            b += 1
        else:
            pairs.append((ours[a], theirs[b]))
            a, b = a + 1, b + 1
    return pairs


def _gap(left: Window, right: Window, middle: float) -> float:
    """The moment of the overlap that is in the fewest words, nearest to its middle."""
    words = [*left.words, *right.words]
    moments = [middle, *(time for word in words for time in (word.start, word.end))]
    return min(
        (moment for moment in moments if right.start <= moment <= left.end),
        key=lambda moment: (
            sum(word.start < moment < word.end for word in words),
            abs(moment - middle),
        ),
    )


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
