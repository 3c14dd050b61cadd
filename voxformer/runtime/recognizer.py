"""`Recognizer`: recordings in, transcripts out. All that a deployer needs to know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from voxformer.audio import AudioError
from voxformer.decoding import Hypothesis, ctc_align
from voxformer.runtime.bundle import read_bundle
from voxformer.runtime.engine import Encoded, Engine, EngineError, FloatArray, TopTokens
from voxformer.runtime.options import (
    MODES,
    DecodingOptions,
    Mode,
    ModeError,
    Vocabulary,
    check_mode,
    default_mode,
)
from voxformer.runtime.pipeline import pipelined
from voxformer.runtime.pools import Pool, Recording, pools
from voxformer.runtime.recognise import batches_by_duration, decode, encode, pad_batch
from voxformer.runtime.seams import Window, join
from voxformer.runtime.segments import DEFAULT_CUTTING, Cutting, Piece, cutting_for
from voxformer.runtime.transcript import Transcript, transcript_of, words_of

ENGINES = ("onnxruntime", "tensorrt")

MOST_PIECES = 16
"""In a batch."""
POOLED_BATCHES = 4
"""Batches that are read ahead, so that pieces of like durations are found for each."""
POOLED_SECONDS = 240.0
"""At least, of audio: 15 MB."""
MOST_PADDING = 0.25
"""Of a batch, for what is encoded of padding is thrown away; batches of fewer pieces cost less."""


class Recognizer:
    """Transcribes recordings.

    Args:
        engine: runs the model.
        vocabulary: of the model.
        options: of the searches.
        modes: decoding modes whose parts are trained.
        cutting: how long recordings are cut.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        options: DecodingOptions,
        modes: Sequence[Mode] = MODES,
        cutting: Cutting = DEFAULT_CUTTING,
    ) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.options = options
        self.modes = tuple(modes)
        self.cutting = cutting

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        engine: str = "onnxruntime",
        provider: str = "cpu",
        threads: int = 0,
        **options: Any,
    ) -> Recognizer:
        """Load a bundle.

        Args:
            path: the bundle's directory.
            engine: `onnxruntime`, or `tensorrt` for the engines that `export --trt` built.
            provider: of ONNX Runtime: `cpu`, `cuda`, or the full name of an execution provider.
            threads: CPU threads for arithmetic and searches; 0 takes all cores.
            options: replace defaults of the bundle; see `DecodingOptions`. With `language_model`
                the bundle's own goes, and the weights that belong to it.

        Raises:
            BundleError: not a bundle, or a damaged one.
            EngineError: the engine or the provider is not there; nothing falls back in silence.
            SearchSetupError: an option is of another type or out of its range.
        """
        if engine not in ENGINES:
            raise EngineError(f"no engine {engine!r}; there is {', '.join(ENGINES)}")
        bundle = read_bundle(Path(path))
        decoding = bundle.decoding.changed(num_threads=threads, **options)
        opened: Engine
        if engine == "tensorrt":
            from voxformer.runtime.trt_engine import TrtEngine

            opened = TrtEngine.from_bundle(bundle)
        else:
            from voxformer.runtime.onnx_engine import OnnxEngine

            opened = OnnxEngine.from_bundle(bundle, provider, threads)
        cutting = cutting_for(bundle.longest_seconds)
        return cls(opened, bundle.vocabulary, decoding, bundle.modes, cutting)

    def transcribe(
        self,
        recordings: Sequence[Recording],
        mode: Mode | None = None,
        batch_size: int = MOST_PIECES,
        batch_seconds: float | None = None,
    ) -> list[Transcript]:
        """Transcribe recordings, batched by duration; the results are in the order given.

        A recording longer than `cutting.max_seconds`, which are at most 30 and no more than the
        model was trained on, is cut in its pauses; where it has none, pieces overlap, and `seams`
        joins their words. Files are read as they are recognised, and may be of any length.

        Args:
            recordings: paths of audio files, or float32 [samples] in [-1, 1], mono, at the model's
                sample rate.
            mode: `ctc_greedy`, `ctc_beam`, `attention` or `rescoring`; default: the last where the
                attention decoder is trained, else `ctc_beam`.
            batch_size: pieces in a batch, at most.
            batch_seconds: seconds of a batch, padding counted, at most; default: what suits the
                engine.

        Raises:
            AudioError: a file is missing, unreadable or damaged.
            ModeError: an unknown mode, or one that the model was not trained for.
            ValueError: an array is not float [samples], or not finite.
        """
        transcripts = []
        for result in self.transcribe_each(recordings, mode, batch_size, batch_seconds):
            if isinstance(result, AudioError):
                raise result
            transcripts.append(result)
        return transcripts

    def transcribe_each(
        self,
        recordings: Iterable[Recording],
        mode: Mode | None = None,
        batch_size: int = MOST_PIECES,
        batch_seconds: float | None = None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Transcript | AudioError]:
        """`transcribe` for lists of any length: gives each result as soon as it is there.

        Args:
            recordings: as for `transcribe`, or functions that give the blocks of a recording,
                float32 [samples] each; they are read as results are asked for.
            mode: see `transcribe`.
            batch_size: see `transcribe`.
            batch_seconds: see `transcribe`; four times as much audio is held in memory, and at
                least `POOLED_SECONDS`.
            progress: called after each batch with the seconds of audio that were in it.

        Yields:
            In the order given, the transcript or what is wrong with the file.

        Raises:
            ModeError: see `transcribe`.
            ValueError: see `transcribe`.
        """
        mode = mode or default_mode(self.modes)
        check_mode(mode, self.modes)
        if isinstance(recordings, (str, os.PathLike, np.ndarray)):
            raise TypeError("transcribe takes a list of recordings: put the one in brackets")
        seconds = self.engine.batch_seconds if batch_seconds is None else batch_seconds
        return self._each(recordings, mode, batch_size, seconds, progress)

    def _each(
        self,
        recordings: Iterable[Recording],
        mode: Mode,
        batch_size: int,
        batch_seconds: float,
        progress: Callable[[float], None],
    ) -> Iterator[Transcript | AudioError]:
        windows: dict[int, list[Window]] = {}
        rate = self.engine.sample_rate

        def jobs() -> Iterator[_Job]:
            pooled = max(POOLED_BATCHES * batch_seconds, POOLED_SECONDS)
            for pool in pools(recordings, rate, self.cutting, pooled):
                durations = [len(piece.samples) / rate for _, piece in pool.pieces]
                batches = batches_by_duration(durations, batch_size, batch_seconds, MOST_PADDING)
                for batch in batches:
                    yield _Job(pool, batch, [durations[i] for i in batch])
                yield _Job(pool, [], [])

        def encoded(job: _Job) -> Encoded | None:
            waveforms = [job.pool.pieces[i][1].samples for i in job.batch]
            return self._encoded(waveforms, mode) if job.batch else None

        def searched(job: _Job, encoded: Encoded | None) -> tuple[_Job, list[list[Hypothesis]]]:
            return job, [] if encoded is None else self._searched(encoded, job.seconds, mode)

        found: dict[int, list[Hypothesis]] = {}
        for job, n_best in pipelined(jobs(), encoded, searched, self.engine.lanes):
            if job.batch:
                found.update(zip(job.batch, n_best, strict=True))
                progress(sum(job.seconds))
                continue
            for i, (index, piece) in enumerate(job.pool.pieces):
                windows.setdefault(index, []).append(self._window(piece, found[i]))
            found.clear()
            for ended in job.pool.ended:
                heard = windows.pop(ended.recording, [])
                yield ended.error or transcript_of(join(heard, ended.seconds), ended.seconds)

    def _window(self, piece: Piece, hypotheses: list[Hypothesis]) -> Window:
        rate, shift = self.engine.sample_rate, self.engine.frame_shift_s
        words = words_of(hypotheses[0], self.vocabulary, shift, piece.start / rate)
        return Window(piece.start / rate, piece.end / rate, tuple(hypotheses), tuple(words))

    def _encoded(self, waveforms: Sequence[FloatArray], mode: Mode) -> Encoded:
        encoded = encode(self.engine, *pad_batch(waveforms))
        if mode == "attention" and isinstance(encoded.ctc, TopTokens):
            raise ModeError(
                "mode attention takes the times of its words from the whole CTC matrix, which "
                "this bundle does not give; use rescoring, or export without --ctc-topk"
            )
        return encoded

    def _searched(
        self, encoded: Encoded, durations: Sequence[float], mode: Mode
    ) -> list[list[Hypothesis]]:
        n_best = decode(self.engine, encoded, durations, mode, self.options, self.vocabulary)
        return [self._aligned(encoded, row, n_best[row]) for row in range(len(n_best))]

    def _aligned(
        self, encoded: Encoded, row: int, hypotheses: list[Hypothesis]
    ) -> list[Hypothesis]:
        """The best hypothesis with its frames, which attention search does not give."""
        best = hypotheses[0]
        if best.token_ids and not best.timesteps:
            log_probs = encoded.log_probs[row, : encoded.lengths[row]]
            aligned = ctc_align(log_probs, best, self.vocabulary.blank_id)
            # Its confidences stay: they are the attention decoder's.
            best = replace(
                aligned, token_confidences=best.token_confidences, confidence=best.confidence
            )
        return [best, *hypotheses[1:]]


@dataclass(frozen=True)
class _Job:
    """A batch of a pool: indices of its pieces, and their seconds; a pool's last job has none."""

    pool: Pool
    batch: list[int]
    seconds: list[float]
