"""Long recordings in pieces: cut where it is quietest.

There is no voice activity detection: a piece ends at the lowest energy in the last third of what it
may hold. Speech without a pause of some milliseconds in ten seconds loses a word at the cut.
"""

from __future__ import annotations

import numpy as np

from voxformer.runtime.engine import FloatArray

MAX_SECONDS = 30.0
SMOOTHING_SECONDS = 0.2
HOP_SECONDS = 0.01


def cut_points(
    waveform: FloatArray, sample_rate: int, max_seconds: float = MAX_SECONDS
) -> list[tuple[int, int]]:
    """Pieces of a recording.

    Args:
        waveform: float32 [samples].
        sample_rate: samples per second.
        max_seconds: no piece is longer.

    Returns:
        (start, end) in samples, in order and without gaps; one piece for a short recording.
    """
    longest = int(max_seconds * sample_rate)
    pieces: list[tuple[int, int]] = []
    start = 0
    while len(waveform) - start > longest:
        earliest = start + 2 * longest // 3
        end = earliest + _quietest(waveform[earliest : start + longest], sample_rate)
        pieces.append((start, end))
        start = end
    return [*pieces, (start, len(waveform))]


def _quietest(waveform: FloatArray, sample_rate: int) -> int:
    """Middle, in samples, of the stretch of 0.2 s with the least energy."""
    hop = max(1, int(HOP_SECONDS * sample_rate))
    frames = len(waveform) // hop
    energy = np.square(waveform[: frames * hop].reshape(frames, hop), dtype=np.float64).sum(axis=1)
    width = max(1, min(frames, round(SMOOTHING_SECONDS / HOP_SECONDS)))
    total = np.concatenate([[0.0], np.cumsum(energy)])
    window = total[width:] - total[:-width]
    return int((int(window.argmin()) + width / 2) * hop)
