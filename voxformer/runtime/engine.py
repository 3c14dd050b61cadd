"""What an engine is: the three graphs of a model behind one protocol, whoever runs them.

An engine does arithmetic and nothing else. Searches, options and text are the same for all of them
(`recognise`), so that two engines that give the same numbers give the same transcripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxformer.runtime.options import ModeError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class EngineError(ValueError):
    """An engine that was asked for cannot run here; the message says what to install or choose."""


@dataclass(frozen=True)
class TopTokens:
    """The most probable tokens of every frame, which is all that `export --ctc-topk` leaves of CTC.

    Attributes:
        token_ids: int32 [batch, frames, k], most probable first; the blank may be among them.
        log_probs: float32 [batch, frames, k], their log-probs (natural logarithm).
        blank_log_probs: float32 [batch, frames].
    """

    token_ids: NDArray[np.int32]
    log_probs: FloatArray
    blank_log_probs: FloatArray


@dataclass(frozen=True)
class Encoded:
    """A batch after the encoder.

    Attributes:
        encoder_out: float [batch, frames, d_model], wherever the engine keeps its arrays.
        lengths: int64 [batch], valid encoder frames.
        ctc: CTC log-probs (natural logarithm), float32 [batch, frames, vocab_size + 1], or the best
            of every frame.
    """

    encoder_out: Any
    lengths: IntArray
    ctc: FloatArray | TopTokens

    @property
    def log_probs(self) -> FloatArray:
        """CTC log-probs of every token, float32 [batch, frames, vocab_size + 1].

        Raises:
            ModeError: the encoder gives the best tokens of a frame alone.
        """
        if isinstance(self.ctc, TopTokens):
            raise ModeError(
                "this needs the CTC log-probs of every token, and the encoder gives the best "
                f"{self.ctc.token_ids.shape[2]} of a frame; export it without --ctc-topk"
            )
        return self.ctc


class StepSession(Protocol):
    """The autoregressive decoder at work on one encoded batch; it holds the cache."""

    def step(self, utterances: IntArray, parents: IntArray, tokens: IntArray) -> FloatArray:
        """Feed one token to every row.

        Args:
            utterances: int64 [rows], the utterance of the batch that each row belongs to.
            parents: int64 [rows], the row of the previous call that each row continues; ignored in
                the first call.
            tokens: int64 [rows], the last token of each row; `<sos/eos>` in the first call.

        Returns:
            float32 [rows, vocab_size + 2], ln p of the next token.
        """
        ...


CPU_BATCH_SECONDS = 20.0
"""More leaves a core's caches, which takes up to 1.6 times as long (docs/results.md)."""

DEVICE_BATCH_SECONDS = 240.0
"""A device has room for more, and is not busy with less."""


class Engine(Protocol):
    """Runs a model. Lengths go in and come out everywhere; batch-mates never change a result."""

    @property
    def name(self) -> str:
        """Library and device, for reports: `torch (cpu)`, `onnxruntime (CPUExecutionProvider)`."""
        ...

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms."""
        ...

    @property
    def frame_shift_s(self) -> float:
        """Seconds between encoder frames."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that the arithmetic may use."""
        ...

    @property
    def lanes(self) -> int:
        """Threads that may call `encode`, and `score`, at once and gain by it; at least 1."""
        ...

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio, padding counted, that a batch had best hold."""
        ...

    def encode(self, waveforms: FloatArray, lengths: IntArray) -> Encoded:
        """Encode waveforms.

        Args:
            waveforms: float32 [batch, samples] in [-1, 1], at least 25 ms long.
            lengths: int64 [batch], valid samples.
        """
        ...

    def score(
        self, encoder_out: Any, lengths: IntArray, tokens: IntArray, token_lengths: IntArray
    ) -> FloatArray:
        """Attention log-probs of given hypotheses, for rescoring.

        Args:
            encoder_out: as `encode` returned it, [batch, frames, d_model].
            lengths: int64 [batch], valid frames.
            tokens: int64 [batch, n, length], padded with any valid id.
            token_lengths: int64 [batch, n].

        Returns:
            float32 [batch, n, length + 1]: ln p of each token, of `<sos/eos>` at index
            token_lengths, 0 beyond it.
        """
        ...

    def start(self, encoded: Encoded) -> StepSession:
        """A session for autoregressive search over an encoded batch."""
        ...
