from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.audio.io import (
    AudioError,
    AudioLibraryError,
    raw_blocks,
    read_audio,
    read_audio_int16,
    read_blocks,
    resample,
)

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("wav", {"subtype": "PCM_16"}, 1e-4),
        ("wav", {"subtype": "FLOAT"}, 0.0),
        ("flac", {"subtype": "PCM_16"}, 1e-4),
        ("ogg", {"format": "OGG", "subtype": "OPUS"}, 0.1),
    ],
)
def test_reads_what_was_written(
    tmp_path: Path, suffix: str, options: dict[str, str], tolerance: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), RATE, **options)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    # Opus smears what is cut off at the ends.
    assert np.abs(samples - tone())[800:-800].max() <= tolerance


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("stored.flac", RATE, 1, {"subtype": "PCM_16"}),
        ("stored.wav", RATE, 1, {"subtype": "PCM_16"}),
        ("stereo.flac", RATE, 2, {"subtype": "PCM_16"}),
        ("slow.flac", 8000, 1, {"subtype": "PCM_16"}),
        ("fine.flac", RATE, 1, {"subtype": "PCM_24"}),
        ("float.wav", RATE, 1, {"subtype": "FLOAT"}),
        ("lossy.ogg", RATE, 1, {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_sixteen_bits_are_those_of_the_samples_rounded(
    tmp_path: Path, name: str, rate: int, channels: int, options: dict[str, str]
) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (rate // 2, channels))
    samples[:2] = [[1.0], [-1.0]]
    soundfile.write(tmp_path / name, samples, rate, **options)
    exact = read_audio(tmp_path / name).astype(np.float64)
    found = read_audio_int16(tmp_path / name)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.clip(np.rint(exact * 32768), -32768, 32767))


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "a.wav", np.stack([tone(), np.zeros(RATE)], axis=1), RATE, subtype="FLOAT"
    )
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), tone() / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.flac", tone(rate=rate), rate)
    samples = read_audio(tmp_path / "a.flac")
    assert len(samples) == RATE
    # The ends ring; the middle is the same tone.
    np.testing.assert_allclose(samples[800:-800], tone()[800:-800], atol=2e-3)


def test_equal_rates_return_the_input() -> None:
    samples = tone()
    assert resample(samples, RATE, RATE) is samples


def test_overshoot_is_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 3 * tone(), RATE, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav")
    assert samples.max() == 1.0
    assert samples.min() == -1.0


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as caught:
        read_audio(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.wav", "no such audio file")


def test_what_is_no_file_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    assert_refused(tmp_path, "a folder, not an audio file")
    os.mkfifo(tmp_path / "pipe.wav")
    assert_refused(tmp_path / "pipe.wav", "not a regular file; copy it")


def test_an_mp3_without_mpeg_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("hello\n" * 100)
    assert_refused(tmp_path / "a.mp3", "unreadable audio: Format not recognised")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert_refused(tmp_path / "a.wav", "empty audio")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), RATE)
    assert_refused(tmp_path / "a.wav", "empty audio")


