"""Rooms that are made up: what they do to a waveform, and that their numbers tell them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.config import AugmentConfig
from voxformer.data.augment import Augmenter
from voxformer.data.reverberation import Room, draw_room, impulse_response, reverberate
from voxformer.data.seeds import derived_generator

RATE = 16000


@given(st.integers(1, 400), st.integers(2, 300), st.integers(0, 5))
def test_a_room_is_a_convolution_of_the_same_length_and_power(
    samples: int, length: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    waveform = generator.standard_normal(samples).astype(np.float32)
    response = generator.standard_normal(length).astype(np.float32)
    heard = reverberate(waveform, response)
    expected = np.convolve(waveform.astype(float), response.astype(float))[:samples]
    expected *= np.sqrt(np.square(waveform, dtype=float).mean() / np.square(expected).mean())
    np.testing.assert_allclose(heard, expected, atol=2e-4)


@pytest.mark.parametrize("decay_s", [0.2, 0.6])
@pytest.mark.parametrize("direct_db", [0.0, 10.0])
def test_the_tail_decays_by_60_db_in_its_time(decay_s: float, direct_db: float) -> None:
    room = Room(decay_s, 0.01, direct_db)
    response = impulse_response(room, RATE, np.random.default_rng(1)).astype(float)
    assert response[0] == 1.0
    assert not response[1:160].any()
    tail = np.square(response[160:])
    assert 10 * np.log10(1.0 / tail.sum()) == pytest.approx(direct_db, abs=0.01)
    # Schroeder's integral falls in a straight line of -60 dB a decay time.
    level = 10 * np.log10(tail[::-1].cumsum()[::-1] / tail.sum())
    time = np.arange(len(level)) / RATE
    part = (level < -3) & (level > -25)
    slope = np.polyfit(time[part], level[part], 1)[0]
    assert slope * decay_s == pytest.approx(-60, rel=0.1)


def test_drawn_rooms_are_within_their_range_and_a_function_of_the_generator() -> None:
    rooms = [draw_room((0.1, 0.5), derived_generator("room", i % 50)) for i in range(100)]
    assert rooms[:50] == rooms[50:]
    decays = [room.decay_s for room in rooms[:50]]
    assert min(decays) < 0.2
    assert max(decays) > 0.4
    assert all(0.1 <= decay <= 0.5 for decay in decays)


def test_silence_stays_silence_and_no_room_changes_nothing_else() -> None:
    silence = np.zeros(1000, dtype=np.float32)
    options = {"speed_factors": [1.0], "gain_db": 0.0, "noise_probability": 0.0}
    rooms = Augmenter(AugmentConfig(**options, reverb_probability=1.0))
    assert not rooms(silence, np.random.default_rng(0)).any()
    speech = np.random.default_rng(3).standard_normal(1000).astype(np.float32)
    heard = rooms(speech, np.random.default_rng(0))
    assert heard.shape == speech.shape
    assert np.abs(heard - speech).max() > 0.05
    # The default's draws are what they were before there were rooms.
    generator, plain = np.random.default_rng(0), Augmenter(AugmentConfig(**options))
    np.testing.assert_array_equal(plain(speech, generator), speech)
    other = np.random.default_rng(0)
    other.choice([1.0])
    other.random()
    other.uniform(0.0, 0.0)
    assert generator.random() == other.random()
