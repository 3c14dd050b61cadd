"""Another tempo at the same pitch: what holds for tones, glides and any length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.config import AugmentConfig
from voxformer.data.augment import Augmenter
from voxformer.data.seeds import derived_generator
from voxformer.data.tempo import DRIFT_S, FASTEST, SEGMENT_S, SLOWEST, change_tempo

RATE = 16000
FACTORS = [SLOWEST, 0.9, 0.95, 1.05, 1.1, FASTEST]
PLAIN = {"speed_factors": [1.0], "gain_db": 0.0, "noise_probability": 0.0}


def tone(hz: float, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hz * time).astype(np.float32)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 0.5, samples).astype(np.float32)


def power_of(samples: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the power at each, through a Hann window."""
    windowed = samples.astype(np.float64) * np.hanning(len(samples))
    return np.fft.rfftfreq(len(samples), 1 / rate), np.abs(np.fft.rfft(windowed)) ** 2


@given(st.integers(0, 4000), st.floats(SLOWEST, FASTEST), st.sampled_from([8000, 16000]))
def test_the_length_is_over_the_factor_and_both_ends_stay(
    samples: int, factor: float, rate: int
) -> None:
    speech = noise(samples)
    before = speech.copy()
    changed = change_tempo(speech, factor, rate)
    assert changed.dtype == np.float32
    assert abs(len(changed) - samples / factor) <= DRIFT_S * rate + 1
    np.testing.assert_array_equal(changed[:16], speech[:16])
    np.testing.assert_array_equal(changed[-16:], speech[-16:])
    assert np.abs(changed).max(initial=0.0) <= 0.5  # fades mix, they do not add
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("factor", FACTORS)
def test_many_seconds_are_as_much_shorter_as_asked_for(factor: float) -> None:
    assert len(change_tempo(noise(20 * RATE), factor)) / RATE == pytest.approx(
        20 / factor, abs=DRIFT_S + 1e-4
    )


@pytest.mark.parametrize("samples", [0, 1, 300, round(SEGMENT_S * RATE) - 1])
@pytest.mark.parametrize("factor", [SLOWEST, FASTEST])
def test_what_is_very_short_stays_as_it_is(samples: int, factor: float) -> None:
    np.testing.assert_array_equal(change_tempo(noise(samples), factor), noise(samples))


@pytest.mark.parametrize("hz", [70.0, 123.0, 220.0, 441.7, 1000.0, 3333.0])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_tone_keeps_its_pitch_without_clicks(hz: float, factor: float) -> None:
    """Shifts are whole periods but for half a sample: what a listener would hear of the joints is
    45 dB below the tone. Of shifts that do not look at the wave most are at 10 to 20 dB."""
    frequency, power = power_of(change_tempo(tone(hz), factor))
    assert frequency[power.argmax()] == pytest.approx(hz, abs=0.7)
    beside = np.abs(frequency - hz) > 30
    assert 10 * np.log10(power[~beside].sum() / power[beside].sum()) > 45


@pytest.mark.parametrize("factor", FACTORS)
def test_where_no_shift_fits_there_is_no_click_either(factor: float) -> None:
    """Of tones that share no period; without cross-fades the bands are 35 dB apart."""
    chord = np.sum([tone(hz) for hz in (97.3, 171.9, 263.1, 401.7)], axis=0)
    frequency, power = power_of(change_tempo(chord, factor))
    above = frequency > 1000
    assert 10 * np.log10(power[~above].sum() / power[above].sum()) > 80


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_harmonic_glide_has_the_pitch_of_its_place(factor: float, rate: int) -> None:
    """A voice that rises from 100 to 250 Hz in four seconds, with eight harmonics."""
    time = np.arange(4 * rate) / rate
    phase = 2 * np.pi * (100 * time + 150 * time**2 / 8)
    voice = sum(np.cos(n * phase) / n for n in range(1, 9)).astype(np.float32) / 4
    changed = change_tempo(voice, factor, rate)
    window = rate // 8
    for start in range(0, len(changed) - window, window):
        frequency, power = power_of(np.pad(changed[start : start + window], (0, 7 * rate)), rate)
        shown = frequency[power.argmax()]
        heard = (start + window / 2) / rate * factor  # the place in the original, in seconds
        expected = 100 + 150 * heard / 4
        # 150 Hz in 4 s: 20 ms of timing are 0.75 Hz; the window is a coarser ruler than that.
        assert shown == pytest.approx(expected, abs=2.5)


def test_1_is_the_identity_and_other_factors_are_refused() -> None:
    speech = noise(RATE)
    np.testing.assert_array_equal(change_tempo(speech, 1.0), speech)
    for factor in (0.5, 1.3, float("nan")):
        with pytest.raises(ValueError, match=r"tempo factor .* is not in 0\.8 to 1\.25"):
            change_tempo(speech, factor)


def test_silence_stays_silent_and_results_do_not_change() -> None:
    assert not change_tempo(np.zeros(RATE, np.float32), 1.1).any()
    speech = noise(3 * RATE)
    np.testing.assert_array_equal(change_tempo(speech, 0.9), change_tempo(speech, 0.9))


def test_a_tempo_that_breaks_alignment_is_not_applied() -> None:
    augmenter = Augmenter(AugmentConfig(**PLAIN, tempo_factors=[1.25]))
    speech = noise(RATE)
    assert len(augmenter(speech, derived_generator(1))) < 0.81 * RATE
    kept = augmenter(speech, derived_generator(1), can_align=lambda n: n >= RATE)
    np.testing.assert_array_equal(kept, speech)


def test_tempo_comes_after_speed_and_is_drawn_from_its_factors() -> None:
    augmenter = Augmenter(
        AugmentConfig(**{**PLAIN, "speed_factors": [1.25]}, tempo_factors=[0.8, 1.0, 1.25])
    )
    lengths = {
        round(len(augmenter(noise(RATE), derived_generator(1, epoch))) / RATE, 1)
        for epoch in range(30)
    }
    assert lengths == {0.6, 0.8, 1.0}


def test_the_slowest_factors_bound_the_length() -> None:
    config = AugmentConfig(**{**PLAIN, "speed_factors": [1.1, 0.9]}, tempo_factors=[1.0, 0.8])
    assert config.slowest == pytest.approx(0.72)
    longest = max(
        len(Augmenter(config)(noise(RATE), derived_generator(1, epoch))) for epoch in range(20)
    )
    assert longest / RATE == pytest.approx(1 / config.slowest, abs=DRIFT_S + 1e-4)


def test_without_tempo_the_draws_are_what_they_were() -> None:
    generator, other = np.random.default_rng(0), np.random.default_rng(0)
    Augmenter(AugmentConfig(**PLAIN))(noise(1000), generator)
    other.choice([1.0])
    other.random()
    other.uniform(0.0, 0.0)
    assert generator.random() == other.random()
