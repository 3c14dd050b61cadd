"""Rotary position embedding (Su et al. 2021, RoFormer)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(
    length: int, head_dim: int, device: torch.device, dtype: torch.dtype, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, each [length, head_dim], for positions from `start` on."""
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    frequencies = torch.pow(10000.0, -exponent)
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    angles = positions.unsqueeze(1) * frequencies.unsqueeze(0)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate x [..., length, head_dim] by the tables [length, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
