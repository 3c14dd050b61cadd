"""Multi-rate Conformer encoder: blocks in the middle run at a lower frame rate.

As in Zipformer (Yao et al. 2024), a block may halve the frame rate, run its layers there, and be
brought back by repetition and a learned per-channel bypass. Attention then costs a quarter and
everything else a half in that block, and its layers see twice the context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.model.conformer import ConformerLayer
from voxformer.model.masks import attention_bias, length_mask, zero_padding
from voxformer.model.rotary import rotary_tables
from voxformer.model.subsampling import ConvSubsampling


class Downsample(nn.Module):
    """Learned weighted mean of each group of `factor` frames; padded frames have no weight."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.weights = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, time, width] to [batch, ceil(time / factor), width], and the lengths."""
        factor = self.factor
        groups = (x.size(1) + factor - 1) // factor
        mask = length_mask(lengths, x.size(1)).to(x.dtype).unsqueeze(2)
        # Padding by factor - 1 and cutting keeps the graph free of branches on the length.
        x = F.pad(x * mask, (0, 0, 0, factor - 1))[:, : groups * factor]
        mask = F.pad(mask, (0, 0, 0, factor - 1))[:, : groups * factor]
        weights = self.weights.softmax(0).to(x.dtype).view(1, 1, factor, 1)
        weights = weights * mask.reshape(mask.size(0), groups, factor, 1)
        total = (x.reshape(x.size(0), groups, factor, x.size(2)) * weights).sum(2)
        lengths = torch.div(lengths + factor - 1, factor, rounding_mode="floor")
        return total / weights.sum(2).clamp(min=1e-3), lengths


class EncoderBlock(nn.Module):
    """Conformer layers at 1/`factor` of the incoming frame rate."""

    def __init__(
        self,
        factor: int,
        num_layers: int,
        d_model: int,
        num_heads: int,
        ff_multiplier: int,
        kernel: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.head_dim = d_model // num_heads
        self.layers = nn.ModuleList(
            ConformerLayer(d_model, num_heads, ff_multiplier, kernel, dropout)
            for _ in range(num_layers)
        )
        if factor > 1:
            self.downsample = Downsample(factor)
            self.bypass = nn.Parameter(torch.full((d_model,), 0.5))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [batch, time, d_model] to the same shape at the same frame rate."""
        if self.factor == 1:
            return self._run_layers(x, lengths)
        slow, slow_lengths = self.downsample(x, lengths)
        slow = self._run_layers(slow, slow_lengths)
        batch, groups, width = slow.shape
        repeated = slow.unsqueeze(2).expand(batch, groups, self.factor, width)
        fast = repeated.reshape(batch, groups * self.factor, width)[:, : x.size(1)]
        mixed = x + self.bypass.to(x.dtype) * (fast - x)
        return zero_padding(mixed, length_mask(lengths, x.size(1)))

    def _run_layers(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = length_mask(lengths, x.size(1))
        bias = attention_bias(mask, x.dtype)
        cosine, sine = rotary_tables(x.size(1), self.head_dim, x.device, x.dtype)
        for layer in self.layers:
            x = layer(x, mask, bias, cosine, sine)
        return x


class Encoder(nn.Module):
    """Log-mel features at 100 frames/s to encoder output at 25 frames/s."""

    def __init__(
        self,
        n_mels: int,
        d_model: int,
        num_heads: int,
        downsampling: list[int],
        layers_per_block: int,
        ff_multiplier: int,
        conv_kernel: int,
        subsampling_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.subsampling = ConvSubsampling(n_mels, subsampling_channels, d_model, dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                factor, layers_per_block, d_model, num_heads, ff_multiplier, conv_kernel, dropout
            )
            for factor in downsampling
        )

    def forward(
        self, features: Tensor, lengths: Tensor, between: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            features: float [batch, frames, n_mels].
            lengths: int64 [batch], valid frames.
            between: gets what each block but the last returns, in the shape of the output, for
                losses in the middle of the network.

        Returns:
            Encoder output [batch, ceil(ceil(frames/2)/2), d_model], 0 in the padding, and lengths.
        """
        x, lengths = self.subsampling(features, lengths)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, lengths)
            if between is not None and index < len(self.blocks):
                between.append(x)
        return x, lengths
