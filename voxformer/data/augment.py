"""What is done to training speech: speed, tempo, rooms, noise, gain; SpecAugment on features.

Every draw comes from a generator or seed of the utterance in its epoch (see `seeds`); nothing
depends on the batch that the utterance is in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..audio.io import read_audio, resample
from ..config.schema import AugmentConfig, SpecAugmentConfig
from .manifest import read_manifest
from .reverberation import draw_room, impulse_response, reverberate
from .tempo import change_tempo

if TYPE_CHECKING:
    import torch

Waveform = NDArray[np.float32]

FORMANTS_HZ = 4800.0
"""The formants that tell vowels apart lie below."""


class Augmenter:
    """Speed, tempo, reverberation, additive noise and gain, as `AugmentConfig` describes them.

    Args:
        config: options; `config.noise_manifest` is read here, so that a bad one shows at the start.
        sample_rate: of the waveforms.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int = 16000) -> None:
        self._config = config
        self._sample_rate = sample_rate
        self._noise_paths: list[Path] = []
        if config.noise_manifest is not None:
            self._noise_paths = [u.audio_path for u in read_manifest(config.noise_manifest)]

    def __call__(
        self,
        waveform: Waveform,
        generator: np.random.Generator,
        can_align: Callable[[int], bool] = lambda num_samples: True,
    ) -> Waveform:
        """Augment float32 [samples]; after speed or tempo the result has another length.

        Args:
            waveform: one utterance.
            generator: of this utterance in this epoch.
            can_align: whether so many samples are still enough; where not, the speed, or the
                tempo, stays 1.
        """
        config = self._config
        factor = float(generator.choice(config.speed_factors))
        if factor != 1.0:
            faster = change_speed(waveform, factor, self._sample_rate)
            if can_align(len(faster)):
                waveform = faster
        # Draws for tempo and rooms only where there are any: else streams are as they were.
        if config.tempo_factors != [1.0]:
            tempo = float(generator.choice(config.tempo_factors))
            hurried = change_tempo(waveform, tempo, self._sample_rate)
            if can_align(len(hurried)):
                waveform = hurried
        if config.reverb_probability > 0.0 and generator.random() < config.reverb_probability:
            low, high = sorted(config.reverb_seconds)
            room = draw_room((low, high), generator)
            response = impulse_response(room, self._sample_rate, generator)
            waveform = reverberate(waveform, response)
        if generator.random() < config.noise_probability:
            low, high = sorted(config.noise_snr_db)
            snr_db = generator.uniform(low, high)
            waveform = add_noise(waveform, self._noise(len(waveform), generator), snr_db)
        gain_db = generator.uniform(-config.gain_db, config.gain_db)
        return (waveform * np.float32(10.0 ** (gain_db / 20.0))).astype(np.float32, copy=False)

    def _noise(self, num_samples: int, generator: np.random.Generator) -> Waveform:
        if not self._noise_paths:
            return made_noise(num_samples, generator)
        path = self._noise_paths[int(generator.integers(len(self._noise_paths)))]
        noise = _read_noise(path, self._sample_rate)
        # A random stretch, repeated from its start where the recording is shorter than the speech.
        start = int(generator.integers(len(noise)))
        return np.resize(np.roll(noise, -start), num_samples)


@functools.lru_cache(maxsize=64)
def _read_noise(path: Path, sample_rate: int) -> Waveform:
    return read_audio(path, sample_rate)


def change_speed(waveform: Waveform, factor: float, sample_rate: int = 16000) -> Waveform:
    """Play float32 [samples] `factor` times as fast: tempo and pitch change (Ko et al. 2015)."""
    return resample(waveform, sample_rate * factor, sample_rate)


