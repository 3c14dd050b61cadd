from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.config.schema import AugmentConfig, SpecAugmentConfig
from voxformer.data import Utterance, write_manifest
from voxformer.data.augment import (
    Augmenter,
    _uniform,
    add_noise,
    change_speed,
    made_noise,
    perturb_vocal_tract,
    spec_augment,
)
from voxformer.data.seeds import derived_generator, derived_seed

PLAIN = {"speed_factors": [1.0], "gain_db": 0.0, "noise_probability": 0.0}


def speech(num_samples: int = 16000) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def test_same_seed_same_samples() -> None:
    augmenter = Augmenter(AugmentConfig(noise_probability=1.0))
    first = augmenter(speech(), derived_generator(1, 2, "u"))
    np.testing.assert_array_equal(first, augmenter(speech(), derived_generator(1, 2, "u")))
    other = augmenter(speech(), derived_generator(1, 3, "u"))
    assert len(first) != len(other) or not np.array_equal(first, other)


def test_nothing_on_is_the_identity() -> None:
    samples = speech()
    np.testing.assert_array_equal(
        Augmenter(AugmentConfig(**PLAIN))(samples, derived_generator(1)), samples
    )


def test_speed_changes_length_and_pitch() -> None:
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 400 * time).astype(np.float32)
    faster = change_speed(tone, 1.25)
    assert len(faster) == 12800
    assert np.argmax(np.abs(np.fft.rfft(faster))) * 16000 / len(faster) == pytest.approx(500, abs=2)


def test_speed_that_breaks_alignment_is_not_applied() -> None:
    augmenter = Augmenter(AugmentConfig(**{**PLAIN, "speed_factors": [1.5]}))
    samples = speech()
    assert len(augmenter(samples, derived_generator(1))) < len(samples)
    kept = augmenter(samples, derived_generator(1), can_align=lambda n: n >= len(samples))
    np.testing.assert_array_equal(kept, samples)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_has_the_asked_for_ratio(snr_db: float) -> None:
    samples, noise = speech(), made_noise(16000, derived_generator(1))
    added = add_noise(samples, noise, snr_db) - samples
    ratio = 10 * np.log10(np.mean(samples**2) / np.mean(added**2))
    assert ratio == pytest.approx(snr_db, abs=0.01)


def test_silence_gets_no_noise() -> None:
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(add_noise(silence, speech(100), 10.0), silence)


def test_pink_noise_falls_by_3_db_an_octave() -> None:
    generator = derived_generator(1)
    spectra = []
    while len(spectra) < 20:
        noise = made_noise(16384, generator)
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(4, 13)]
        slope = np.polyfit(np.arange(len(octaves)), 10 * np.log10(octaves), 1)[0]
        spectra.append(slope)
    slopes = np.array(spectra)
    assert np.all((np.abs(slopes) < 0.7) | (np.abs(slopes + 3.0) < 0.7))
    assert (slopes < -2).any()
    assert (slopes > -1).any()