def test_not_audio(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_text("this is text, not a recording\n" * 100)
    assert_refused(tmp_path / "a.flac", "unreadable audio")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_samples(tmp_path: Path, value: float) -> None:
    samples = tone()
    samples[100] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert_refused(tmp_path / "a.wav", "NaN or infinite")


@pytest.mark.parametrize("part", [0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("flac", {}),
        ("ogg", {"format": "OGG", "subtype": "OPUS"}),
        ("mp3", {}),
        ("aiff", {}),
        ("aifc", {"format": "AIFF", "subtype": "ULAW"}),
        ("w64", {}),
        ("rf64", {}),
        ("caf", {}),
        ("au", {}),
        ("snd", {"format": "AU", "endian": "LITTLE"}),
    ],
)
def test_truncated_file(tmp_path: Path, suffix: str, options: dict[str, str], part: float) -> None:
    path = tmp_path / f"a.{suffix}"
    generator = np.random.default_rng(1)
    soundfile.write(path, generator.uniform(-0.5, 0.5, 4 * RATE), RATE, **options)
    data = path.read_bytes()
    assert abs(len(read_audio(path)) - 4 * RATE) < RATE / 10
    path.write_bytes(data[: int(part * len(data))])
    assert_refused(path, "truncated|unreadable")


def test_corrupt_ogg(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, tone(4.0), RATE, format="OGG", subtype="OPUS")
    data = bytearray(path.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(data)
    assert_refused(path, "truncated|unreadable")


def test_streamed_wav_of_unknown_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    position = data.index(b"data")
    data[position + 4 : position + 8] = b"\xff\xff\xff\xff"
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_audio(path)) == RATE


@pytest.mark.parametrize(
    ("suffix", "place", "unknown"),
    [("aiff", 4, "00000000"), ("aiff", 4, "7f00002e"), ("w64", 16, "ff" * 8), ("au", 8, "ff" * 4)],
)
def test_streamed_files_of_unknown_length_are_read(
    tmp_path: Path, suffix: str, place: int, unknown: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    data[place : place + len(unknown) // 2] = bytes.fromhex(unknown)
    path.write_bytes(data)
    assert len(read_audio(path)) == RATE


def test_an_mp3_behind_tags_that_lacks_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(4.0), RATE)
    data = b"ID3\4\0\0\0\0\1\2" + bytes(130) + path.read_bytes()
    path.write_bytes(data)
    assert len(read_audio(path)) == 4 * RATE
    path.write_bytes(data[: len(data) // 2])
    assert_refused(path, f"truncated audio: {len(data) // 2} of {len(data)} bytes")


def test_import_needs_numpy_only() -> None:
    code = (
        "import sys, voxformer.audio; "
        "print([m for m in ('torch', 'soundfile', 'soxr') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr


@pytest.mark.parametrize("failure", [ImportError("no"), OSError("sndfile library not found")])
def test_a_library_that_is_missing_or_broken_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(name: str) -> None:
        raise failure

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(AudioLibraryError, match="needs soundfile: pip install soundfile"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("block_seconds", [0.01, 0.3, 10.0])
@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 16000, 1), ("a.flac", 8000, 2), ("a.wav", 96000, 2), ("a.flac", 44100, 1)],
)
def test_blocks_together_are_the_whole_file(
    tmp_path: Path, name: str, rate: int, channels: int, block_seconds: float
) -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, (2 * rate + 7, channels))
    soundfile.write(tmp_path / name, samples, rate)
    blocks = list(read_blocks(tmp_path / name, RATE, block_seconds))
    assert all(0 < len(block) < 1.5 * block_seconds * RATE + 2000 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(tmp_path / name))


def test_blocks_end_with_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).uniform(-1, 1, 4 * RATE)
    soundfile.write(tmp_path / "a.flac", noise, RATE)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    blocks = read_blocks(tmp_path / "a.flac", RATE, 1.0)
    assert len(next(blocks)) == RATE
    with pytest.raises(AudioError, match=r"a\.flac: (truncated|unreadable) audio"):
        list(blocks)
    soundfile.write(tmp_path / "b.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(AudioError, match="empty audio: no samples"):
        list(read_blocks(tmp_path / "b.wav"))


class Dripping(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def read(self, size: int = -1) -> bytes:
        given, self._rest = self._rest[: min(size, 7)], self._rest[min(size, 7) :]
        return given


def test_raw_samples_are_read_from_a_pipe(tmp_path: Path) -> None:
    samples = (tone(rate=8000) * 32767).astype("<i2")
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="PCM_16")
    blocks = raw_blocks(Dripping(samples.tobytes()), "stdin", 8000, RATE, 0.25)
    np.testing.assert_array_equal(np.concatenate(list(blocks)), read_audio(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match="stdin: ends in the middle of a sample"):
        list(raw_blocks(Dripping(b"abc"), "stdin", 8000, RATE))
    with pytest.raises(AudioError, match="stdin: empty audio"):
        list(raw_blocks(Dripping(b""), "stdin", RATE, RATE))
