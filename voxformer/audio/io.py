"""Recordings in, float32 mono samples out; everything that is wrong with a file is one line.

libsndfile (WAV, FLAC, Ogg/Opus, MP3) and soxr are imported at the first call, so that a deployer
who feeds arrays needs NumPy alone. libsndfile shortens a truncated WAV or Ogg file in silence;
the containers' own length fields are therefore checked here.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Streaming writers put sizes near 2^31 or 2^32 into a WAV header that they cannot go back to.
_WAV_SIZE_IS_UNKNOWN = 0x7FFF0000


class AudioError(ValueError):
    """A recording cannot be used; the message is one line and names the file."""


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> NDArray[np.float32]:
    """Read a recording as mono samples in [-1, 1] at `sample_rate`.

    Args:
        path: anything libsndfile reads; channels are averaged.
        sample_rate: samples per second of the result.

    Returns:
        float32 [samples], at least one sample.

    Raises:
        AudioError: the file is missing, unreadable, truncated, empty or not finite.
    """
    return _mono(Path(path), *_decoded(Path(path)), sample_rate)


def read_audio_int16(path: str | os.PathLike[str], sample_rate: int = 16000) -> NDArray[np.int16]:
    """`read_audio` in 16 bits, int16 [samples]; 1.0 would be 32768 and becomes 32767.

    A file of 16-bit mono at that rate is given as it is stored, which saves a quarter of the time.

    Raises:
        AudioError: as `read_audio`.
    """
    path = Path(path)
    samples, source_rate = _decoded(path, as_stored_at=sample_rate)
    if samples.dtype == np.int16:
        return samples[:, 0]
    scaled = _mono(path, samples, source_rate, sample_rate) * np.float32(32768.0)
    return np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)


def _mono(
    path: Path, samples: NDArray[np.float32], source_rate: int, sample_rate: int
) -> NDArray[np.float32]:
    """Channels averaged, resampled and kept in [-1, 1]; [samples, channels] to [samples]."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: audio holds NaN or infinite samples")
    mono = resample(mono, source_rate, sample_rate)
    if len(mono) == 0:
        raise AudioError(f"{path}: empty audio: shorter than one sample at {sample_rate} Hz")
    # Lossy codecs and resampling overshoot full scale by a little.
    return np.ascontiguousarray(np.clip(mono, -1.0, 1.0), dtype=np.float32)


def _decoded(path: Path, as_stored_at: int | None = None) -> tuple[NDArray[Any], int]:
    """Samples [samples, channels] of a whole file, and its rate.

    They are float32, or int16 where the file holds that, mono, at the rate `as_stored_at`.
    """
    soundfile = _import("soundfile")
    try:
        if not path.is_file():
            raise AudioError(f"{path}: no such audio file")
        _refuse_truncated(path)
        with soundfile.SoundFile(str(path)) as file:
            kept = (file.subtype, file.channels, file.samplerate) == ("PCM_16", 1, as_stored_at)
            # Lossy formats know their length only roughly, so only lossless ones are held to it.
            promised = file.frames if file.format in ("FLAC", "WAV", "AIFF", "W64") else 0
            samples = file.read(dtype="int16" if kept else "float32", always_2d=True)
            source_rate: int = file.samplerate
    except AudioError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        said = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        reason = " ".join(str(said).split())
        raise AudioError(f"{path}: unreadable audio: {reason}") from None
    if len(samples) < promised:
        raise AudioError(f"{path}: truncated audio: {len(samples)} of {promised} samples")
    if len(samples) == 0:
        raise AudioError(f"{path}: empty audio: no samples")
    return samples, source_rate


def resample(
    samples: NDArray[np.float32], source_rate: float, target_rate: float
) -> NDArray[np.float32]:
    """Resample float32 [samples] with soxr at high quality; equal rates return the input."""
    if source_rate == target_rate:
        return samples
    soxr: Any = _import("soxr")
    resampled: NDArray[np.float32] = soxr.resample(samples, source_rate, target_rate, quality="HQ")
    return resampled


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"reading audio needs {name}: pip install {name} ({error})") from None


def _refuse_truncated(path: Path) -> None:
    """Compare the length fields of WAV and Ogg containers with the file's size."""
    size = path.stat().st_size
    if size == 0:
        raise AudioError(f"{path}: empty audio: 0 bytes")
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            promised = _wav_size(file, size)
        elif head[:4] == b"OggS":
            promised = _ogg_size(file, size)
        else:
            return
    if promised > size:
        raise AudioError(f"{path}: truncated audio: {size} of {promised} bytes")


def _wav_size(file: Any, size: int) -> int:
    """Bytes up to the end of the data chunk, by its header."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] == b"data":
            return 0 if length >= _WAV_SIZE_IS_UNKNOWN else position + 8 + length
        position += 8 + length + (length & 1)
    return position


def _ogg_size(file: Any, size: int) -> int:
    """Bytes up to the end of the last page that begins in the file (RFC 3533, section 6)."""
    tail = min(size, 1 << 17)  # a page has at most 65,307 bytes
    file.seek(size - tail)
    data = file.read(tail)
    page = data.rfind(b"OggS\0")
    if page < 0 or page + 27 > len(data):
        return size + 1
    segments = data[page + 26]
    table = data[page + 27 : page + 27 + segments]
    return size - tail + page + 27 + segments + sum(table) + (segments - len(table))
