"""Recordings in, float32 mono samples out; everything that is wrong with a file is one line.

libsndfile (WAV, FLAC, Ogg/Opus, MP3) and soxr are imported at the first call, so that a deployer
who feeds arrays needs NumPy alone.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..text.atomic import write_atomically
from .containers import promised_size

_NO_MPEG = "File does not exist or is not a regular file"
"""What libsndfile says of a file named .mp3 in which it finds no MPEG frame."""


class AudioError(ValueError):
    """A recording cannot be used; the message is one line and names the file."""


class AudioLibraryError(ImportError):
    """A library that reads audio is missing or does not load."""


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


def write_flac(
    path: str | os.PathLike[str], samples: NDArray[np.float32], sample_rate: int = 16000
) -> None:
    """Write float32 mono [samples] in [-1, 1] as 16-bit FLAC, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import soundfile

    # Not straight into the file: libsndfile prints a traceback for each write that fails.
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, sample_rate, format="FLAC", subtype="PCM_16")
    write_atomically(path, encoded.getvalue())


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


def read_blocks(
    path: str | os.PathLike[str], sample_rate: int = 16000, block_seconds: float = 10.0
) -> Iterator[NDArray[np.float32]]:
    """`read_audio` in pieces of about `block_seconds`, so that a recording may be of any length.

    Resampling goes on from one block to the next. What is wrong at the end of a file is said when
    the end is reached.

    Yields:
        float32 [samples], not empty; together what `read_audio` gives.

    Raises:
        AudioError: as `read_audio`.
    """
    path = Path(path)
    with _opened(path) as file:
        yield from _resampled(
            path, _mono_blocks(path, file, block_seconds), file.samplerate, sample_rate
        )


def raw_blocks(
    file: BinaryIO, name: str, source_rate: int, sample_rate: int, block_seconds: float = 10.0
) -> Iterator[NDArray[np.float32]]:
    """As `read_blocks`, of 16-bit little-endian mono samples without a header, from a pipe or file.

    Args:
        file: opened for reading bytes.
        name: for messages.
        source_rate: samples per second of the file.
        sample_rate: samples per second of the result.
        block_seconds: of audio at a time.

    Raises:
        AudioError: there is no sample, or half of one at the end.
    """
    yield from _resampled(
        name, _raw_blocks(file, name, source_rate, block_seconds), source_rate, sample_rate
    )


Block = tuple[NDArray[np.float32], bool]
"""Samples, and whether they are the last."""


def _mono_blocks(path: Path, file: Any, block_seconds: float) -> Iterator[Block]:
    size = max(1, round(block_seconds * file.samplerate))
    read, last = 0, False
    while not last:
        samples = file.read(size, dtype="float32", always_2d=True)
        read += len(samples)
        last = len(samples) < size
        if last:
            _refuse_short(path, file, read)
        yield _mixed(path, samples), last


def _raw_blocks(
    file: BinaryIO, name: str, source_rate: int, block_seconds: float
) -> Iterator[Block]:
    size = 2 * max(1, round(block_seconds * source_rate))
    last = False
    while not last:
        data = _read_fully(file, size)
        if len(data) % 2:
            raise AudioError(f"{name}: ends in the middle of a sample; --raw takes 16-bit samples")
        last = len(data) < size
        yield np.frombuffer(data, "<i2").astype(np.float32) / 32768.0, last


def _resampled(
    name: object, blocks: Iterable[Block], source_rate: int, sample_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Blocks at another rate, none of them empty, as one signal."""
    stream: Any = None
    if source_rate != sample_rate:
        soxr: Any = _import("soxr")
        stream = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality="HQ")
    given = 0
    for samples, last in blocks:
        mono = samples if stream is None else stream.resample_chunk(samples, last=last)
        given += len(mono)
        if len(mono):
            yield _in_range(mono)
    if given == 0:
        raise _shorter_than_a_sample(name, sample_rate)


def _mono(
    path: Path, samples: NDArray[np.float32], source_rate: int, sample_rate: int
) -> NDArray[np.float32]:
    """Channels averaged, resampled and kept in [-1, 1]; [samples, channels] to [samples]."""
    mono = resample(_mixed(path, samples), source_rate, sample_rate)
    if len(mono) == 0:
        raise _shorter_than_a_sample(path, sample_rate)
    return _in_range(mono)


def _mixed(path: Path, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels averaged: [samples, channels] to [samples]."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: audio holds NaN or infinite samples")
    return np.ascontiguousarray(mono)


def _in_range(mono: NDArray[np.float32]) -> NDArray[np.float32]:
    # Lossy codecs and resampling overshoot full scale by a little.
    return np.ascontiguousarray(np.clip(mono, -1.0, 1.0), dtype=np.float32)


def _shorter_than_a_sample(name: object, sample_rate: int) -> AudioError:
    return AudioError(f"{name}: empty audio: shorter than one sample at {sample_rate} Hz")


def _decoded(path: Path, as_stored_at: int | None = None) -> tuple[NDArray[Any], int]:
    """Samples [samples, channels] of a whole file, and its rate.

    They are float32, or int16 where the file holds that, mono, at the rate `as_stored_at`.
    """
    with _opened(path) as file:
        kept = (file.subtype, file.channels, file.samplerate) == ("PCM_16", 1, as_stored_at)
        samples = file.read(dtype="int16" if kept else "float32", always_2d=True)
        _refuse_short(path, file, len(samples))
        return samples, int(file.samplerate)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A SoundFile; what goes wrong with it is an AudioError."""
    soundfile = _import("soundfile")
    try:
        if not path.is_file():
            raise AudioError(f"{path}: {_why_no_file(path)}")
        _refuse_truncated(path)
        with soundfile.SoundFile(os.fsencode(path)) as file:
            yield file
    except AudioError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        said = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        reason = " ".join(str(said).split())
        if reason.startswith(_NO_MPEG):
            reason = "Format not recognised."
        raise AudioError(f"{path}: unreadable audio: {reason}") from None


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder, not an audio file"
    if path.exists():
        return "not a regular file; copy it to one, or pipe it into `voxformer transcribe -`"
    return "no such audio file"


def _refuse_short(path: Path, file: Any, read: int) -> None:
    # Lossy formats know their length only roughly, so only lossless ones are held to it.
    promised = file.frames if file.format in ("FLAC", "WAV", "AIFF", "W64") else 0
    if read < promised:
        raise AudioError(f"{path}: truncated audio: {read} of {promised} samples")
    if read == 0:
        raise AudioError(f"{path}: empty audio: no samples")


def _read_fully(file: BinaryIO, size: int) -> bytes:
    """So many bytes, or what is left; a pipe gives them in pieces."""
    parts: list[bytes] = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


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
    except (ImportError, OSError) as error:  # OSError: there is no libsndfile
        raise AudioLibraryError(
            f"reading audio needs {name}: pip install {name} ({error})"
        ) from None


def _refuse_truncated(path: Path) -> None:
    size = path.stat().st_size
    if size == 0:
        raise AudioError(f"{path}: empty audio: 0 bytes")
    with path.open("rb") as file:
        promised = promised_size(file, size)
    if promised > size:
        raise AudioError(f"{path}: truncated audio: {size} of {promised} bytes")