def add_noise(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise (same length) at a ratio of mean powers; silence on either side changes nothing."""
    signal_power, noise_power = _power(waveform), _power(noise)
    if signal_power == 0.0 or noise_power == 0.0:
        return waveform
    scale = np.sqrt(signal_power / noise_power / 10.0 ** (snr_db / 10.0))
    return waveform + noise * np.float32(scale)


def _power(samples: Waveform) -> float:
    return float(np.square(samples).mean(dtype=np.float64))


def made_noise(num_samples: int, generator: np.random.Generator) -> Waveform:
    """White or pink noise, evenly; float32 [samples] of unit power, more or less."""
    white = generator.random() < 0.5 or num_samples < 8
    length = num_samples if white else _quick_length(num_samples)
    # Even draws take a fifth of the time of normal ones; their transform is normal all the same.
    noise = generator.random(length, dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= np.float32(np.sqrt(12.0))
    if white:
        return noise
    # Drawn as a spectrum, which spares a transform: real parts, then imaginary ones.
    shape = _pink_shape(length)
    bins = len(shape) - 2
    spectrum = np.zeros(len(shape), dtype=np.complex64)
    np.multiply(noise[:bins], shape[1:-1], out=spectrum.real[1:-1])
    np.multiply(noise[bins : 2 * bins], shape[1:-1], out=spectrum.imag[1:-1])
    return np.fft.irfft(spectrum, length)[:num_samples].astype(np.float32, copy=False)


@functools.lru_cache(maxsize=256)
def _pink_shape(length: int) -> NDArray[np.float32]:
    """What a spectrum of unit variance is multiplied by, so that power falls as 1/f."""
    shape = 1.0 / np.sqrt(np.maximum(np.arange(length // 2 + 1), 1))
    shape[0] = shape[-1] = 0.0
    # The sum of 2·|X|² over positive frequencies, over length², is the mean power.
    shape *= length / np.sqrt(4.0 * np.square(shape).sum() or 1.0)
    return shape.astype(np.float32)


@functools.lru_cache(maxsize=4096)
def _quick_length(least: int) -> int:
    """The next even number without prime factors above 5, of which transforms are quick."""
    length = least + least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def spec_augment(
    features: torch.Tensor,
    lengths: torch.Tensor,
    seeds: torch.Tensor,
    options: SpecAugmentConfig,
    progress: float = 1.0,
) -> torch.Tensor:
    """Mask bands and spans of normalised features with 0, their mean (Park et al. 2019, 2020).

    The masks of an utterance are a function of its seed and length alone, and of how far the run
    is, so that padding, batch-mates and the device change nothing. They are drawn by a
    counter-based hash: no generator state, no loop over the batch, no transfer from the device.

    Args:
        features: float [batch, frames, n_mels], normalised per utterance.
        lengths: int64 [batch], valid frames.
        seeds: int64 [batch], one for each utterance and epoch; see `derived_seed`.
        options: number and size of the masks.
        progress: share of the run's schedule that is behind, for `options.warmup_share`.

    Returns:
        A new tensor like `features`.
    """
    import torch

    frames, n_mels = features.shape[1], features.shape[2]
    bands, spans = options.frequency_masks, options.time_masks
    uniform = _uniform(seeds.to(features.device), 2 * (bands + spans))  # [batch, draws]
    lengths = lengths.to(features.device)
    strength = min(1.0, progress / options.warmup_share) if options.warmup_share else 1.0
    masked = torch.zeros(features.shape, dtype=torch.bool, device=features.device)
    if bands:
        widest = int(min(options.frequency_width, n_mels) * strength)
        width = _integers(uniform[:, :bands], widest + 1)
        start = _integers(uniform[:, bands : 2 * bands], n_mels - width + 1)
        masked |= _covered(start, width, n_mels)[:, None, :]
    if spans:
        draws = uniform[:, 2 * bands :]
        length = lengths[:, None]
        longest: int | torch.Tensor = int(options.time_width * strength)
        allowed: int | torch.Tensor = length // (2 * options.time_width)
        if options.time_width_ratio:
            longest, allowed = _share(length, options.time_width_ratio * strength), spans
        if options.time_mask_ratio:
            allowed = _share(length, options.time_mask_ratio)
        width = _integers(draws[:, :spans], longest + 1)
        width = width * (torch.arange(spans, device=width.device) < allowed)
        budget = (length * options.max_time_fraction).long()
        spent = width.cumsum(dim=1) - width
        width = torch.minimum(width, (budget - spent).clamp(min=0))
        start = _integers(draws[:, spans : 2 * spans], length - width + 1)
        masked |= _covered(start, width, frames)[:, :, None]
    return features.masked_fill(masked, 0.0)


def perturb_vocal_tract(
    features: torch.Tensor, seeds: torch.Tensor, factors: tuple[float, float], sample_rate: int
) -> torch.Tensor:
    """Stretch the frequency axis as another vocal tract would (VTLP, Jaitly & Hinton 2013).

    Each utterance draws one factor a: what was at frequency f comes to f·a, up to a knee below
    `FORMANTS_HZ`, from where a straight line leads to the Nyquist frequency, which stays.

    Args:
        features: float [batch, frames, n_mels] on the front end's mel scale.
        seeds: int64 [batch], one for each utterance and epoch; see `derived_seed`.
        factors: lowest and highest a.
        sample_rate: of the audio, in Hz.

    Returns:
        A new tensor like `features`.
    """
    import torch

    from ..audio.features import hz_to_mel, mel_centres, mel_to_hz

    n_mels = features.shape[2]
    low, high = factors
    uniform = _uniform(~seeds.to(features.device), 1)  # another stream than the masks'
    factor = low + (high - low) * uniform  # [batch, 1]
    mel = mel_centres(sample_rate, n_mels).to(features.device)
    hz = mel_to_hz(mel)
    nyquist = sample_rate / 2
    knee = FORMANTS_HZ * factor.clamp(max=1.0)  # where the two lines meet, after the stretch
    upper_line = nyquist - (nyquist - hz) * (nyquist - knee / factor) / (nyquist - knee)
    source = torch.where(hz <= knee, hz / factor, upper_line)  # [batch, n_mels]
    position = ((hz_to_mel(source) - mel[0]) / (mel[1] - mel[0])).clamp(0, n_mels - 1)
    below = position.long().clamp(max=n_mels - 2)
    share = (position - below).to(features.dtype)[:, None, :]
    index = below[:, None, :].expand_as(features)
    lower, upper = features.gather(2, index), features.gather(2, index + 1)
    return lower + share * (upper - lower)


def _share(lengths: torch.Tensor, ratio: float) -> torch.Tensor:
    """The floor of ratio x length, int64 in the lengths' shape, equal on every device."""
    return (lengths.double() * ratio).long()


def _integers(uniform: torch.Tensor, limit: Any) -> torch.Tensor:
    """Integers from 0 to limit - 1 out of draws from [0, 1); int64, in the draws' shape."""
    return (uniform * limit).long()


def _covered(start: torch.Tensor, width: torch.Tensor, size: int) -> torch.Tensor:
    """Whether any of [batch, masks] intervals covers a position: bool [batch, size]."""
    import torch

    position = torch.arange(size, device=start.device)
    inside = (position >= start[..., None]) & (position < (start + width)[..., None])
    return inside.any(dim=1)


def _uniform(seeds: torch.Tensor, draws: int) -> torch.Tensor:
    """float64 [batch, draws] in [0, 1): SplitMix64 (Steele et al. 2014) of seed and counter."""
    import torch

    counter = torch.arange(1, draws + 1, device=seeds.device, dtype=torch.int64)
    state = seeds[:, None] + counter * -0x61C8864680B583EB
    # int64 arithmetic wraps as unsigned does; only the right shifts need their sign bits removed.
    state = (state ^ _shift_right(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ _shift_right(state, 27)) * -0x6B2FB644ECCEEE15
    state = state ^ _shift_right(state, 31)
    return _shift_right(state, 11).to(torch.float64) * 2.0**-53


def _shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)
