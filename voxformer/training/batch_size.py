"""`training.batch_seconds: auto`: the largest micro-batch that the card holds, found by trying."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from voxformer.config import RunConfig
from voxformer.data.loader import Batch
from voxformer.data.manifest import Utterance
from voxformer.text import Tokenizer
from voxformer.training.memory import bytes_of_optimizer, room_on_gpu
from voxformer.training.muon import Optimizers
from voxformer.training.objectives import Objective
from voxformer.training.precision import Precision
from voxformer.training.setup import RunError, Start, ctc_weight_range

logger = logging.getLogger("voxformer.training")

CPU_BATCH_SECONDS = 60.0
"""On a CPU, which gains nothing from more, and whose memory is not the run's alone."""
LONGEST = 100
"""Utterances among which the most tokens are looked for."""


@dataclass(frozen=True)
class Trial:
    """A network in training, on which the memory of a step can be measured."""

    config: RunConfig
    module: nn.Module
    objective: Objective
    optimizer: Optimizers
    precision: Precision


def batch_seconds(
    trial: Trial, start: Start, utterances: Sequence[Utterance], tokenizer: Tokenizer | None
) -> float | None:
    """`training.batch_seconds` as a number, or None for no limit.

    A run that goes on keeps the number that it began with, whatever the card now is, since its
    batches follow from it.

    Raises:
        RunError: not even one of the longest utterances fits.
    """
    wanted = trial.config.training.batch_seconds
    if wanted != "auto":
        return wanted
    if start.resumed is not None:
        saved = start.resumed["config"]["training"].get("batch_seconds")
        if saved != "auto":
            logger.info("batch_seconds: %s, as the run began", saved)
            return None if saved is None else float(saved)
    device = trial.precision.device
    if device.type != "cuda":
        return CPU_BATCH_SECONDS
    found = search(trial, utterances, tokenizer, _peak_on_gpu, room_on_gpu(device))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return found


def search(
    trial: Trial,
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer | None,
    peak: Callable[[Trial, Batch], int | None],
    room: int,
) -> float:
    """Seconds of the largest batch of the longest utterances whose step fits.

    Utterances are taken as long as perturbed speed and tempo can make them. Shorter ones with as
    many seconds need less: attention grows with the square of the length.

    Args:
        trial: what is trained.
        utterances: of the training set.
        tokenizer: for the most tokens of an utterance; None in pre-training.
        peak: bytes at the peak of a step with a batch, None if there was no memory for it.
        room: bytes that there are.

    Raises:
        RunError: one utterance alone does not fit.
    """
    config = trial.config
    longest = max(u.duration for u in utterances)
    stretched = longest / config.augment.slowest
    by_length = sorted(utterances, key=lambda u: -u.duration)[:LONGEST]
    tokens = max(len(tokenizer.encode(u.text)) for u in by_length) if tokenizer else 0
    later = bytes_of_optimizer(trial.optimizer)

    def fits(count: int) -> bool:
        needed = peak(trial, made_up_batch(config, count, stretched, tokens))
        return needed is not None and needed + later <= room

    count = largest(fits, config.training.batch_size)
    if count == 0:
        raise RunError(
            f"training.batch_seconds: auto: a step with one utterance of {stretched:.1f} s does "
            f"not fit into {room / 2**30:.1f} GiB; lower data.max_duration or the model's sizes"
        )
    logger.info(
        "batch_seconds: %.1f, by search: %d utterances of up to %.1f s%s",
        count * longest,
        count,
        longest,
        ", all of training.batch_size" if count == config.training.batch_size else "",
    )
    return count * longest


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, 0 if none; `fits` is true up to some number.

    By doubling, then halving the interval, so that far too much is never tried.
    """
    good, bad = 0, 1
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def made_up_batch(config: RunConfig, count: int, seconds: float, tokens: int) -> Batch:
    """Noise in place of speech; what is in a batch changes no amount of memory or time."""
    samples = int(seconds * config.model.sample_rate)
    generator = torch.Generator().manual_seed(0)
    return Batch(
        ids=["made up"] * count,
        waveforms=0.1 * torch.randn(count, samples, generator=generator),
        waveform_lengths=torch.full((count,), samples),
        tokens=torch.ones(count, tokens, dtype=torch.int64),
        token_lengths=torch.full((count,), tokens),
        texts=[""] * count,
        seeds=torch.arange(count),
        audio_seconds=count * seconds,
    )


def forward_pass(trial: Trial, batch: Batch) -> Tensor:
    """The loss of a step with one micro-batch."""
    weight = sum(ctc_weight_range(trial.config)) / 2
    trial.module.train()
    try:
        with trial.precision.autocast():
            return trial.objective.share(batch, trial.objective.weigh(batch), weight).loss
    finally:
        trial.objective.epoch_summary()


def make_step(trial: Trial, batch: Batch) -> None:
    """Forward and backward pass of a step with one micro-batch; nothing that is saved changes."""
    try:
        forward_pass(trial, batch).backward()  # type: ignore[no-untyped-call]
    finally:
        trial.module.zero_grad(set_to_none=True)


def _peak_on_gpu(trial: Trial, batch: Batch) -> int | None:
    device = trial.precision.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        make_step(trial, batch)
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(device)
