"""One pass over a set of speech, with the clock on: what is recognised, how long, and where.

Shares of the time come from passes that do one thing after the other; `pipelined` passes have
several batches at work at once, as `Recognizer` does.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from voxformer.evaluation.models import OpenModel
from voxformer.evaluation.wer import align_words, confidence_interval, total
from voxformer.runtime import DecodingOptions, Encoded, Mode, decode, encode, pad_batch
from voxformer.runtime.engine import EngineError, FloatArray
from voxformer.runtime.pipeline import pipelined
from voxformer.runtime.recognise import NBest, batches_by_duration
from voxformer.runtime.recognizer import MOST_PADDING, MOST_PIECES
from voxformer.text import normalise

PARTS = ("encoder", "search", "rescoring", "other")
"""Front end, encoder, transfers; CTC or attention search; the rest of rescoring; padding, text."""

TIMED = (
    "padding, front end, encoder, transfers, search and text are inside the clock; reading and "
    "resampling the recordings and loading the model are not"
)

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Speech:
    """Recordings in memory, with what was said.

    Attributes:
        waveforms: float32 [samples] each.
        references: normalised.
        sample_rate: of all.
    """

    waveforms: Sequence[FloatArray]
    references: Sequence[str]
    sample_rate: int

    @property
    def durations(self) -> list[float]:
        """Seconds of each recording."""
        return [len(waveform) / self.sample_rate for waveform in self.waveforms]


@dataclass
class Pass:
    """What one pass over the speech gave.

    Attributes:
        seconds: from the first batch to the last text, by the clock.
        parts: seconds by `PARTS`; empty where several things were done at once.
        texts: by recording, normalised outside the clock.
        latencies: seconds of each batch; of each utterance where batches hold one.
    """

    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)


class Runner(Protocol):
    """What is measured: a model in one mode, or somebody else's recogniser."""

    @property
    def facts(self) -> dict[str, Any]:
        """Engine, precision, batch size, mode: what a row of the table is called."""
        ...

    @property
    def most_rounds(self) -> int | None:
        """Rounds after which it is left out, where passes are long; None for none."""
        ...

    def warm_up(self, speech: Speech, batches: int) -> None:
        """Recognise some of the speech, from the longest to the shortest."""
        ...

    def run(self, speech: Speech, overlap: bool) -> Pass | None:
        """One pass; None where there is nothing to overlap."""
        ...


@dataclass(frozen=True)
class ModelRunner:
    """A model of ours.

    Attributes:
        model: opened.
        precision: of its weights.
        mode: of decoding.
        options: of the searches.
        batch_size: utterances in a batch; None for as many as `Recognizer` takes.
    """

    model: OpenModel
    precision: str
    mode: Mode
    options: DecodingOptions
    batch_size: int | None

    @property
    def facts(self) -> dict[str, Any]:
        """See `Runner.facts`."""
        engine = self.model.engine
        return {
            "engine": engine.name,
            "threads": engine.threads,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "mode": self.mode,
        }

    @property
    def most_rounds(self) -> None:
        """See `Runner.most_rounds`."""
        return None

    def warm_up(self, speech: Speech, batches: int) -> None:
        """See `Runner.warm_up`."""
        planned = self._batches(speech)
        last = len(planned) - 1
        chosen = {round(i * last / max(batches - 1, 1)) for i in range(batches)}
        for number in sorted(chosen):
            self._search(planned[number], self._encode(speech, planned[number], {}), speech, {})

    def run(self, speech: Speech, overlap: bool) -> Pass:
        """See `Runner.run`."""
        planned = self._batches(speech)
        found = Pass(parts={} if overlap else dict.fromkeys(PARTS, 0.0))
        heard: dict[int, str] = {}
        started = time.perf_counter()
        if overlap:
            for texts in pipelined(
                planned,
                lambda batch: self._encode(speech, batch, {}),
                lambda batch, encoded: self._search(batch, encoded, speech, {}),
                self.model.engine.lanes,
            ):
                heard.update(texts)
        else:
            for batch in planned:
                begun = time.perf_counter()
                encoded = self._encode(speech, batch, found.parts)
                heard.update(self._search(batch, encoded, speech, found.parts))
                found.latencies.append(time.perf_counter() - begun)
        found.seconds = time.perf_counter() - started
        if not overlap:
            found.parts["other"] = found.seconds - sum(found.parts.values())
        found.texts = {index: normalise(text) for index, text in heard.items()}
        return found

    def _batches(self, speech: Speech) -> list[list[int]]:
        if self.batch_size is not None:
            return batches_by_duration(speech.durations, self.batch_size)
        seconds = self.model.engine.batch_seconds
        return batches_by_duration(speech.durations, MOST_PIECES, seconds, MOST_PADDING)

    def _encode(self, speech: Speech, batch: list[int], parts: dict[str, float]) -> Encoded:
        padded, lengths = pad_batch([speech.waveforms[i] for i in batch])
        return _timed(parts, "encoder", lambda: encode(self.model.engine, padded, lengths))

    def _search(
        self, batch: list[int], encoded: Encoded, speech: Speech, parts: dict[str, float]
    ) -> dict[int, str]:
        durations = [len(speech.waveforms[i]) / speech.sample_rate for i in batch]
        vocabulary = self.model.vocabulary
        first: NBest | None = None

        def searched(mode: Mode) -> NBest:
            return decode(
                self.model.engine, encoded, durations, mode, self.options, vocabulary, first
            )

        if self.mode == "rescoring":
            first = _timed(parts, "search", lambda: searched("ctc_beam"))
            n_best = _timed(parts, "rescoring", lambda: searched("rescoring"))
        else:
            n_best = _timed(parts, "search", lambda: searched(self.mode))
        return {index: hypotheses[0].text for index, hypotheses in zip(batch, n_best, strict=True)}


