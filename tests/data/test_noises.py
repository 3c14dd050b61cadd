"""Recordings in which nobody speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxformer.audio.io import read_audio
from voxformer.cli import main
from voxformer.data.manifest import read_manifest
from voxformer.data.noises import DECIBELS, SECONDS, make_noises, noise
from voxformer.data.seeds import derived_generator


def test_a_set_of_noises_is_read_back_as_recordings_without_speech(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    assert main(["prepare", "noise", "--out", str(out), "--recordings", "5"]) == 0
    assert capsys.readouterr().out == f"noise-train: {out}/noise-train.jsonl\n"
    utterances = read_manifest(out / "noise-train.jsonl")
    assert [(u.text, u.speech) for u in utterances] == [("", False)] * 5
    for utterance in utterances:
        samples = read_audio(utterance.audio_path, 16000)
        assert len(samples) / 16000 == pytest.approx(utterance.duration, abs=1e-4)
    # Another preparation keeps what the lines say.
    again = tmp_path / "again"
    made = str(out / "noise-train.jsonl")
    assert main(["prepare", "manifest", made, "--out", str(again)]) == 0
    assert not any(u.speech for u in read_manifest(again / "noise-train.jsonl"))


def test_noises_are_a_function_of_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        read_audio(
            read_manifest(make_noises(tmp_path / name, count=1, seed=seed))[0].audio_path, 16000
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert np.array_equal(one, same)
    assert len(one) != len(other)


def test_noises_have_the_lengths_and_levels_that_are_named() -> None:
    made = [noise(derived_generator("noise", 1, number)) for number in range(100)]
    seconds = [len(samples) / 16000 for samples in made]
    assert min(seconds) >= SECONDS[0] - 1e-4
    assert max(seconds) <= SECONDS[1]
    assert max(seconds) > 6.0
    assert all(np.isfinite(samples).all() and np.abs(samples).max() <= 1.0 for samples in made)
    power = np.array([np.square(samples, dtype=np.float64).mean() for samples in made])
    assert 0 < (power == 0.0).sum() < 15  # digital silence is one of the kinds
    levels = 10.0 * np.log10(power[power > 0.0])
    assert DECIBELS[0] - 30.0 < levels.min() < DECIBELS[0] + 15.0
    assert DECIBELS[1] - 15.0 < levels.max() < DECIBELS[1] + 15.0


def test_a_corpus_of_noise_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "noise", "speech", "--out", str(tmp_path)]) == 2
    assert "takes no corpus" in capsys.readouterr().err
