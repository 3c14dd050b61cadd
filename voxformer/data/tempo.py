"""Another tempo at the same pitch: WSOLA (Verhelst & Roelands 1993) in one pass over an utterance.

Speech is cut at joints that lie evenly in it. At a joint some of it is left out or said twice: as
many samples as make what comes next most like what would have come, so that the wave goes on in
phase, and a cross-fade hides the rest. In WSOLA joints lie evenly in the output, and where each
falls in the input follows from those before. Here that is known beforehand, so that comparing
waves, which is what costs, is done for all joints at once; only the sum of the shifts goes from
joint to joint.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

SLOWEST, FASTEST = 0.8, 1.25
DRIFT_S = 0.008
"""How far the timing is ever off. Twice that is the longest shift: with the sum that far off to
either side a shift can still be whole periods of any pitch above 62.5 Hz."""
FADE_S = 0.01
"""Length of a cross-fade, and of the waves that are compared."""
SEGMENT_S = 0.032
"""Least distance between joints: more than the longest shift and a cross-fade."""


def change_tempo(waveform: Waveform, factor: float, sample_rate: int = 16000) -> Waveform:
    """Say it `factor` times as fast, at the same pitch.

    Args:
        waveform: float32 [samples].
        factor: `SLOWEST` to `FASTEST`.
        sample_rate: of the waveform, in Hz.

    Returns:
        float32 [samples / factor], give or take `DRIFT_S`, with the same start and end. What is
        shorter than `SEGMENT_S` comes back as it is.

    Raises:
        ValueError: the factor is out of range.
    """
    if not SLOWEST <= factor <= FASTEST:
        raise ValueError(f"tempo factor {factor:g} is not in {SLOWEST:g} to {FASTEST:g}")
    samples = len(waveform)
    drift, fade = round(DRIFT_S * sample_rate), round(FADE_S * sample_rate)
    surplus = samples - samples / factor  # to be left out; below 0, to be said twice
    joints = min(samples // round(SEGMENT_S * sample_rate), math.ceil(abs(surplus) / drift))
    if joints == 0:
        return waveform
    segment = samples / joints
    # In the middle of where nothing is compared that is not in the joint's own segment.
    first = (segment - 2 * drift - fade) / 2 + (2 * drift if surplus < 0 else 0)
    places = (first + segment * np.arange(joints)).astype(np.int64)
    distances = _distances(waveform, places, 2 * drift, fade, backwards=surplus < 0)
    shifts = _choose(distances, abs(surplus) / joints, drift)
    return _join(waveform, places, -shifts if surplus < 0 else shifts, fade)


def _distances(
    waveform: Waveform, places: NDArray[np.int64], reach: int, fade: int, backwards: bool
) -> NDArray[np.float64]:
    """How unlike the wave at each place is to the wave 0 … `reach` samples after, or before, it.

    Returns:
        float64 [joints, reach + 1]: the squared difference, summed over `fade` samples, less the
        energy at the place, which is the same for all shifts.
    """
    starts = places - reach if backwards else places
    around = sliding_window_view(waveform, reach + fade)[starts]
    wave = sliding_window_view(waveform, fade)[places]
    size = 1 << (reach + fade - 1).bit_length()
    spectrum = np.fft.rfft(around, size) * np.fft.rfft(wave, size).conj()
    products = np.fft.irfft(spectrum, size)[:, : reach + 1]
    sums = np.zeros((len(places), reach + fade + 1))
    np.cumsum(np.square(around), axis=1, dtype=np.float64, out=sums[:, 1:])
    distances = sums[:, fade:] - sums[:, : reach + 1] - 2.0 * products
    return distances[:, ::-1] if backwards else distances


def _choose(distances: NDArray[np.float64], mean: float, drift: int) -> NDArray[np.int64]:
    """The shift with the least distance at each joint, among those that keep the sum of all shifts
    so far within `drift` of the `mean` times their number."""
    shifts, due = [], 0.0
    for row in distances:
        due += mean
        low = max(0, math.ceil(due - drift))
        shift = low + int(row[low : math.floor(due + drift) + 1].argmin())
        due -= shift
        shifts.append(shift)
    return np.array(shifts)


def _join(
    waveform: Waveform, places: NDArray[np.int64], shifts: NDArray[np.int64], fade: int
) -> Waveform:
    """Go on `shifts` samples further, or before, wherever a place is reached."""
    onward = places + shifts
    starts, ends = [0, *onward.tolist()], [*places.tolist(), len(waveform)]
    parts = [waveform[start:end] for start, end in zip(starts, ends, strict=True)]
    joined = np.concatenate(parts)
    steps = np.arange(fade)
    falling = (0.5 + 0.5 * np.cos(np.pi * (steps + 0.5) / fade)).astype(np.float32)
    windows = sliding_window_view(waveform, fade)
    seams = places - np.cumsum(shifts) + shifts
    joined[seams[:, None] + steps] += falling * (windows[places] - windows[onward])
    return joined
