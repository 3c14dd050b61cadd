"""Recordings of any length as pieces that can be recognised: speech between pauses, or windows.

Voice activity is energy above the noise floor (Rabiner and Sambur 1975). Floor and peak are those
of the half minute before and after, so that a quiet or a noisy recording needs no setting. A
stretch of speech between two pauses is a piece. One that is longer than a piece may be is cut in
the middle of its longest short pause; where speech goes on without any, the next piece begins some
seconds before the end of the last, and `seams` joins their words.

Long pauses are in no piece: features are normalised over a piece, so silence in it makes speech
louder than a model knows it, and noise alone is taken for speech.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxformer.runtime.engine import FloatArray

HOP_SECONDS = 0.01
SMOOTHING_FRAMES = 5
FLOOR_PERCENTILE = 5

SILENCE_DB = -85.0
"""Of full scale: no floor is lower."""

LEAST_RANGE_DB = 6.0
"""Between floor and peak. Speech has more; what has less is steady noise, or silence."""

ABOVE_FLOOR = 0.25
"""Of the decibels from floor to peak, how far up speech begins."""

MOST_ABOVE_FLOOR_DB = 12.0
"""A click may be the peak; what is so far above the floor is speech all the same."""

CONTEXT_SECONDS = 30.0
"""Before and after, that floor and peak are taken from."""

LEAST_SECONDS = 0.5
"""That a piece may be limited to."""


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut.

    Attributes:
        max_seconds: no piece is longer; a recording of at most that length is one piece, as it is.
        pause_seconds: a pause of this length ends a piece.
        short_pause_seconds: the least that a stretch longer than a piece is cut in.
        margin_seconds: of a pause that belong to the speech on either side.
        least_speech_seconds: what is shorter between pauses is a click.
        overlap_seconds: of two pieces where there is no pause.

    Raises:
        ValueError: a time is negative, or an overlap takes more than half of a piece.
    """

    max_seconds: float = 30.0
    pause_seconds: float = 0.8
    short_pause_seconds: float = 0.15
    margin_seconds: float = 0.2
    least_speech_seconds: float = 0.06
    overlap_seconds: float = 4.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0 or not self.max_seconds >= 2 * self.overlap_seconds:
            raise ValueError(
                f"{self}: times may not be negative, and max_seconds must be at least twice "
                "overlap_seconds"
            )
        if self.max_seconds < LEAST_SECONDS:
            raise ValueError(f"max_seconds is {self.max_seconds}, must be at least {LEAST_SECONDS}")


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording.

    Attributes:
        start: its first sample, counted from the recording's.
        samples: float32 [samples].
    """

    start: int
    samples: FloatArray

    @property
    def end(self) -> int:
        """The sample after its last."""
        return self.start + len(self.samples)


DEFAULT_CUTTING = Cutting()

LEAST_PIECE_SECONDS = 12.0
"""Shorter pieces lose more at their many seams than a model loses in what is new to it."""


def cutting_for(longest_seconds: float | None) -> Cutting:
    """How recordings are cut for a model: into pieces no longer than those that it learned from.

    What is longer it hears worse, the attention decoder above all (Chorowski et al. 2015).

    Args:
        longest_seconds: of its training utterances; None, where that is not known, is the default.
    """
    if longest_seconds is None:
        return DEFAULT_CUTTING
    most = min(max(longest_seconds, LEAST_PIECE_SECONDS), DEFAULT_CUTTING.max_seconds)
    return cutting_into(most)


def cutting_into(max_seconds: float) -> Cutting:
    """The default cutting with pieces of at most so many seconds, and overlaps in proportion."""
    overlap = min(DEFAULT_CUTTING.overlap_seconds, max_seconds / 4)
    return replace(DEFAULT_CUTTING, max_seconds=max_seconds, overlap_seconds=overlap)


class Cut(NamedTuple):
    """What to do with the samples at hand: the piece [start, end), and where to go on."""

    start: int
    end: int
    following: int


def pieces(
    blocks: Iterable[FloatArray], sample_rate: int, cutting: Cutting = DEFAULT_CUTTING
) -> Iterator[Piece]:
    """Cut a recording as it comes in; holds about two pieces and a block at a time.

    Args:
        blocks: float32 [samples] each, of any lengths, one after the other.
        sample_rate: samples per second.
        cutting: how long pieces are.

    Yields:
        Pieces in order, apart or adjoining, or overlapping where there was no pause. None where
        there is no speech, but one for a recording that may be one.
    """
    cutter = _Cutter(sample_rate, cutting)
    for block in blocks:
        yield from cutter.feed(block)
    yield from cutter.finish()


class _Cutter:
    def __init__(self, sample_rate: int, cutting: Cutting) -> None:
        def frames(seconds: float) -> int:
            return round(seconds / HOP_SECONDS)

        self._hop = max(1, int(HOP_SECONDS * sample_rate))
        self._longest = frames(cutting.max_seconds)
        self._context = max(self._longest, frames(CONTEXT_SECONDS))
        self._pause = frames(cutting.pause_seconds)
        self._short_pause = frames(cutting.short_pause_seconds)
        self._margin = frames(cutting.margin_seconds)
        self._least = frames(cutting.least_speech_seconds)
        self._overlap = frames(cutting.overlap_seconds)
        self._held = np.zeros(0, np.float32)
        self._power = np.zeros(0)
        """Of each whole frame of what is held."""
        self._start = 0
        """Of what is held, in samples."""
        self._covered = 0
        """Frames of what is held that the piece before has, too, because there was no pause."""
        self._earlier = np.zeros(0)
        """Levels of the frames before, for floor and peak."""

    def feed(self, block: FloatArray) -> Iterator[Piece]:
        self._held = np.concatenate([self._held, block])
        known = len(self._power)
        fresh = len(self._held) // self._hop - known
        framed = self._held[known * self._hop :][: fresh * self._hop].reshape(fresh, self._hop)
        power = np.var(framed, axis=1, dtype=np.float64)
        self._power = np.concatenate([self._power, power])
        # More than a piece may hold, so that floor and peak are known beyond it.
        ahead = self._longest + self._context
        while len(self._power) > ahead:
            yield from self._next(ahead, final=False)

    def finish(self) -> Iterator[Piece]:
        if self._start == 0 and len(self._held) <= self._longest * self._hop:
            yield Piece(0, self._held)
            return
        while len(self._power):
            yield from self._next(len(self._power), final=True)

    def _next(self, count: int, final: bool) -> Iterator[Piece]:
        """The next piece, if there is speech in so many frames; lets go of what is done."""
        level = levels(self._power[:count])
        speech = level >= threshold(np.concatenate([self._earlier, level]))
        cut = self._cut(speech, final)
        if cut.end > cut.start:
            # The last frame of a recording may be a part of one.
            end = self._longest + cut.start if final and cut.end == count else cut.end
            samples = self._held[cut.start * self._hop : end * self._hop].copy()
            yield Piece(self._start + cut.start * self._hop, samples)
        self._covered = max(0, cut.end - cut.following)
        self._earlier = np.concatenate([self._earlier, level[: cut.following]])[-self._context :]
        self._start += cut.following * self._hop
        self._held = self._held[cut.following * self._hop :]
        self._power = self._power[cut.following :]

    def _cut(self, speech: NDArray[np.bool_], final: bool) -> Cut:
        count = len(speech)
        runs = [
            (first, last)
            for first, last in _joined(_runs(speech), self._pause)
            if speech[first:last].sum() >= self._least
        ]
        if not runs:
            # Speech may begin right behind what is held.
            return Cut(0, 0, count if final else max(1, count - self._margin))
        first, last = runs[0]
        if last <= self._covered:
            return Cut(0, 0, last)
        start = 0 if self._covered else max(0, first - self._margin)
        end = min(count, last + self._margin)
        if end - start <= self._longest:
            if not final and start > 0 and last + self._pause > count:
                return Cut(0, 0, start)  # more of it is still to come
            return Cut(start, end, end)
        limit = start + self._longest
        third = start + self._longest // 3
        best = None
        for quiet, loud in _runs(~speech[:limit]):
            long_enough = loud - quiet >= self._short_pause and loud < limit
            middle = (quiet + loud) // 2
            if long_enough and middle >= third and (best is None or loud - quiet >= best[0]):
                best = loud - quiet, middle
        if best is not None:
            return Cut(start, best[1], best[1])
        return Cut(start, limit, limit - self._overlap)


def levels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Decibels of full scale of frames of such power, smoothed over 50 ms."""
    if len(power) < SMOOTHING_FRAMES:
        smooth = np.full(len(power), power.mean() if len(power) else 0.0)
    else:
        around = np.pad(power, SMOOTHING_FRAMES // 2, mode="edge")
        smooth = np.convolve(around, np.full(SMOOTHING_FRAMES, 1 / SMOOTHING_FRAMES), "valid")
    return np.maximum(10 * np.log10(np.maximum(smooth, 0.0) + 1e-12), SILENCE_DB)


def threshold(level: NDArray[np.float64]) -> float:
    """The level from which on it is speech; infinite where there is none to be told from noise."""
    floor, peak = float(np.percentile(level, FLOOR_PERCENTILE)), float(level.max())
    if peak - floor < LEAST_RANGE_DB:
        return np.inf
    return floor + min(ABOVE_FLOOR * (peak - floor), MOST_ABOVE_FLOOR_DB)


def _runs(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of true frames, as [start, end)."""
    edges = np.diff(np.concatenate([[False], frames, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _joined(runs: list[tuple[int, int]], pause: int) -> list[tuple[int, int]]:
    """Runs with less than `pause` frames between them become one."""
    joined: list[tuple[int, int]] = []
    for first, last in runs:
        if joined and first - joined[-1][1] < pause:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return joined
