"""Audio: reading and resampling recordings, and the one log-mel front end (`features`, torch)."""

from __future__ import annotations

from .io import AudioError, read_audio

__all__ = ["AudioError", "read_audio"]
