"""Batches of similar duration whose position is a number.

The plan of an epoch is a function of (durations, seed, epoch), so `batch(epoch, index)` seeks
without replaying what came before. Of several processes each computes the same plan and takes every
n-th batch: how many there are changes who computes a batch, never which batches there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
            is longer on its own makes a batch of one. Speed perturbation is not counted. It also
            makes batches cost about the same, so that processes wait less for each other.
        seed: of the run.
    """

    def __init__(
        self,
        durations: Sequence[float],
        batch_size: int,
        batch_seconds: float | None,
        seed: int,
    ) -> None:
        if len(durations) == 0:
            raise ValueError("a sampler needs at least one utterance")
        self._durations = np.asarray(durations, dtype=np.float64)
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._seed = seed
        self._planned_epoch: int | None = None
        self._plan: list[list[int]] = []

    def num_batches(self, epoch: int) -> int:
        """Batches in an epoch; their number differs a little from one epoch to another."""
        return len(self._epoch_plan(epoch))

    def batch(self, epoch: int, index: int) -> list[int]:
        """Utterance indices of batch `index` (from 0) of an epoch (from 0)."""
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
        generator = derived_generator("batches", self._seed, epoch)
        spread = generator.uniform(1 - _JITTER, 1 + _JITTER, len(self._durations))
        batches = self._pack(np.argsort(self._durations * spread, kind="stable"))
        batches.sort(key=lambda batch: float(self._durations[batch].max()) * len(batch))
        return [batches[int(index)] for index in generator.permutation(len(batches))]

    def _pack(self, order: np.ndarray) -> list[list[int]]:
        batches: list[list[int]] = []
        current: list[int] = []
        longest = 0.0
        for index in order.tolist():
            duration = float(self._durations[index])
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
