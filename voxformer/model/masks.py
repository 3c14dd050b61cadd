"""Length masks. They are finite, so that fp16 graphs and fully padded rows never see a NaN."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = -1e4
"""Added to masked attention scores: representable in fp16, and exp(-1e4) is exactly 0 in fp32."""


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position belongs to its utterance: bool [batch, size]."""
    return torch.arange(size, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive bias [batch, 1, 1, keys] that hides the keys where `mask` [batch, keys] is False."""
    bias = (1.0 - mask.to(torch.float32)) * MASKED
    return bias.to(dtype)[:, None, None, :]


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x [batch, time, width] with 0 at padded positions."""
    return x * mask.unsqueeze(-1).to(x.dtype)
