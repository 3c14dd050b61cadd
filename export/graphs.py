"""The three graphs of a bundle: a model's methods as modules that the exporter can trace.

Lengths go into and come out of each. Nothing here branches on data, so that the graph of one
shape is the graph of all.
"""

from __future__ import annotations

from torch import Tensor, nn

from voxformer.model import VoxFormer


class EncoderGraph(nn.Module):
    """Waveforms to encoder output and CTC log-probs, the front end included."""

    def __init__(self, model: VoxFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `VoxFormer.encode`.

        Args:
            waveforms: float32 [batch, samples], at least 25 ms long.
            lengths: int64 [batch], valid samples.

        Returns:
            encoder_out float32 [batch, frames, d_model], encoder_lengths int64 [batch], log_probs
            float32 [batch, frames, vocab_size + 1].
        """
        return self.model.encode(waveforms, lengths)


class DecoderGraph(nn.Module):
    """Log-probs of given hypotheses, for rescoring."""

    def __init__(self, model: VoxFormer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, encoder_out: Tensor, encoder_lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> Tensor:
        """See `VoxFormer.score`.

        Args:
            encoder_out: float32 [batch, frames, d_model].
            encoder_lengths: int64 [batch].
            tokens: int64 [batch, n, length], length at least 1.
            token_lengths: int64 [batch, n].

        Returns:
            token_log_probs float32 [batch, n, length + 1].
        """
        return self.model.score(encoder_out, encoder_lengths, tokens, token_lengths)


class DecoderStepGraph(nn.Module):
    """One step of autoregressive search."""

    def __init__(self, model: VoxFormer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, encoder_out: Tensor, encoder_lengths: Tensor, tokens: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `VoxFormer.step`.

        Args:
            encoder_out: float32 [rows, frames, d_model].
            encoder_lengths: int64 [rows].
            tokens: int64 [rows].
            cache: float32 [layers, 2, rows, heads, past, head_dim]; past is 0 at the start.

        Returns:
            log_probs float32 [rows, vocab_size + 2], and new_cache with past + 1 positions.
        """
        return self.model.step(encoder_out, encoder_lengths, tokens, cache)
