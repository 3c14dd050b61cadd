"""The one log-mel front end: training, PyTorch inference and the exported graphs all run this code.

Kaldi's fbank (Povey window, pre-emphasis, HTK mel scale, no dither, `snip_edges`), computed as one
strided convolution: removing the frame's mean, pre-emphasis, windowing and the Fourier transform
are all linear in the frame, so they fold into a single kernel. Plain ops are the price of being
exported to any engine; it costs about 41 MFLOP per second of audio.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
INT16_SCALE = 32768.0
ENERGY_FLOOR = torch.finfo(torch.float32).eps


def frame_geometry(sample_rate: int) -> tuple[int, int]:
    """Window and hop in samples: 25 ms and 10 ms."""
    return sample_rate * 25 // 1000, sample_rate // 100


class LogMel(nn.Module):
    """Waveform to log-mel energies, optionally normalised per utterance.

    Args:
        sample_rate: of the waveform, in Hz.
        n_mels: number of mel bins between 20 Hz and the Nyquist frequency.
        normalise: subtract the mean and divide by the standard deviation of every bin over the
            utterance's own frames; False gives Kaldi's numbers (natural log, int16 scale).
    """

    kernel: Tensor
    mel_weights: Tensor

    def __init__(self, sample_rate: int = 16000, n_mels: int = 80, normalise: bool = True) -> None:
        super().__init__()
        self.window, self.hop = frame_geometry(sample_rate)
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.normalise = normalise
        n_fft = 1 << (self.window - 1).bit_length()
        kernel = _spectrum_kernel(self.window, n_fft)
        self.register_buffer("kernel", kernel.float().unsqueeze(1), persistent=False)
        weights = mel_filterbank(sample_rate, n_fft, n_mels)
        self.register_buffer("mel_weights", weights.float(), persistent=False)

    def frame_lengths(self, sample_lengths: Tensor) -> Tensor:
        """Frames of 10 ms that fit into so many samples, int64 [batch]."""
        frames = torch.div(sample_lengths - self.window, self.hop, rounding_mode="floor") + 1
        return frames.clamp(min=0)

    def forward(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a padded batch.

        Args:
            waveforms: float32 [batch, samples] in [-1, 1], at least one window (25 ms) long.
            sample_lengths: int64 [batch], valid samples of each.

        Returns:
            Features float32 [batch, frames, n_mels], 0 beyond an utterance's end when normalised,
            and their lengths int64 [batch].
        """
        device = waveforms.device.type
        if torch.is_autocast_enabled(device):
            # A spectrum in bf16 would be another front end than the one that is exported.
            with torch.autocast(device, enabled=False):
                return self._features(waveforms.float(), sample_lengths)
        return self._features(waveforms, sample_lengths)

    def _features(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = F.conv1d(waveforms.unsqueeze(1), self.kernel, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        power = real * real + imaginary * imaginary  # (B, bins, T)
        energies = torch.matmul(self.mel_weights, power).transpose(1, 2)  # (B, T, mels)
        features = energies.clamp(min=ENERGY_FLOOR).log()
        lengths = self.frame_lengths(sample_lengths)
        if not self.normalise:
            return features, lengths
        steps = torch.arange(features.size(1), device=features.device)
        mask = (steps.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(2).to(features.dtype)
        count = lengths.clamp(min=1).to(features.dtype).view(-1, 1, 1)
        mean = (features * mask).sum(dim=1, keepdim=True) / count
        centred = (features - mean) * mask
        deviation = ((centred * centred).sum(dim=1, keepdim=True) / count).sqrt()
        return centred / (deviation + 1e-3), lengths


def _spectrum_kernel(window: int, n_fft: int) -> Tensor:
    """Kernel [2·bins, window]: real then imaginary parts of one processed frame's spectrum."""
    identity = torch.eye(window, dtype=torch.float64)
    without_mean = identity - 1.0 / window
    previous = torch.diag(torch.ones(window - 1, dtype=torch.float64), diagonal=-1)
    previous[0, 0] = 1.0
    emphasis = identity - PRE_EMPHASIS * previous
    n = torch.arange(window, dtype=torch.float64)
    bins = torch.arange(n_fft // 2, dtype=torch.float64)
    angle = 2 * math.pi * bins.unsqueeze(1) * n.unsqueeze(0) / n_fft
    fourier = torch.cat([torch.cos(angle), -torch.sin(angle)])
    return INT16_SCALE * (fourier * povey_window(window)) @ emphasis @ without_mean


def povey_window(size: int) -> Tensor:
    """Kaldi's window, float64 [size]: a Hann window to the power of 0.85, 0 at both ends."""
    n = torch.arange(size, dtype=torch.float64)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * n / (size - 1))) ** 0.85


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Kaldi's triangular filters, float64 [n_mels, n_fft/2]; the Nyquist bin has no weight."""
    centres = mel_centres(sample_rate, n_mels)
    step = centres[1] - centres[0]
    hertz = torch.arange(n_fft // 2, dtype=torch.float64) * sample_rate / n_fft
    mel = hz_to_mel(hertz).unsqueeze(0)
    rising = (mel - (centres - step).unsqueeze(1)) / step
    falling = ((centres + step).unsqueeze(1) - mel) / step
    return torch.minimum(rising, falling).clamp(min=0.0)


def mel_centres(sample_rate: int, n_mels: int) -> Tensor:
    """Centres of the filters on the mel scale, evenly spaced: float64 [n_mels]."""
    edges = hz_to_mel(torch.tensor([LOWEST_HZ, sample_rate / 2], dtype=torch.float64))
    step = (edges[1] - edges[0]) / (n_mels + 1)
    return edges[0] + step * torch.arange(1, n_mels + 1, dtype=torch.float64)


def hz_to_mel(hertz: Tensor) -> Tensor:
    """HTK's mel scale, as Kaldi writes it."""
    return 1127.0 * torch.log1p(hertz / 700.0)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Inverse of `hz_to_mel`."""
    return 700.0 * torch.expm1(mel / 1127.0)
