"""Recordings, one after the other, as pools of pieces that are batched together.

Only a pool is in memory, so that neither one long recording nor a long list of them needs more than
another. Within a pool pieces may be recognised in any order, so that batches hold like durations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from voxformer.audio import AudioError, read_blocks
from voxformer.runtime.engine import FloatArray
from voxformer.runtime.segments import Cutting, Piece, pieces

BLOCK_SECONDS = 10.0

Blocks = Iterable[FloatArray]
Recording = str | os.PathLike[str] | FloatArray | Callable[[], Blocks]


@dataclass(frozen=True)
class Ended:
    """The end of a recording.

    Attributes:
        recording: its index.
        seconds: that were read.
        error: what was wrong with it, if anything.
    """

    recording: int
    seconds: float
    error: AudioError | None


@dataclass
class Pool:
    """Pieces with the indices of their recordings, and which recordings end with them."""

    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    seconds: float = 0.0


def pools(
    recordings: Iterable[Recording], sample_rate: int, cutting: Cutting, seconds: float
) -> Iterator[Pool]:
    """Read recordings as pools are asked for.

    Args:
        recordings: paths, waveforms, or functions that give a recording's blocks; see `blocks_of`.
        sample_rate: samples per second.
        cutting: how they are cut.
        seconds: of audio in a pool, about.

    Raises:
        ValueError: an array is no waveform. A file that cannot be read ends with its error instead.
    """
    pool = Pool()
    for index, recording in enumerate(recordings):
        counted = _Counted(blocks_of(index, recording, sample_rate))
        error = None
        try:
            for piece in pieces(counted, sample_rate, cutting):
                pool.pieces.append((index, piece))
                pool.seconds += len(piece.samples) / sample_rate
                if pool.seconds >= seconds:
                    yield pool
                    pool = Pool()
        except AudioError as caught:
            error = caught
        pool.ended.append(Ended(index, counted.samples / sample_rate, error))
    yield pool


def blocks_of(index: int, recording: Recording, sample_rate: int) -> Blocks:
    """The samples of a recording, float32 [samples] each.

    Args:
        index: of the recording, for messages.
        recording: the path of an audio file; float [samples] in [-1, 1], mono, at `sample_rate`; or
            a function that gives blocks of such samples.
        sample_rate: samples per second.

    Raises:
        AudioError: a file is missing, unreadable or damaged.
        ValueError: an array is not float [samples], or not finite.
    """
    if isinstance(recording, (str, os.PathLike)):
        return read_blocks(recording, sample_rate)
    if callable(recording):
        return recording()
    waveform = np.asarray(recording)
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise ValueError(
            f"recording {index}: {waveform.dtype} {list(waveform.shape)}; expected float "
            f"[samples] in [-1, 1], mono, at {sample_rate} Hz"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"recording {index}: holds NaN or infinite samples")
    size = round(BLOCK_SECONDS * sample_rate)
    return (
        waveform[first : first + size].astype(np.float32, copy=False)
        for first in range(0, len(waveform), size)
    )


class _Counted:
    """Blocks, and how many samples were in those that were read."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[FloatArray]:
        for block in self._blocks:
            self.samples += len(block)
            yield block
