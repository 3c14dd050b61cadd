"""Audio: reading and resampling recordings, and the one log-mel front end (`features`, torch)."""

from __future__ import annotations

from .io import AudioError, raw_blocks, read_audio, read_blocks

__all__ = ["AudioError", "raw_blocks", "read_audio", "read_blocks"]
