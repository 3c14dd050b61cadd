"""Which micro-batches a step has, and which of them are this process's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from voxformer.config import RunConfig
from voxformer.data.loader import Batch, WaveformCache, iterate_batches
from voxformer.data.manifest import Utterance
from voxformer.data.sampler import BucketingSampler
from voxformer.text import Tokenizer
from voxformer.training.distributed import Processes


def steps_of_epoch(
    config: RunConfig,
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer | None,
    sampler: BucketingSampler,
    epoch: int,
    first: int,
    processes: Processes,
    cache: WaveformCache | None,
) -> Iterator[tuple[list[Batch], int]]:
    """Steps of an epoch from micro-batch `first` on.

    Yields:
        This process's micro-batches of a step, every n-th of n processes, and how many of the
        epoch are used once all processes have had theirs.
    """
    training = config.training
    batches = iterate_batches(
        utterances,
        tokenizer,
        sampler,
        epoch,
        first + processes.rank,
        augment=config.augment,
        seed=training.seed,
        num_workers=training.num_workers,
        sample_rate=config.model.sample_rate,
        cache=cache,
        every=processes.count,
    )
    count = sampler.num_batches(epoch)
    per_step = training.gradient_accumulation_steps * processes.count
    for start in range(first, count, per_step):
        end = min(start + per_step, count)
        own = len(range(start + processes.rank, end, processes.count))
        yield list(itertools.islice(batches, own)), end