class PocketsphinxRunner:
    """CMU's recogniser of before neural networks, whose weights are in its package."""

    def __init__(self) -> None:
        try:
            pocketsphinx: Any = importlib.import_module("pocketsphinx")
        except ModuleNotFoundError:
            raise EngineError("--engine pocketsphinx: pip install pocketsphinx") from None
        self._decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")

    @property
    def facts(self) -> dict[str, Any]:
        """See `Runner.facts`."""
        return {
            "engine": "pocketsphinx",
            "threads": 1,
            "precision": "its own",
            "batch_size": 1,
            "mode": "its own",
        }

    @property
    def most_rounds(self) -> int:
        """One: it takes minutes where others take seconds."""
        return 1

    def warm_up(self, speech: Speech, batches: int) -> None:
        """See `Runner.warm_up`."""
        for waveform in speech.waveforms[:batches]:
            self._recognise(waveform)

    def run(self, speech: Speech, overlap: bool) -> Pass | None:
        """See `Runner.run`; nothing overlaps here."""
        if overlap:
            return None
        found = Pass()
        heard = []
        started = time.perf_counter()
        for waveform in speech.waveforms:
            begun = time.perf_counter()
            heard.append(self._recognise(waveform))
            found.latencies.append(time.perf_counter() - begun)
        found.seconds = time.perf_counter() - started
        found.texts = {index: normalise(text) for index, text in enumerate(heard)}
        return found

    def _recognise(self, waveform: FloatArray) -> str:
        decoder = self._decoder
        decoder.start_utt()
        decoder.process_raw((waveform * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return "" if hypothesis is None else str(hypothesis.hypstr)


def summary(
    facts: dict[str, Any], passes: Sequence[Pass], pipelined_passes: Sequence[Pass], speech: Speech
) -> dict[str, Any]:
    """A row of the results, from the passes of all rounds.

    The WER is that of the pass whose time is the median, so that both are of the same pass.
    """
    audio = sum(speech.durations)
    middle = sorted(passes, key=lambda found: found.seconds)[(len(passes) - 1) // 2]
    words = [
        alignment.counts
        for alignment in align_words(
            list(speech.references), [middle.texts[i] for i in range(len(speech.references))]
        )
    ]
    counts = total(words)
    row: dict[str, Any] = {
        **facts,
        "wer": counts.wer,
        "wer_interval_95": list(confidence_interval(words)),
        "words": counts.to_json(),
        "seconds": middle.seconds,
        "rtf": middle.seconds / audio,
        "rtfx": audio / middle.seconds,
        "rtfx_rounds": [audio / found.seconds for found in passes],
        "shares": {part: spent / middle.seconds for part, spent in middle.parts.items()},
        "texts_equal_in_all_passes": all(
            found.texts == middle.texts for found in (*passes, *pipelined_passes)
        ),
    }
    if pipelined_passes:
        rates = [audio / found.seconds for found in pipelined_passes]
        row |= {"rtfx_pipelined": float(np.median(rates)), "rtfx_pipelined_rounds": rates}
    if facts["batch_size"] == 1:
        values = np.percentile(middle.latencies, PERCENTILES).tolist()
        row["latency_s"] = dict(zip((f"p{p}" for p in PERCENTILES), values, strict=True))
    return row


def measure(
    runners: Sequence[Runner],
    speech: Speech,
    rounds: int,
    warm_up: int,
    overlap: bool,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Rounds that are interleaved, each begun with another runner; then a row for each.

    Args:
        runners: what is measured.
        speech: what is recognised.
        rounds: passes of each runner, and as many pipelined ones, but for its `most_rounds`.
        warm_up: batches before the clock.
        overlap: whether there are pipelined passes.
        say: called with a line for each round.
    """
    for runner in runners:
        runner.warm_up(speech, warm_up)
    plain: list[list[Pass]] = [[] for _ in runners]
    overlapped: list[list[Pass]] = [[] for _ in runners]
    for number in range(rounds):
        for offset in range(len(runners)):
            index = (number + offset) % len(runners)
            most = runners[index].most_rounds
            if most is not None and number >= most:
                continue
            for several, kept in ((False, plain), (True, overlapped)):
                if several and not overlap:
                    continue
                found = runners[index].run(speech, several)
                if found is not None:
                    kept[index].append(found)
        say(f"round {number + 1} of {rounds}")
    for index, runner in enumerate(runners):
        yield summary(runner.facts, plain[index], overlapped[index], speech)


def _timed(parts: dict[str, float], part: str, call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = call()
    parts[part] = parts.get(part, 0.0) + time.perf_counter() - started
    return result
