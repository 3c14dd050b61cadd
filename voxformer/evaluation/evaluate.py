"""A manifest through an engine in several decoding modes: one encoder pass, one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from voxformer.audio import AudioError, read_audio
from voxformer.data import DataError, Utterance
from voxformer.evaluation.repeats import Repeat, most_repeated
from voxformer.evaluation.wer import (
    Alignment,
    ErrorCounts,
    align_words,
    band,
    character_errors,
    confidence_interval,
    oracle_errors,
    total,
)
from voxformer.runtime.engine import Encoded, Engine, FloatArray
from voxformer.runtime.options import DecodingOptions, Mode, Vocabulary
from voxformer.runtime.recognise import (
    NBest,
    batches_by_duration,
    decode,
    encode,
    pad_batch,
)
from voxformer.text import normalise

Progress = Callable[[int, int], None]

TIMED = "padding, front end, encoder, search and text; reading the recordings is left out"


@dataclass(frozen=True)
class UtteranceResult:
    """One utterance in one mode; texts are normalised."""

    id: str
    reference: str
    hypothesis: str
    words: Alignment
    characters: ErrorCounts
    capped: bool
    """The length cap ended the hypothesis, not the model."""
    reordered: bool
    """Rescoring put another hypothesis on top than the CTC search had."""
    oracle: ErrorCounts
    """The best of the n-best, by word errors."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            **self.words.counts.to_json(),
            "capped": self.capped,
        }


@dataclass(frozen=True)
class ModeResult:
    """A decoding mode over the whole manifest."""

    mode: Mode
    utterances: tuple[UtteranceResult, ...]
    """In the order of the manifest."""
    words: ErrorCounts
    characters: ErrorCounts
    interval: tuple[float, float]
    """95 % bootstrap interval of `wer`, fractions."""
    repeated: Repeat | None
    """The words that one hypothesis says over and over, if any does."""
    oracle: ErrorCounts
    seconds: float
    """Wall-clock seconds of what `TIMED` names; shared parts count in each mode that needs them."""
    audio_seconds: float

    @property
    def wer(self) -> float:
        """Word error rate, a fraction."""
        return self.words.wer

    @property
    def cer(self) -> float:
        """Character error rate, a fraction."""
        return self.characters.wer

    @property
    def band(self) -> str:
        """The label of `wer`; see `wer.band`."""
        return band(self.wer)

    @property
    def capped(self) -> int:
        """Hypotheses that the length cap ended."""
        return sum(row.capped for row in self.utterances)

    @property
    def reordered(self) -> int:
        """Utterances whose best hypothesis rescoring changed."""
        return sum(row.reordered for row in self.utterances)

    @property
    def rtf(self) -> float:
        """Real-time factor: time over audio, pooled."""
        return self.seconds / self.audio_seconds

    def to_json(self, utterances: bool = True) -> dict[str, Any]:
        """Plain values; rates are fractions with their counts beside them."""
        values: dict[str, Any] = {
            "wer": self.wer,
            "wer_interval_95": list(self.interval),
            "band": self.band,
            "words": self.words.to_json(),
            "cer": self.cer,
            "characters": self.characters.to_json(),
            "capped": self.capped,
            "capped_share": self.capped / len(self.utterances),
            "most_repeated": self.repeated.to_json() if self.repeated else None,
            "oracle_wer": self.oracle.wer,
            "oracle_words": self.oracle.to_json(),
            "rtf": self.rtf,
            "rtfx": 1.0 / self.rtf,
        }
        if self.mode == "rescoring":
            values["reordered"] = self.reordered
        if utterances:
            values["utterances"] = [row.to_json() for row in self.utterances]
        return values


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    engine: str
    threads: int
    modes: dict[Mode, ModeResult]
    audio_seconds: float
    skipped: tuple[tuple[str, str], ...] = ()
    """(utterance id, reason) of recordings that could not be read; they are in no figure."""

    def to_json(self, utterances: bool = True) -> dict[str, Any]:
        """Plain values, as `--json` writes them."""
        first = next(iter(self.modes.values()))
        return {
            "engine": self.engine,
            "threads": self.threads,
            "utterances": len(first.utterances),
            "audio_seconds": self.audio_seconds,
            "timed": TIMED,
            "skipped": [{"id": name, "reason": reason} for name, reason in self.skipped],
            "modes": {mode: result.to_json(utterances) for mode, result in self.modes.items()},
        }


