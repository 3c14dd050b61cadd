"""Batches of similar duration whose position is a number.

The plan of an epoch is a function of (durations, weights, seed, epoch), so `batch(epoch, index)`
seeks without replaying what came before. Of several processes each computes the same plan and takes
every n-th batch: how many there are changes who computes a batch, never which batches there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .seeds import derived_generator

# Durations are spread by this factor before sorting: neighbours change from epoch to epoch while
# padding stays small.
_JITTER = 0.1


class BucketingSampler:
    """Micro-batches of at most `batch_size` utterances and `batch_seconds` of padded audio.

    Args:
        durations: seconds, one for each utterance; an index into it names the utterance.
        batch_size: utterances in a batch, at most.
        batch_seconds: longest duration × utterances, at most; None is no limit. An utterance that
            is longer on its own makes a batch of one. Perturbed speed and tempo are not counted.
            It also makes batches cost about the same, so that processes wait less for each other.
        seed: of the run.
        weights: how often an epoch draws each utterance; 1 by default. Of a fraction, as many
            utterances of equal weight as it says (± 1) are drawn once more, others in each epoch.
    """

    def __init__(
        self,
        durations: Sequence[float],
        batch_size: int,
        batch_seconds: float | None,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        if len(durations) == 0:
            raise ValueError("a sampler needs at least one utterance")
        self._durations = np.asarray(durations, dtype=np.float64)
        self._weights = np.asarray(weights or [1.0] * len(durations), dtype=np.float64)
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._seed = seed
        self._planned_epoch: int | None = None
        self._plan: list[list[int]] = []

    def num_batches(self, epoch: int) -> int:
        """Batches in an epoch; their number differs a little from one epoch to another."""
        return len(self._epoch_plan(epoch))

    def batch(self, epoch: int, index: int) -> list[int]:
        """Draws of batch `index` (from 0) of an epoch (from 0).

        A draw is an utterance's index plus the number of utterances for each time that the epoch
        has drawn it before, so that the copies of an utterance are told apart.
        """
        count = self.num_batches(epoch)
        if not 0 <= index < count:
            raise IndexError(f"batch {index} of epoch {epoch} is not in 0..{count - 1}")
        return list(self._plan[index])

    def _epoch_plan(self, epoch: int) -> list[list[int]]:
        if epoch != self._planned_epoch:
            self._plan = self._make_plan(epoch)
            self._planned_epoch = epoch
        return self._plan

    def _make_plan(self, epoch: int) -> list[list[int]]:
        draws = self._draws(epoch)
        durations = self._durations[draws % len(self._durations)]
        generator = derived_generator("batches", self._seed, epoch)
        spread = generator.uniform(1 - _JITTER, 1 + _JITTER, len(draws))
        batches = self._pack(durations, np.argsort(durations * spread, kind="stable"))
        batches.sort(key=lambda batch: float(durations[batch].max()) * len(batch))
        return [draws[batches[int(i)]].tolist() for i in generator.permutation(len(batches))]

    def _draws(self, epoch: int) -> NDArray[np.int64]:
        """What the epoch draws: each utterance as often as its weight says.

        Fractions are drawn by systematic sampling (Madow & Madow 1944): along a random order,
        within utterances of equal weight, their sum passes a whole number at each that is taken.
        """
        times = np.floor(self._weights)
        fractions = self._weights - times
        if fractions.any():
            generator = derived_generator("weights", self._seed, epoch)
            order = np.lexsort((generator.random(len(fractions)), self._weights))
            passed = np.floor(np.cumsum(fractions[order]) + generator.random())
            times[order] += np.diff(passed, prepend=0.0) > 0.0
        count = len(times)
        copies = [np.flatnonzero(times > k) + k * count for k in range(int(times.max()))]
        return np.concatenate(copies)

    def _pack(self, durations: NDArray[np.float64], order: NDArray[np.int64]) -> list[list[int]]:
        batches: list[list[int]] = []
        current: list[int] = []
        longest = 0.0
        for index in order.tolist():
            duration = float(durations[index])
            new_longest = max(longest, duration)
            too_many = len(current) == self._batch_size
            too_long = (
                self._batch_seconds is not None
                and new_longest * (len(current) + 1) > self._batch_seconds
            )
            if current and (too_many or too_long):
                batches.append(current)
                current, new_longest = [], duration
            current.append(index)
            longest = new_longest
        batches.append(current)
        return batches
