"""Rooms that are made up: an impulse response of a direct path and a tail that decays.

The tail is Gaussian noise under an exponential envelope (Polack 1988), after a first gap. The
direct path stays where it is, so that no transcript moves against its audio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

GAP_S = (0.002, 0.02)
"""Shortest and longest time until the first reflection."""
DIRECT_DB = (-3.0, 15.0)
"""Range of the direct path's energy over the tail's."""


@dataclass(frozen=True)
class Room:
    """What is drawn for an utterance.

    Attributes:
        decay_s: time in which the tail falls by 60 dB.
        gap_s: time until the tail begins.
        direct_db: energy of the direct path over that of the tail.
    """

    decay_s: float
    gap_s: float
    direct_db: float


def draw_room(decay_s: tuple[float, float], generator: np.random.Generator) -> Room:
    """A room whose decay time is drawn evenly from the range."""
    return Room(
        float(generator.uniform(*decay_s)),
        float(generator.uniform(*GAP_S)),
        float(generator.uniform(*DIRECT_DB)),
    )


def impulse_response(room: Room, sample_rate: int, generator: np.random.Generator) -> Waveform:
    """float32 [decay time]: 1 at the start, then the tail."""
    length = max(2, round(room.decay_s * sample_rate))
    gap = min(length - 1, max(1, round(room.gap_s * sample_rate)))
    time = np.arange(length - gap) / sample_rate
    # Amplitude falls by 60 dB, which is a factor of 1000, in the decay time.
    tail = generator.standard_normal(length - gap) * np.exp(-math.log(1000.0) * time / room.decay_s)
    energy = float(np.square(tail).sum())
    response = np.zeros(length)
    response[0] = 1.0
    response[gap:] = tail * math.sqrt(10.0 ** (-room.direct_db / 10.0) / energy)
    return response.astype(np.float32)


def reverberate(waveform: Waveform, response: Waveform) -> Waveform:
    """The waveform as it is heard in the room: float32 [samples], of the same length and power."""
    size = 1 << (len(waveform) + len(response) - 1).bit_length()
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    heard = np.fft.irfft(spectrum, size)[: len(waveform)]
    before = float(np.square(waveform, dtype=np.float64).mean())
    after = float(np.square(heard).mean())
    scale = math.sqrt(before / after) if after > 0.0 else 1.0
    return (heard * scale).astype(np.float32)
