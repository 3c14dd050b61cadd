"""Recordings in which nobody speaks, so that a model learns to answer them with nothing.

One that has only ever heard speech finds words in all it hears. What is made here is what
microphones give without a speaker: white, pink and red noise, mains hum, knocks, and digital
silence, at changing levels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..audio.io import write_flac
from .augment import made_noise
from .manifest import Utterance, write_manifest
from .seeds import derived_generator

SAMPLE_RATE = 16000

SECONDS = (0.6, 8.0)
"""Shortest and longest recording."""

DECIBELS = (-70.0, -18.0)
"""Root mean square below full scale, of the steady kinds."""

Signal = NDArray[np.float64]

# How often each is made, of 1.
_SHARES = {"steady": 0.4, "red": 0.15, "hum": 0.1, "knocks": 0.1, "mixture": 0.2, "nothing": 0.05}


def make_noises(
    out_dir: str | os.PathLike[str], name: str = "noise-train", count: int = 300, seed: int = 1
) -> Path:
    """Write so many recordings, with a manifest whose lines say that nobody speaks.

    Args:
        out_dir: gets `name`/ and `name`.jsonl; recordings that are already there are made anew.
        name: of the set.
        count: recordings, of `SECONDS` each.
        seed: the same one gives the same recordings.

    Returns:
        The manifest.
    """
    folder = Path(out_dir) / name
    utterances = []
    for number in range(count):
        samples = noise(derived_generator("noise", seed, number))
        path = (folder / f"noise-{number:04}.flac").resolve()
        write_flac(path, samples, SAMPLE_RATE)
        utterances.append(
            Utterance(path.stem, path, len(samples) / SAMPLE_RATE, speaker="none", speech=False)
        )
    manifest = Path(out_dir) / f"{name}.jsonl"
    write_manifest(manifest, utterances)
    return manifest


def noise(generator: np.random.Generator) -> NDArray[np.float32]:
    """One recording, float32 [samples] within -1 and 1; of what kind is drawn as well."""
    num_samples = int(SAMPLE_RATE * generator.uniform(*SECONDS))
    kind = str(generator.choice(list(_SHARES), p=list(_SHARES.values())))
    if kind == "mixture":
        other = str(generator.choice(["red", "hum", "knocks"]))
        signal = generator.uniform(0.1, 1.0) * _signal("steady", num_samples, generator)
        signal = signal + _signal(other, num_samples, generator)
    else:
        signal = _signal(kind, num_samples, generator)
    # Some places come and go: a level that wanders by a few decibels over the recording.
    corners = generator.normal(0.0, 0.5, 6)
    wander = np.exp(np.interp(np.linspace(0.0, 5.0, num_samples), np.arange(6), corners))
    level = 10.0 ** (generator.uniform(*DECIBELS) / 20.0)
    return np.clip(level * wander * signal, -1.0, 1.0).astype(np.float32)


def _signal(kind: str, num_samples: int, generator: np.random.Generator) -> Signal:
    """float64 [samples] of unit power, more or less; the power of knocks is in few of them."""
    match kind:
        case "steady":
            return made_noise(num_samples, generator).astype(np.float64)
        case "red":
            return _red(num_samples, generator)
        case "hum":
            return _hum(num_samples, generator)
        case "knocks":
            return _knocks(num_samples, generator)
    return np.zeros(num_samples)


def _red(num_samples: int, generator: np.random.Generator) -> Signal:
    """Power that falls as 1/f² from 8 Hz on, as of wind and traffic."""
    walk = np.cumsum(generator.standard_normal(num_samples))
    walk -= np.convolve(walk, np.full(2000, 1.0 / 2000), "same")
    return walk / (walk.std() + 1e-9)


def _hum(num_samples: int, generator: np.random.Generator) -> Signal:
    """Eight harmonics of a mains frequency, or twice it, and a little hiss."""
    frequency = float(generator.choice([50.0, 60.0, 100.0, 120.0])) * generator.uniform(0.98, 1.02)
    time = np.arange(num_samples) / SAMPLE_RATE
    hum = np.zeros(num_samples)
    for harmonic in range(1, 9):
        phase = generator.uniform(0.0, 2.0 * np.pi)
        wave = np.sin(2.0 * np.pi * frequency * harmonic * time + phase)
        hum += generator.uniform(0.0, 1.0) / harmonic * wave
    return hum / (hum.std() + 1e-9) + 0.1 * generator.standard_normal(num_samples)


def _knocks(num_samples: int, generator: np.random.Generator) -> Signal:
    """Bursts of half a millisecond to 50 that die away, in a faint hiss."""
    signal = 0.02 * generator.standard_normal(num_samples)
    for _ in range(int(generator.integers(1, 12))):
        start = int(generator.integers(0, num_samples))
        length = min(num_samples - start, int(generator.integers(8, 800)))
        fade = np.exp(-np.arange(length) / (length / 4.0 + 1.0))
        strength = generator.uniform(0.3, 2.0)
        signal[start : start + length] += strength * fade * generator.standard_normal(length)
    return signal