@dataclass
class _Heard:
    """What came out for one mode so far, by position in the manifest."""

    n_best: dict[int, list[Any]] = field(default_factory=dict)
    reordered: set[int] = field(default_factory=set)
    seconds: float = 0.0


def evaluate(
    engine: Engine,
    vocabulary: Vocabulary,
    utterances: Sequence[Utterance],
    modes: Sequence[Mode],
    options: DecodingOptions,
    batch_size: int = 16,
    batch_seconds: float | None = None,
    max_bad_fraction: float = 0.01,
    progress: Progress | None = None,
    warm_up: int = 0,
) -> Evaluation:
    """Recognise every utterance in every mode and score it.

    References and hypotheses are normalised alike (`voxformer.text.normalise`) before they are
    compared.

    Args:
        engine: runs the model.
        vocabulary: of the model.
        utterances: from `read_manifest`; those without text count their words as insertions.
        modes: decoding modes; all share the encoder pass, `rescoring` also `ctc_beam`'s search.
        options: of the searches.
        batch_size: utterances in a batch, at most.
        batch_seconds: seconds of a batch, padding counted, at most; default: what suits the engine.
        max_bad_fraction: a larger share of unreadable recordings is an error.
        progress: called after each batch with utterances done and all utterances.
        warm_up: batches to recognise beforehand, outside every figure, from the longest to the
            shortest: what a library does once for a shape is then not in the time.

    Raises:
        DataError: no utterance, no reference word, or too many unreadable recordings.
        ValueError: an unknown mode.
    """
    if not utterances:
        raise DataError("there are no utterances to evaluate")
    heard: dict[Mode, _Heard] = {mode: _Heard() for mode in modes}
    durations: dict[int, float] = {}
    skipped: list[tuple[str, str]] = []
    done = 0
    seconds = engine.batch_seconds if batch_seconds is None else batch_seconds
    batches = batches_by_duration([u.duration for u in utterances], batch_size, seconds)
    for batch in _spread(batches, warm_up):
        kept, waveforms = _read(batch, utterances, engine.sample_rate, [])
        if kept:
            unrecorded: dict[Mode, _Heard] = {mode: _Heard() for mode in modes}
            _recognise(engine, vocabulary, kept, waveforms, options, unrecorded)
    for batch in batches:
        kept, waveforms = _read(batch, utterances, engine.sample_rate, skipped)
        _check_skipped(skipped, len(utterances), max_bad_fraction)
        if kept:
            durations.update(
                (index, len(waveform) / engine.sample_rate)
                for index, waveform in zip(kept, waveforms, strict=True)
            )
            _recognise(engine, vocabulary, kept, waveforms, options, heard)
        done += len(batch)
        if progress is not None:
            progress(done, len(utterances))
    audio_seconds = sum(durations.values())
    references = {index: normalise(utterances[index].text) for index in sorted(durations)}
    if not any(references.values()):
        raise DataError("the references hold no word: WER is not defined")
    return Evaluation(
        engine=engine.name,
        threads=engine.threads,
        modes={
            mode: _score(mode, result, utterances, references, audio_seconds)
            for mode, result in heard.items()
        },
        audio_seconds=audio_seconds,
        skipped=tuple(skipped),
    )


