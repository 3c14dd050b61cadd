"""Positions: rotary (Su et al. 2021, RoFormer) and sinusoidal (Vaswani et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(
    length: int, head_dim: int, device: torch.device, dtype: torch.dtype, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, each [length, head_dim], for positions from `start` on."""
    angles = _angles(length, head_dim, device, start)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate x [..., length, head_dim] by the tables [length, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def sinusoidal_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sines, then cosines, float32 [length, width]."""
    angles = _angles(length, width, device, 0)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _angles(length: int, width: int, device: torch.device, start: int) -> Tensor:
    """Position times frequency, float32 [length, width / 2]."""
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    frequencies = torch.pow(10000.0, -exponent)
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    return positions.unsqueeze(1) * frequencies.unsqueeze(0)
