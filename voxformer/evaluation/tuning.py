"""Search options chosen on a development set, on one encoder pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxformer.audio.io import read_audio
from voxformer.data import Utterance
from voxformer.evaluation.models import OpenModel
from voxformer.evaluation.wer import align_words, total
from voxformer.runtime import DecodingOptions, Encoded, Mode, decode, encode, pad_batch
from voxformer.runtime.recognise import batches_by_duration
from voxformer.text import normalise

Axis = tuple[str, tuple[float, ...]]
"""An option and the values that it may take."""


@dataclass(frozen=True)
class Tuned:
    """What a search over options found.

    Attributes:
        options: the best.
        wer: theirs, a fraction.
        trail: every point that was tried, in order: its changes and its WER.
    """

    options: DecodingOptions
    wer: float
    trail: tuple[tuple[dict[str, Any], float], ...]


class Scorer:
    """WER of a mode under other options, with what the encoder says computed once.

    Args:
        model: a bundle or a checkpoint.
        utterances: of the development set.
        batch_size: utterances in a batch, at most.
    """

    def __init__(
        self, model: OpenModel, utterances: Sequence[Utterance], batch_size: int = 16
    ) -> None:
        self.model = model
        order = batches_by_duration([u.duration for u in utterances], batch_size, 240.0)
        self.references = [normalise(utterances[i].text) for batch in order for i in batch]
        self._encoded = list(self._encode([[utterances[i] for i in batch] for batch in order]))

    def wer(self, mode: Mode, options: DecodingOptions) -> float:
        """Word error rate, a fraction."""
        texts = [
            normalise(n_best[0].text)
            for batch, seconds in self._encoded
            for n_best in decode(
                self.model.engine, batch, seconds, mode, options, self.model.vocabulary
            )
        ]
        return total([a.counts for a in align_words(self.references, texts)]).wer

    def _encode(
        self, batches: Sequence[Sequence[Utterance]]
    ) -> Iterator[tuple[Encoded, list[float]]]:
        rate = self.model.engine.sample_rate
        for batch in batches:
            waveforms, lengths = pad_batch([read_audio(u.audio_path, rate) for u in batch])
            yield encode(self.model.engine, waveforms, lengths), (lengths / rate).tolist()


def tune(
    wer: Callable[[DecodingOptions], float],
    start: DecodingOptions,
    axes: Sequence[Axis],
    rounds: int = 2,
) -> Tuned:
    """Coordinate search: along one option after the other, until a round changes nothing.

    Args:
        wer: of options; each point is asked for once.
        start: where it begins; kept where nothing is better.
        axes: options and their values, in the order in which they are tried.
        rounds: passes over all axes, at most.
    """
    known: dict[tuple[float, ...], float] = {}
    trail: list[tuple[dict[str, Any], float]] = []

    def score(options: DecodingOptions) -> float:
        key = tuple(float(getattr(options, name)) for name, _ in axes)
        if key not in known:
            known[key] = wer(options)
            trail.append(({name: getattr(options, name) for name, _ in axes}, known[key]))
        return known[key]

    best, least = start, score(start)
    for _ in range(rounds):
        before = best
        for name, values in axes:
            for value in values:
                changes: dict[str, Any] = {name: value}
                tried = replace(best, **changes)
                found = score(tried)
                if found < least:
                    best, least = tried, found
        if best == before:
            break
    return Tuned(best, least, tuple(trail))


def grid(
    wer: Callable[[DecodingOptions], float], start: DecodingOptions, axes: Sequence[Axis]
) -> Tuned:
    """The best of all combinations of the options' values; the earliest of equals."""
    names = [name for name, _ in axes]
    trail: list[tuple[dict[str, Any], float]] = []
    best: tuple[float, DecodingOptions] | None = None
    for values in itertools.product(*(values for _, values in axes)):
        changes: dict[str, Any] = dict(zip(names, values, strict=True))
        options = replace(start, **changes)
        found = wer(options)
        trail.append((changes, found))
        if best is None or found < best[0]:
            best = found, options
    assert best is not None
    return Tuned(best[1], best[0], tuple(trail))
