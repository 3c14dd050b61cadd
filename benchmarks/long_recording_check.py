"""A long recording out of utterances whose words are known, and what a transcript made of them.

Where each reference word is said comes from an alignment of its utterance's own log-probs with its
text, so that errors near a seam can be told from those elsewhere and compared with the same words
recognised without any seam: utterance by utterance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from voxformer.audio import read_audio
from voxformer.data import Utterance
from voxformer.evaluation.wer import ErrorCounts, align_words, total
from voxformer.runtime import Transcript
from voxformer.runtime.options import SPACE

FloatArray = NDArray[np.float32]

NEAR_SECONDS = 1.0
"""A word is at a seam if its middle is no further from it."""

KINDS = {"pauses": (0.3, 3.0), "long pauses": (3.0, 15.0), "unbroken": (0.0, 0.0)}
"""Stretches of the recording, and the gaps between utterances in each, in seconds."""

STRETCH_SECONDS = {"pauses": 240.0, "long pauses": 180.0, "unbroken": 180.0}
NOISE = 3e-4


class RecordingError(ValueError):
    """There is not enough speech, or it has no words."""


@dataclass(frozen=True)
class Placed:
    """An utterance in the recording: its samples [start, end), its text and its stretch."""

    start: int
    end: int
    text: str
    kind: str


@dataclass(frozen=True)
class SpokenWord:
    """A word, and the second its middle is at."""

    text: str
    at: float


def compose(
    path: Path,
    utterances: Sequence[Utterance],
    seconds: float,
    sample_rate: int,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
) -> list[Placed]:
    """Write a recording of about so many seconds; each utterance is said at most once.

    Utterances lose the silence at their ends, so that nothing is between them where a stretch has
    no gaps; elsewhere gaps hold faint noise.

    Raises:
        RecordingError: the utterances are too few.
    """
    random = np.random.default_rng(seed)
    waiting = iter(utterances)
    placed: list[Placed] = []
    written = 0
    with soundfile.SoundFile(str(path), "w", sample_rate, 1, "PCM_16", format="FLAC") as file:
        while written < seconds * sample_rate:
            for kind in kinds:
                ends = written + STRETCH_SECONDS[kind] * sample_rate
                while written < min(ends, seconds * sample_rate):
                    utterance = next(waiting, None)
                    if utterance is None:
                        minutes = written / sample_rate / 60
                        raise RecordingError(
                            f"the manifests hold speech for {minutes:.1f} minutes of a recording; "
                            "name more of them, or ask for less with --minutes"
                        )
                    speech = trimmed(read_audio(utterance.audio_path, sample_rate), sample_rate)
                    placed.append(Placed(written, written + len(speech), utterance.text, kind))
                    gap = round(random.uniform(*KINDS[kind]) * sample_rate)
                    noise = random.normal(0, NOISE, gap).astype(np.float32)
                    file.write(np.concatenate([speech, noise]))
                    written += len(speech) + gap
    return placed


def trimmed(samples: FloatArray, sample_rate: int, margin_s: float = 0.03) -> FloatArray:
    """An utterance without the silence at its ends: below a third of the way from floor to peak."""
    hop = sample_rate // 100
    frames = len(samples) // hop
    if frames < 4:
        return samples
    power = np.var(samples[: frames * hop].reshape(frames, hop), axis=1, dtype=np.float64)
    level = 10 * np.log10(np.convolve(power, np.ones(3) / 3, mode="same") + 1e-10)
    floor, peak = np.percentile(level, [5, 95])
    loud = np.flatnonzero(level > floor + 0.3 * (peak - floor))
    if len(loud) == 0:
        return samples
    margin = round(margin_s * sample_rate)
    return samples[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]


def spell(text: str, tokens: Sequence[str]) -> tuple[int, ...]:
    """The fewest tokens of a vocabulary that spell a text; empty where none do."""
    written = SPACE + text.replace(" ", SPACE)
    ids = {token: index for index, token in enumerate(tokens) if not token.startswith("<")}
    longest = max(map(len, ids))
    best: list[tuple[int, ...] | None] = [()] + [None] * len(written)
    for end in range(1, len(written) + 1):
        for start in range(max(0, end - longest), end):
            before, token = best[start], ids.get(written[start:end])
            if before is None or token is None:
                continue
            reached = best[end]
            if reached is None or len(before) + 1 < len(reached):
                best[end] = (*before, token)
    return best[-1] or ()


@dataclass
class AtSeams:
    """What was counted near seams: reference words, those lost, words added, and of these those
    that repeat a neighbour."""

    words: int = 0
    lost: int = 0
    added: int = 0
    doubled: int = 0


def seams_of(transcript: Transcript) -> tuple[list[float], list[float]]:
    """Seconds of the cuts in short pauses, where pieces adjoin, and of the seams of windows."""
    cuts, seams = [], []
    for earlier, later in zip(transcript.segments, transcript.segments[1:], strict=False):
        if later.heard[0] < earlier.heard[1]:
            seams.append(earlier.end)
        elif later.heard[0] == earlier.heard[1]:
            cuts.append(earlier.end)
    return cuts, seams


def count_at(
    times: Sequence[float],
    reference: Sequence[SpokenWord],
    hypothesis: Sequence[SpokenWord],
) -> AtSeams:
    """What became of the words near some times.

    Args:
        times: in seconds, sorted.
        reference: the words that were said, in order.
        hypothesis: the words that were recognised, in order.
    """
    found = AtSeams()
    said = heard = 0
    spelled = [[word.text for word in words] for words in (reference, hypothesis)]
    [alignment] = align_words([" ".join(spelled[0])], [" ".join(spelled[1])])
    for chunk in alignment.chunks:
        for index in range(len(chunk.reference)):
            if _near(times, reference[said + index].at):
                found.words += 1
                found.lost += chunk.kind == "delete"
        if chunk.kind == "insert":
            for index in range(heard, heard + len(chunk.hypothesis)):
                if _near(times, hypothesis[index].at):
                    found.added += 1
                    beside = spelled[1][max(0, index - 1) : index] + spelled[1][index + 1 :][:1]
                    found.doubled += spelled[1][index] in beside
        said += len(chunk.reference)
        heard += len(chunk.hypothesis)
    return found


def errors_by_kind(
    placed: Sequence[Placed], hypothesis: Sequence[SpokenWord], sample_rate: int
) -> dict[str, ErrorCounts]:
    """Word errors of each kind of stretch; a word belongs to the stretch that its middle is in."""
    counts: dict[str, list[ErrorCounts]] = {}
    stretches = list(_stretches(placed))
    bounds = [stretch[0].start / sample_rate for stretch in stretches[1:]]
    spoken: list[list[str]] = [[] for _ in stretches]
    for word in hypothesis:
        spoken[bisect_left(bounds, word.at)].append(word.text)
    for stretch, words in zip(stretches, spoken, strict=True):
        [alignment] = align_words([" ".join(p.text for p in stretch)], [" ".join(words)])
        counts.setdefault(stretch[0].kind, []).append(alignment.counts)
    return {kind: total(parts) for kind, parts in counts.items()}


def _stretches(placed: Iterable[Placed]) -> Iterator[list[Placed]]:
    stretch: list[Placed] = []
    for utterance in placed:
        if stretch and utterance.kind != stretch[-1].kind:
            yield stretch
            stretch = []
        stretch.append(utterance)
    yield stretch


def _near(times: Sequence[float], at: float) -> bool:
    position = bisect_left(times, at - NEAR_SECONDS)
    return position < len(times) and times[position] <= at + NEAR_SECONDS
