"""The front end against two independent implementations of Kaldi's fbank."""

from __future__ import annotations

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from voxformer.audio.features import LogMel, frame_geometry


def kaldi_fbank(waveform: np.ndarray, sample_rate: int, n_mels: int) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = sample_rate
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = n_mels
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(sample_rate, (waveform * 32768.0).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def speech_like(samples: int, sample_rate: int) -> np.ndarray:
    """A gliding harmonic tone with noise and a constant offset, float32 in [-1, 1]."""
    generator = np.random.default_rng(0)
    time = np.arange(samples) / sample_rate
    phase = 2 * np.pi * (120 * time + 40 * time**2)
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    noise = generator.normal(0, 0.01, samples)
    return (0.05 + 0.1 * tone + noise).astype(np.float32)


@pytest.mark.parametrize(("sample_rate", "n_mels"), [(16000, 80), (16000, 40), (8000, 40)])
def test_log_mel_equals_kaldi_native_fbank(sample_rate: int, n_mels: int) -> None:
    waveform = speech_like(sample_rate * 2 + 123, sample_rate)
    expected = kaldi_fbank(waveform, sample_rate, n_mels)
    front_end = LogMel(sample_rate, n_mels, normalise=False)
    features, lengths = front_end(
        torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)])
    )
    assert features.shape[1:] == expected.shape
    assert int(lengths[0]) == len(expected)
    np.testing.assert_allclose(features[0].numpy(), expected, atol=2e-3)


def test_log_mel_equals_torchaudio() -> None:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", exc_type=(ImportError, OSError))
    waveform = torch.from_numpy(speech_like(32000, 16000)).unsqueeze(0)
    expected = kaldi.fbank(waveform * 32768.0, num_mel_bins=80, dither=0.0)
    features, _ = LogMel(normalise=False)(waveform, torch.tensor([32000]))
    torch.testing.assert_close(features[0], expected, atol=2e-3, rtol=0)


def test_normalised_features_have_zero_mean_and_unit_deviation() -> None:
    waveform = torch.from_numpy(speech_like(32000, 16000)).unsqueeze(0)
    features, _ = LogMel()(waveform, torch.tensor([32000]))
    torch.testing.assert_close(features.mean(1), torch.zeros(1, 80), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(1, correction=0), torch.ones(1, 80), atol=2e-2, rtol=0)


def test_loudness_does_not_change_normalised_features() -> None:
    waveform = torch.from_numpy(speech_like(16000, 16000)).unsqueeze(0)
    length = torch.tensor([16000])
    torch.testing.assert_close(
        LogMel()(waveform, length)[0], LogMel()(waveform * 0.5, length)[0], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("samples", [0, 399, 400, 559, 560, 16000])
def test_frame_count(samples: int) -> None:
    window, hop = frame_geometry(16000)
    expected = 0 if samples < window else 1 + (samples - window) // hop
    assert int(LogMel().frame_lengths(torch.tensor([samples]))[0]) == expected


def test_autocast_does_not_change_the_front_end() -> None:
    waveform = torch.from_numpy(speech_like(16000, 16000)).unsqueeze(0)
    length = torch.tensor([16000])
    expected, _ = LogMel()(waveform, length)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = LogMel()(waveform, length)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
