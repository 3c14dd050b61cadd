"""A language of tones, and an engine that hears it as a model hears speech: badly at the edges.

A word is a tone of its own frequency. What the engine hears of a word that a window cuts off is
another word, so that a seam in the wrong place loses a word, doubles one or makes one up.
"""

from __future__ import annotations

import numpy as np

from voxformer.runtime import Encoded, Vocabulary

RATE = 8000
FRAME = 320  # 40 ms: frequencies are 25 Hz apart
WORDS = tuple(f"w{number}" for number in range(40))
CUT = "cut"
VOCABULARY = Vocabulary.from_tokens(
    ["<blank>", *(f"\u2581{word}" for word in (*WORDS, CUT)), "<sos/eos>"]
)
LEAST_FRAMES = 5


def say(words, gaps, generator, level=0.3, noise=1e-4):
    """A recording of words, and (start, end) in seconds of each; `gaps` are seconds before each."""
    parts, times, now = [], [], 0
    for word, gap in zip(words, gaps, strict=True):
        parts.append(np.zeros(round(gap * RATE)))
        now += len(parts[-1])
        length = int(generator.integers(2400, 3600))
        tone = np.sin(2 * np.pi * _hertz(word) * np.arange(length) / RATE)
        parts.append(level * tone)
        times.append((now / RATE, (now + length) / RATE))
        now += length
    waveform = np.concatenate(parts)
    return (waveform + generator.normal(0, noise, len(waveform))).astype(np.float32), times


class ToneEngine:
    """See `Engine`; it has no attention decoder."""

    name = "tones"
    sample_rate = RATE
    frame_shift_s = FRAME / RATE
    lanes = 2
    batch_seconds = 20.0

    def encode(self, waveforms, lengths):
        frames = lengths // FRAME
        log_probs = np.full((len(waveforms), frames.max(initial=1), len(VOCABULARY.tokens)), -20.0)
        log_probs[:, :, 0] = 0.0
        for row, count in enumerate(frames):
            framed = waveforms[row, : count * FRAME].reshape(count, FRAME)
            for frame, token in _heard(framed):
                log_probs[row, frame] = -20.0
                log_probs[row, frame, token] = 0.0
        return Encoded(log_probs, frames.astype(np.int64), log_probs.astype(np.float32))


def _hertz(word):
    return 300 + 75 * WORDS.index(word)


def _heard(framed):
    """The middle frame and the token of each run of frames with the same tone."""
    spectrum = np.abs(np.fft.rfft(framed, axis=1))
    loud = np.sqrt((framed**2).mean(axis=1)) > 0.1
    tones = np.where(loud, np.rint((spectrum.argmax(axis=1) * 25 - 300) / 75), -1).astype(int)
    start = 0
    for frame in range(1, len(tones) + 1):
        if frame < len(tones) and tones[frame] == tones[start]:
            continue
        if tones[start] >= 0 and frame - start > 1:
            whole = frame - start >= LEAST_FRAMES
            word = WORDS[tones[start]] if whole else CUT
            yield (start + frame - 1) // 2, VOCABULARY.tokens.index(f"\u2581{word}")
        start = frame
