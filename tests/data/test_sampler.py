from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.data.sampler import BucketingSampler

DURATIONS = np.random.default_rng(1).gamma(4.0, 1.5, 997).tolist()


def epoch_of(sampler: BucketingSampler, epoch: int) -> list[list[int]]:
    return [sampler.batch(epoch, i) for i in range(sampler.num_batches(epoch))]


@given(
    durations=st.lists(st.floats(0.1, 60.0), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    batch_seconds=st.none() | st.floats(1.0, 100.0),
    epoch=st.integers(0, 5),
)
def test_an_epoch_holds_every_utterance_once_within_the_limits(
    durations: list[float], batch_size: int, batch_seconds: float | None, epoch: int
) -> None:
    batches = epoch_of(BucketingSampler(durations, batch_size, batch_seconds, seed=3), epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    for batch in batches:
        assert len(batch) <= batch_size
        if batch_seconds is not None and len(batch) > 1:
            assert max(durations[i] for i in batch) * len(batch) <= batch_seconds


def test_any_position_gives_the_batch_that_reading_up_to_it_gives() -> None:
    whole = epoch_of(BucketingSampler(DURATIONS, 16, 120.0, seed=1), 7)
    # A fresh sampler, asked out of order and after another epoch.
    sampler = BucketingSampler(DURATIONS, 16, 120.0, seed=1)
    sampler.batch(2, 0)
    for index in (len(whole) - 1, 0, 17):
        assert sampler.batch(7, index) == whole[index]


def test_epochs_and_seeds_differ() -> None:
    sampler = BucketingSampler(DURATIONS, 16, None, seed=1)
    assert epoch_of(sampler, 0) != epoch_of(sampler, 1)
    assert epoch_of(sampler, 0) != epoch_of(BucketingSampler(DURATIONS, 16, None, seed=2), 0)


def test_little_of_a_batch_is_padding() -> None:
    batches = epoch_of(BucketingSampler(DURATIONS, 16, None, seed=1), 0)
    padded = sum(max(DURATIONS[i] for i in b) * len(b) for b in batches)
    assert padded < 1.12 * sum(DURATIONS)


@pytest.mark.parametrize("processes", [2, 8])
def test_with_a_limit_in_seconds_processes_wait_little_for_each_other(processes: int) -> None:
    sampler = BucketingSampler(DURATIONS, 64, 60.0, seed=1)
    # Seconds with padding, [step, process]: what the slowest of each step costs the others.
    padded = np.array([max(DURATIONS[i] for i in b) * len(b) for b in epoch_of(sampler, 4)])
    padded = padded[: len(padded) // processes * processes].reshape(-1, processes)
    assert padded.max(axis=1).mean() < 1.1 * padded.mean()


def test_positions_outside_the_epoch_are_refused() -> None:
    sampler = BucketingSampler([1.0, 2.0], 1, None, 1)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="epoch 0"):
            sampler.batch(0, index)
    with pytest.raises(ValueError, match="at least one"):
        BucketingSampler([], 1, None, 1)


@given(
    sets=st.lists(
        st.tuples(st.integers(1, 40), st.floats(0.01, 4.0)), min_size=1, max_size=4
    ).filter(lambda sets: sum(n * w for n, w in sets) >= 1.0),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 5),
)
def test_an_epoch_draws_each_set_as_often_as_its_weight_says(
    sets: list[tuple[int, float]], epoch: int, seed: int
) -> None:
    weights = [weight for count, weight in sets for _ in range(count)]
    durations = np.random.default_rng(0).uniform(1, 9, len(weights)).tolist()
    sampler = BucketingSampler(durations, 4, None, seed, weights=weights)
    draws = [draw for batch in epoch_of(sampler, epoch) for draw in batch]
    assert len(draws) == len(set(draws))
    copies, indices = np.divmod(draws, len(weights))
    times = np.bincount(indices, minlength=len(weights))
    assert (times >= np.floor(weights)).all()
    assert (times <= np.ceil(weights)).all()
    for index in range(len(weights)):
        assert sorted(copies[indices == index]) == list(range(times[index]))
    assert abs(len(draws) - sum(weights)) < 1 + 1e-9
    for weight in set(weights):
        members = np.array(weights) == weight
        # The sum may pass a whole number at either end of a set.
        assert abs(times[members].sum() - weight * members.sum()) < 2 + 1e-9


def test_weights_of_one_change_no_plan() -> None:
    plain = BucketingSampler(DURATIONS, 16, 120.0, seed=1)
    weighted = BucketingSampler(DURATIONS, 16, 120.0, seed=1, weights=[1.0] * len(DURATIONS))
    assert epoch_of(plain, 3) == epoch_of(weighted, 3)


def test_fractions_are_others_in_each_epoch_and_any_position_can_be_asked_for() -> None:
    weights = [0.25] * 400 + [1.5] * (len(DURATIONS) - 400)
    sampler = BucketingSampler(DURATIONS, 16, 120.0, seed=1, weights=weights)
    times = np.zeros(len(DURATIONS))
    for epoch in range(80):
        draws = np.concatenate(epoch_of(sampler, epoch))
        times += np.bincount(draws % len(DURATIONS), minlength=len(DURATIONS))
    # A quarter of 80 draws is 20, with a standard deviation of sqrt(15).
    assert abs(times[:400].mean() - 20) < 0.1
    assert 20 - 6 * 15**0.5 < times[:400].min() < 20 < times[:400].max() < 20 + 6 * 15**0.5
    assert abs(times[400:].mean() - 120) < 0.1
    whole = epoch_of(sampler, 7)
    fresh = BucketingSampler(DURATIONS, 16, 120.0, seed=1, weights=weights)
    for index in (len(whole) - 1, 0, 17):
        assert fresh.batch(7, index) == whole[index]
