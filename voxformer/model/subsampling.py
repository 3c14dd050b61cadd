"""Convolutional subsampling from 100 to 25 frames/s."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.model.masks import length_mask, zero_padding


def halve_lengths(lengths: Tensor) -> Tensor:
    """Frames after a stride-2 convolution with kernel 3 and padding 1: ceil(length / 2)."""
    return torch.div(lengths + 1, 2, rounding_mode="floor")


class ConvSubsampling(nn.Module):
    """Two stride-2 convolutions over time and frequency, then a projection to the encoder's width.

    The second convolution is depthwise-separable (as in Fast Conformer, Rekesh et al. 2023), which
    halves the cost of this part. Padded frames are zeroed before each convolution, so that an
    utterance's last frame sees what the convolution's own zero padding would have shown it.
    """

    def __init__(self, n_mels: int, channels: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        bands = (((n_mels + 1) // 2) + 1) // 2
        self.project = nn.Linear(channels * bands, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, frames, n_mels] to [batch, ceil(ceil(frames/2)/2), d_model], and the lengths."""
        x = zero_padding(features, length_mask(lengths, features.size(1))).unsqueeze(1)
        x = F.silu(self.conv1(x))  # (B, C, T/2, F/2)
        lengths = halve_lengths(lengths)
        x = x * length_mask(lengths, x.size(2))[:, None, :, None].to(x.dtype)
        x = F.silu(self.pointwise(self.depthwise(x)))  # (B, C, T/4, F/4)
        lengths = halve_lengths(lengths)
        x = x.transpose(1, 2).flatten(2)
        x = self.dropout(self.norm(self.project(x)))
        return zero_padding(x, length_mask(lengths, x.size(1))), lengths
