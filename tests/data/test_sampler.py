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
