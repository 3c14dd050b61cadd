"""The whole network: front end, encoder, CTC head, attention decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxformer.audio.features import LogMel
from voxformer.config import ModelConfig
from voxformer.model.decoder import AttentionDecoder
from voxformer.model.encoder import Encoder

FRAME_SHIFT_S = 0.04
"""Seconds between encoder frames."""
DECODER_PREFIX = "decoder."
"""What the names of the attention decoder's weights begin with."""


class VoxFormer(nn.Module):
    """Hybrid CTC-attention model (Watanabe et al. 2017) that takes waveforms."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = LogMel(config.sample_rate, config.n_mels)
        self.encoder = Encoder(
            n_mels=config.n_mels,
            d_model=config.d_model,
            num_heads=config.encoder_num_heads,
            downsampling=config.block_downsampling,
            layers_per_block=config.encoder_layers_per_block,
            ff_multiplier=config.encoder_ff_multiplier,
            conv_kernel=config.encoder_conv_kernel,
            subsampling_channels=config.subsampling_channels,
            dropout=config.dropout,
        )
        self.ctc_head = nn.Linear(config.d_model, config.vocab_size + 1)
        self.decoder = AttentionDecoder(
            num_outputs=config.vocab_size + 2,
            d_model=config.d_model,
            num_heads=config.decoder_num_heads,
            num_layers=config.decoder_num_layers,
            ff_multiplier=config.decoder_ff_multiplier,
            dropout=config.dropout,
        )

    @property
    def sos_eos_id(self) -> int:
        """Id that starts and ends every decoder sequence."""
        return self.decoder.sos_eos_id

    def encode(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms float32 [batch, samples] and lengths int64 [batch] to encoder output.

        Returns:
            Encoder output as the decoder reads it (`AttentionDecoder.memory`) [batch, frames,
            d_model], its lengths int64 [batch], and CTC log-probs float32 [batch, frames,
            vocab_size + 1].
        """
        features, lengths = self.front_end(waveforms, sample_lengths)
        encoder_out, lengths = self.encoder(features, lengths)
        memory = self.decoder.memory(encoder_out, lengths)
        return memory, lengths, self.ctc_log_probs(encoder_out)

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """CTC log-probs float32 [batch, frames, vocab_size + 1] of what the encoder returns."""
        return self.ctc_head(encoder_out).float().log_softmax(-1)

    def score(
        self, encoder_out: Tensor, encoder_lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> Tensor:
        """Attention log-probs of given hypotheses, for rescoring.

        Args:
            encoder_out: float [batch, frames, d_model], of `encode`.
            encoder_lengths: int64 [batch].
            tokens: int64 [batch, n, length], without `<sos/eos>`, padded with any valid id.
            token_lengths: int64 [batch, n].

        Returns:
            float32 [batch, n, length + 1]: ln p of each token, of `<sos/eos>` at index
            token_lengths, and 0 beyond it.
        """
        batch, n, length = tokens.shape
        rows = tokens.reshape(batch * n, length)
        boundary = torch.full_like(rows[:, :1], self.sos_eos_id)
        inputs = torch.cat([boundary, rows], dim=1)
        steps = torch.arange(length + 1, device=tokens.device).unsqueeze(0)
        ends = token_lengths.reshape(batch * n, 1)
        targets = torch.cat([rows, boundary], dim=1)
        targets = torch.where(steps == ends, torch.full_like(targets, self.sos_eos_id), targets)
        logits = self.decoder(encoder_out, encoder_lengths, inputs)
        log_probs = logits.float().log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
        return (log_probs * (steps <= ends).to(log_probs.dtype)).reshape(batch, n, length + 1)

    def step(
        self, encoder_out: Tensor, encoder_lengths: Tensor, tokens: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One autoregressive step; see `AttentionDecoder.step`. Returns log-probs and the cache."""
        logits, cache = self.decoder.step(encoder_out, encoder_lengths, tokens, cache)
        return logits.float().log_softmax(-1), cache


def count_parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in module.parameters())