@pytest.mark.parametrize("num_samples", [1, 3, 8, 799, 16000, 16411, 100_003])
def test_made_noise_is_of_unit_power_at_any_length(num_samples: int) -> None:
    powers = []
    for seed in range(max(4, 40_000 // num_samples)):
        noise = made_noise(num_samples, derived_generator("noise", seed))
        assert noise.dtype == np.float32
        assert noise.shape == (num_samples,)
        powers.append(float(np.square(noise).mean()))
    assert np.mean(powers) == pytest.approx(1.0, abs=0.1)


def test_noise_comes_from_the_manifest(tmp_path, write_audio) -> None:
    path = write_audio(tmp_path / "noise.wav", 0.3)
    write_manifest(tmp_path / "noise.jsonl", [Utterance("n", path, 0.3)])
    config = AugmentConfig(
        **{
            **PLAIN,
            "noise_probability": 1.0,
            "noise_snr_db": [0.0, 0.0],
            "noise_manifest": str(tmp_path / "noise.jsonl"),
        }
    )
    samples = speech()
    added = Augmenter(config)(samples, derived_generator(1)) - samples
    # A recording of 4,800 samples repeats within 16,000.
    np.testing.assert_allclose(added[:4800], added[4800:9600], atol=1e-6)


def test_seeds_depend_on_every_part_and_its_type() -> None:
    seeds = {derived_seed(*p) for p in [(1, 2, "u"), (1, 3, "u"), (2, 1, "u"), (1, 2, "v"), ("1",)]}
    assert len(seeds) == 5
    assert derived_seed(1) != derived_seed("1")
    assert all(0 <= seed < 2**63 for seed in seeds)
    # On record: another value would make every run's data another.
    assert derived_seed("features", 1, 0, "u0") == 7732961241565420371


OPTIONS = SpecAugmentConfig()


def random_features(batch: int, frames: int, n_mels: int = 80) -> torch.Tensor:
    return torch.randn(batch, frames, n_mels, generator=torch.Generator().manual_seed(1))


def seeds_of(*names: str) -> torch.Tensor:
    return torch.tensor([derived_seed(name) for name in names], dtype=torch.int64)


ADAPTIVE = [
    {"time_masks": 20, "time_mask_ratio": 0.04, "time_width_ratio": 0.04},
    {"time_mask_ratio": 0.04},
    {"time_width_ratio": 0.05},
]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    padding=st.integers(0, 60),
    adaptive=st.sampled_from([{}, *ADAPTIVE]),
)
def test_masks_depend_on_neither_padding_nor_batch_mates(
    lengths: list[int], padding: int, adaptive: dict[str, float]
) -> None:
    options = SpecAugmentConfig(**adaptive)
    features = random_features(len(lengths), max(lengths) + padding)
    seeds = seeds_of(*map(str, range(len(lengths))))
    together = spec_augment(features, torch.tensor(lengths), seeds, options)
    for row, length in enumerate(lengths):
        alone = spec_augment(
            features[row : row + 1, :length], torch.tensor([length]), seeds[row : row + 1], options
        )
        assert torch.equal(together[row, :length], alone[0])


def runs(flags: torch.Tensor) -> list[tuple[int, int]]:
    """Where a row of flags is set: start and end of each run."""
    edges = torch.cat([torch.zeros(1), flags.float(), torch.zeros(1)]).diff().nonzero()[:, 0]
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def test_masks_of_fixed_sizes_are_on_record() -> None:
    """Others would make every run's data others."""
    lengths = [400, 170]
    out = spec_augment(torch.ones(2, 400, 80), torch.tensor(lengths), seeds_of("a", "b"), OPTIONS)
    masked = [out[row, :length] == 0 for row, length in enumerate(lengths)]
    assert [runs(m.all(dim=0)) for m in masked] == [[(25, 42), (47, 57)], [(57, 63), (64, 66)]]
    spans = [(4, 15), (77, 86), (104, 123), (236, 253), (255, 271), (358, 365), (369, 393)]
    assert [runs(m.all(dim=1)) for m in masked] == [spans, [(14, 41), (126, 148)]]


def reference_spans(seed: int, length: int, options: SpecAugmentConfig) -> set[int]:
    """Masked frames of one utterance, as Park et al. 2020 say it, from the draws on."""
    draws = _uniform(torch.tensor([seed]), 2 * options.time_masks)[0].tolist()
    count = min(options.time_masks, int(options.time_mask_ratio * length))
    if not options.time_mask_ratio:
        count = options.time_masks
    longest = int(options.time_width_ratio * length)
    if not options.time_width_ratio:
        longest = options.time_width
    covered, budget = set(), int(options.max_time_fraction * length)
    for width_draw, start_draw in zip(
        draws[:count], draws[options.time_masks :][:count], strict=True
    ):
        width = min(int(width_draw * (longest + 1)), budget)
        budget -= width
        start = int(start_draw * (length - width + 1))
        covered |= set(range(start, start + width))
    return covered


@pytest.mark.parametrize("adaptive", ADAPTIVE)
def test_number_and_width_of_spans_grow_with_the_length(adaptive: dict[str, float]) -> None:
    options = SpecAugmentConfig(frequency_masks=0, **adaptive)
    lengths = [1, 24, 25, 130, 400, 999, 1600]
    seeds = seeds_of(*map(str, lengths))
    out = spec_augment(torch.ones(len(lengths), 1600, 80), torch.tensor(lengths), seeds, options)
    for row, length in enumerate(lengths):
        masked = (out[row, :length] == 0).all(dim=1).nonzero()[:, 0].tolist()
        assert set(masked) == reference_spans(int(seeds[row]), length, options)


@pytest.mark.parametrize("adaptive", [{}, *ADAPTIVE])
def test_widths_grow_with_the_run_up_to_the_full_ones(adaptive: dict[str, float]) -> None:
    lengths, seeds = torch.tensor([700, 1000]), seeds_of("a", "b")
    ones = torch.ones(2, 1000, 80)
    options = SpecAugmentConfig(max_time_fraction=1.0, **adaptive)
    full = spec_augment(ones, lengths, seeds, options)
    growing = options.model_copy(update={"warmup_share": 0.5})
    # Widths are in proportion: the masks at half the strength are those of options half as wide.
    half = {
        "frequency_width": options.frequency_width // 2,
        "time_width": options.time_width // 2,
        "time_width_ratio": options.time_width_ratio / 2,
    }
    halved = spec_augment(ones, lengths, seeds, options.model_copy(update=half))
    masked = [
        float((spec_augment(ones, lengths, seeds, growing, p) == 0).float().mean())
        for p in (1e-9, 0.1, 0.25, 0.5, 1.0)
    ]
    assert masked[0] == 0.0
    assert masked == sorted(masked)
    assert torch.equal(spec_augment(ones, lengths, seeds, growing, 0.25), halved)
    assert torch.equal(spec_augment(ones, lengths, seeds, growing, 0.5), full)
    assert torch.equal(spec_augment(ones, lengths, seeds, growing), full)


def test_adaptive_masks_cover_long_utterances_as_much_as_middling_ones() -> None:
    """Fixed ones cover less the longer the utterance: 16 % of 15 s are masked, 23 % of 4 s."""

    def share(length: int, options: SpecAugmentConfig) -> float:
        seeds = seeds_of(*map(str, range(100)))
        ones = torch.ones(100, length, 80)
        out = spec_augment(ones, torch.full((100,), length), seeds, options)
        return float((out == 0).all(dim=2).float().mean())

    fixed = SpecAugmentConfig(frequency_masks=0, time_masks=20, max_time_fraction=0.375)
    adaptive = SpecAugmentConfig(
        **{**fixed.model_dump(), "time_mask_ratio": 0.04, "time_width_ratio": 0.04}
    )
    assert share(1500, fixed) < 0.7 * share(600, fixed)
    assert share(1500, adaptive) > 0.9 * share(600, adaptive) > 0.25


def test_masks_stay_within_the_options() -> None:
    batch, frames = 200, 300
    lengths = torch.full((batch,), frames)
    seeds = seeds_of(*map(str, range(batch)))
    ones = torch.ones(batch, frames, 80)
    options = SpecAugmentConfig(frequency_masks=0, max_time_fraction=0.2)
    time_masked = (spec_augment(ones, lengths, seeds, options) == 0).all(dim=2).float().mean(dim=1)
    assert time_masked.max() <= 0.2
    assert time_masked.mean() > 0.1
    options = SpecAugmentConfig(time_masks=0)
    bands = (spec_augment(ones, lengths, seeds, options) == 0).all(dim=1).sum(dim=1)
    assert bands.max() <= 54
    assert 15 < bands.float().mean() < 27
    assert len({int(n) for n in bands}) > 20


def test_short_utterances_get_fewer_spans() -> None:
    options = SpecAugmentConfig(frequency_masks=0)
    ones = torch.ones(50, 49, 80)
    seeds = seeds_of(*map(str, range(50)))
    assert torch.equal(spec_augment(ones, torch.full((50,), 49), seeds, options), ones)


def test_input_is_left_alone_and_no_masks_is_the_identity() -> None:
    features = random_features(2, 200)
    before = features.clone()
    lengths, seeds = torch.tensor([200, 100]), seeds_of("a", "b")
    assert not torch.equal(spec_augment(features, lengths, seeds, OPTIONS), before)
    assert torch.equal(features, before)
    off = SpecAugmentConfig(frequency_masks=0, time_masks=0)
    assert torch.equal(spec_augment(features, lengths, seeds, off), before)


def test_draws_equal_splitmix64() -> None:
    def reference(seed: int, count: int) -> list[float]:
        mask, draws = 2**64 - 1, []
        state = seed
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) & mask
            z = state
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            z ^= z >> 31
            draws.append((z >> 11) * 2.0**-53)
        return draws

    seeds = [0, 1, 2**62 + 12345, -7]
    drawn = _uniform(torch.tensor(seeds), 8)
    for row, seed in enumerate(seeds):
        assert drawn[row].tolist() == reference(seed & (2**64 - 1), 8)


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.0, 1.15])
def test_a_stretched_vocal_tract_moves_formants_and_keeps_the_nyquist_frequency(
    factor: float,
) -> None:
    """Against np.interp over frequencies in Hz, with the mel scale written out again."""
    sample_rate, n_mels = 16000, 80
    mel = 1127 * np.log1p(np.array([20.0, 8000.0]) / 700)
    centres = 700 * np.expm1(np.linspace(*mel, n_mels + 2)[1:-1] / 1127)
    smooth = np.exp(-(((centres[:, None] - [500, 1500, 2500]) / 300) ** 2)).sum(1)
    features = torch.tensor(smooth, dtype=torch.float32).expand(2, 5, n_mels)

    warped = perturb_vocal_tract(features, seeds_of("a", "b"), (factor, factor), sample_rate)

    expected = np.interp(centres / factor, centres, smooth)
    below = centres < 4800 * min(factor, 1.0)
    np.testing.assert_allclose(warped[1, 4].numpy()[below], expected[below], atol=0.02)
    ramp = torch.linspace(0, 1, n_mels).expand(1, 1, n_mels)
    top = perturb_vocal_tract(ramp, seeds_of("a"), (factor, factor), sample_rate)[0, 0]
    assert bool((top.diff() >= 0).all())  # no frequency overtakes another
    assert float(top[-1]) == pytest.approx(1.0, abs=0.02)


def test_a_vocal_tract_is_the_utterances_own() -> None:
    features = random_features(3, 20)
    seeds = seeds_of("a", "b", "c")
    together = perturb_vocal_tract(features, seeds, (0.8, 1.2), 16000)
    alone = perturb_vocal_tract(features[1:2, :12], seeds[1:2], (0.8, 1.2), 16000)
    assert torch.equal(together[1, :12], alone[0])
    assert not torch.equal(
        together[0], perturb_vocal_tract(features, seeds + 1, (0.8, 1.2), 16000)[0]
    )
