"""`Recognizer`: recordings in, transcripts out. All that a deployer needs to know."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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
from voxformer.runtime.recognise import batches_by_duration, decode, encode, pad_batch
from voxformer.runtime.segments import cut_points
from voxformer.runtime.transcript import Segment, Transcript, Word, words_of

Recording = str | os.PathLike[str] | FloatArray

ENGINES = ("onnxruntime", "tensorrt")

MOST_PADDING = 0.25
"""Of a batch, for what is encoded of padding is thrown away; batches of fewer pieces cost less."""


class Recognizer:
    """Transcribes recordings.

    Args:
        engine: runs the model.
        vocabulary: of the model.
        options: of the searches.
        modes: decoding modes whose parts are trained.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        options: DecodingOptions,
        modes: Sequence[Mode] = MODES,
    ) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.options = options
        self.modes = tuple(modes)

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
            engine: `onnxruntime`, or `tensorrt`, which says whether the bundle's engines can run
                here, and cannot run them yet.
            provider: `cpu`, `cuda`, or the full name of an execution provider.
            threads: CPU threads for arithmetic and searches; 0 takes all cores.
            options: replace defaults of the bundle; see `DecodingOptions`.

        Raises:
            BundleError: not a bundle, or a damaged one.
            EngineError: the engine or the provider is not there; nothing falls back in silence.
        """
        if engine not in ENGINES:
            raise EngineError(f"no engine {engine!r}; there is {', '.join(ENGINES)}")
        from voxformer.runtime.onnx_engine import OnnxEngine

        bundle = read_bundle(Path(path))
        if engine == "tensorrt":
            from voxformer.runtime.trt_engine import find_engines

            found = find_engines(bundle)
            raise EngineError(f"{found}: running TensorRT engines is not in this version")
        decoding = replace(bundle.decoding, num_threads=threads, **options)
        opened = OnnxEngine.from_bundle(bundle, provider, threads)
        return cls(opened, bundle.vocabulary, decoding, bundle.modes)

    def transcribe(
        self,
        recordings: Sequence[Recording],
        mode: Mode | None = None,
        batch_size: int = 16,
        batch_seconds: float = 240.0,
    ) -> list[Transcript]:
        """Transcribe recordings, batched by duration; the results are in the order given.

        A recording longer than 30 s is cut at its quietest points into pieces of at most 30 s.

        Args:
            recordings: paths of audio files, or float32 [samples] in [-1, 1], mono, at the model's
                sample rate.
            mode: `ctc_greedy`, `ctc_beam`, `attention` or `rescoring`; default: the last where the
                attention decoder is trained, else `ctc_beam`.
            batch_size: pieces in a batch, at most.
            batch_seconds: seconds of a batch, padding counted, at most.

        Raises:
            AudioError: a file is missing, unreadable or damaged.
            ModeError: an unknown mode, or one that the model was not trained for.
            ValueError: an array is not float [samples], or not finite.
        """
        mode = mode or default_mode(self.modes)
        check_mode(mode, self.modes)
        if isinstance(recordings, (str, os.PathLike, np.ndarray)):
            raise TypeError("transcribe takes a list of recordings: put the one in brackets")
        waveforms = [self._read(index, recording) for index, recording in enumerate(recordings)]
        rate = self.engine.sample_rate
        pieces = [
            (index, start, end)
            for index, waveform in enumerate(waveforms)
            for start, end in cut_points(waveform, rate)
        ]
        durations = [(end - start) / rate for _, start, end in pieces]
        batches = batches_by_duration(durations, batch_size, batch_seconds, MOST_PADDING)

        def encoded(batch: list[int]) -> Encoded:
            cut = [waveforms[index][start:end] for index, start, end in (pieces[i] for i in batch)]
            return self._encoded(cut, mode)

        def searched(batch: list[int], encoded: Encoded) -> list[list[Hypothesis]]:
            return self._searched(encoded, [durations[i] for i in batch], mode)

        found: dict[int, list[Hypothesis]] = {}
        results = pipelined(batches, encoded, searched, self.engine.lanes)
        for batch, n_best in zip(batches, results, strict=True):
            found.update(zip(batch, n_best, strict=True))
        segments: list[list[Segment]] = [[] for _ in waveforms]
        for i, (index, start, end) in enumerate(pieces):
            segments[index].append(Segment(start / rate, end / rate, tuple(found[i])))
        return [
            self._transcript(waveform, parts)
            for waveform, parts in zip(waveforms, segments, strict=True)
        ]

    def _read(self, index: int, recording: Recording) -> FloatArray:
        if isinstance(recording, (str, os.PathLike)):
            from voxformer.audio import read_audio

            return read_audio(recording, self.engine.sample_rate)
        waveform = np.asarray(recording)
        if waveform.ndim != 1 or waveform.dtype.kind != "f":
            raise ValueError(
                f"recording {index}: {waveform.dtype} {list(waveform.shape)}; expected float "
                f"[samples] in [-1, 1], mono, at {self.engine.sample_rate} Hz"
            )
        if not np.isfinite(waveform).all():
            raise ValueError(f"recording {index}: holds NaN or infinite samples")
        return waveform.astype(np.float32, copy=False)

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

    def _transcript(self, waveform: FloatArray, segments: list[Segment]) -> Transcript:
        words: list[Word] = []
        for segment in segments:
            words += words_of(
                segment.hypotheses[0], self.vocabulary, self.engine.frame_shift_s, segment.start
            )
        return Transcript(
            text=" ".join(segment.text for segment in segments if segment.text),
            words=tuple(words),
            duration=len(waveform) / self.engine.sample_rate,
            segments=tuple(segments),
        )
