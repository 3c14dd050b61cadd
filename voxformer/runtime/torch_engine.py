"""PyTorch behind the engine protocol: evaluation during training, and the reference for exports."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from voxformer.model import FRAME_SHIFT_S, VoxFormer
from voxformer.runtime.engine import (
    CPU_BATCH_SECONDS,
    DEVICE_BATCH_SECONDS,
    Encoded,
    FloatArray,
    IntArray,
)


class TorchEngine:
    """Runs a `VoxFormer` module on the device that it is on, without gradients.

    Args:
        model: in eval mode; dropout would make every result a matter of chance.

    Raises:
        ValueError: the module is in training mode.
    """

    def __init__(self, model: VoxFormer) -> None:
        if model.training:
            raise ValueError("TorchEngine needs a model in eval mode: call model.eval() first")
        self.model = model
        self.device = next(model.parameters()).device
        self.name = f"torch ({self.device.type})"
        self.sample_rate = model.config.sample_rate
        self.frame_shift_s = FRAME_SHIFT_S
        self.lanes = 1  # torch has threads of its own for each that calls it
        on_cpu = self.device.type == "cpu"
        self.batch_seconds = CPU_BATCH_SECONDS if on_cpu else DEVICE_BATCH_SECONDS

    @property
    def threads(self) -> int:
        """CPU threads of torch's arithmetic."""
        return torch.get_num_threads()

    @torch.inference_mode()
    def encode(self, waveforms: FloatArray, lengths: IntArray) -> Encoded:
        """See `Engine.encode`; `encoder_out` stays on the device."""
        encoder_out, frames, log_probs = self.model.encode(
            self._to_device(waveforms), self._to_device(lengths)
        )
        return Encoded(encoder_out, frames.cpu().numpy(), log_probs.cpu().numpy())

    @torch.inference_mode()
    def score(
        self, encoder_out: Tensor, lengths: IntArray, tokens: IntArray, token_lengths: IntArray
    ) -> FloatArray:
        """See `Engine.score`."""
        scores = self.model.score(
            encoder_out,
            self._to_device(lengths),
            self._to_device(tokens),
            self._to_device(token_lengths),
        )
        return scores.cpu().numpy()

    def start(self, encoded: Encoded) -> TorchStepSession:
        """See `Engine.start`."""
        return TorchStepSession(self, encoded)

    def _to_device(self, array: FloatArray | IntArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


class TorchStepSession:
    """See `StepSession`."""

    def __init__(self, engine: TorchEngine, encoded: Encoded) -> None:
        self._engine = engine
        self._encoded = encoded
        self._utterances: IntArray | None = None
        self._rows_out: Tensor | None = None
        self._rows_lengths: Tensor | None = None
        self._cache: Tensor | None = None

    @torch.inference_mode()
    def step(self, utterances: IntArray, parents: IntArray, tokens: IntArray) -> FloatArray:
        """See `StepSession.step`."""
        engine = self._engine
        # Rows rarely change hands between utterances, so their encoder output is gathered seldom.
        if self._utterances is None or not np.array_equal(utterances, self._utterances):
            self._utterances = utterances.copy()
            self._rows_out = self._encoded.encoder_out[engine._to_device(utterances)]
            self._rows_lengths = engine._to_device(self._encoded.lengths[utterances])
        if self._cache is None:
            cache = engine.model.decoder.empty_cache(len(tokens))
        else:
            cache = self._cache.index_select(2, engine._to_device(parents))
        assert self._rows_out is not None
        assert self._rows_lengths is not None
        log_probs, self._cache = engine.model.step(
            self._rows_out, self._rows_lengths, engine._to_device(tokens), cache
        )
        return log_probs.cpu().numpy()