def _spread(batches: Sequence[list[int]], count: int) -> list[list[int]]:
    """Up to `count` batches at even quantiles of duration, the first and the last among them."""
    count = min(count, len(batches))
    if count < 2:
        return list(batches[:count])
    return [batches[i * (len(batches) - 1) // (count - 1)] for i in range(count)]


def _read(
    batch: Sequence[int],
    utterances: Sequence[Utterance],
    sample_rate: int,
    skipped: list[tuple[str, str]],
) -> tuple[list[int], list[FloatArray]]:
    kept: list[int] = []
    waveforms: list[FloatArray] = []
    for index in batch:
        try:
            waveforms.append(read_audio(utterances[index].audio_path, sample_rate))
            kept.append(index)
        except AudioError as error:
            skipped.append((utterances[index].id, str(error)))
    return kept, waveforms


def _check_skipped(skipped: Sequence[tuple[str, str]], count: int, limit: float) -> None:
    if len(skipped) > limit * count:
        name, reason = skipped[0]
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise DataError(
            f"{len(skipped)} of {count} recordings cannot be read, at most {limit:.0%} may be "
            f"skipped: {name}: {reason}{more}"
        )


def _recognise(
    engine: Engine,
    vocabulary: Vocabulary,
    indices: Sequence[int],
    waveforms: Sequence[FloatArray],
    options: DecodingOptions,
    heard: dict[Mode, _Heard],
) -> None:
    """One batch in every mode; adds to `heard`."""
    started = time.perf_counter()
    padded, lengths = pad_batch(waveforms)
    durations = (lengths / engine.sample_rate).tolist()
    encoded: Encoded = encode(engine, padded, lengths)
    encoder_seconds = time.perf_counter() - started

    def timed(mode: Mode, first_pass: NBest | None = None) -> tuple[NBest, float]:
        started = time.perf_counter()
        n_best = decode(engine, encoded, durations, mode, options, vocabulary, first_pass)
        return n_best, time.perf_counter() - started

    first_pass: NBest | None = None
    first_seconds = 0.0
    if "ctc_beam" in heard or "rescoring" in heard:
        first_pass, first_seconds = timed("ctc_beam")
    for mode, result in heard.items():
        if mode == "ctc_beam" and first_pass is not None:
            n_best, seconds = first_pass, first_seconds
        elif mode == "rescoring" and first_pass is not None:
            n_best, seconds = timed(mode, first_pass)
            seconds += first_seconds
            for index, before, after in zip(indices, first_pass, n_best, strict=True):
                if before[0].token_ids != after[0].token_ids:
                    result.reordered.add(index)
        else:
            n_best, seconds = timed(mode)
        result.seconds += encoder_seconds + seconds
        result.n_best.update(zip(indices, n_best, strict=True))


def _score(
    mode: Mode,
    heard: _Heard,
    utterances: Sequence[Utterance],
    references: dict[int, str],
    audio_seconds: float,
) -> ModeResult:
    order = list(references)
    texts = {index: [normalise(h.text) for h in heard.n_best[index]] for index in order}
    expected = list(references.values())
    best = [texts[index][0] for index in order]
    words = align_words(expected, best)
    characters = character_errors(expected, best)
    rows = tuple(
        UtteranceResult(
            id=utterances[index].id,
            reference=references[index],
            hypothesis=texts[index][0],
            words=words[position],
            characters=characters[position],
            capped=heard.n_best[index][0].truncated,
            reordered=index in heard.reordered,
            oracle=oracle_errors(references[index], texts[index]),
        )
        for position, index in enumerate(order)
    )
    counts = [row.words.counts for row in rows]
    return ModeResult(
        mode=mode,
        utterances=rows,
        words=total(counts),
        characters=total(characters),
        interval=confidence_interval(counts),
        repeated=most_repeated([(row.id, row.hypothesis) for row in rows]),
        oracle=total([row.oracle for row in rows]),
        seconds=heard.seconds,
        audio_seconds=audio_seconds,
    )
