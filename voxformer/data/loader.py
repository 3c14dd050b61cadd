"""Utterances as tensors, in the order of the sampler, read ahead by worker processes.

An epoch can be entered at any batch: what a batch holds is a function of (seed, epoch, index),
not of the workers or of what was read before. A recording that fails in the middle of an epoch
is left out of its batch and named in `Batch.bad`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..audio.io import AudioError, read_audio_int16
from ..config.schema import AugmentConfig
from ..text import Tokenizer
from .augment import Augmenter
from .checks import ctc_frames_needed, encoder_frames
from .manifest import Utterance
from .sampler import BucketingSampler
from .seeds import derived_generator, derived_seed

WaveformCache = Mapping[str, NDArray[np.int16]]

# A recording may differ from its manifest's duration by so much; more means that it was cut off.
_DURATION_TOLERANCE_S = 0.25
_DURATION_TOLERANCE = 0.05

_SIGNAL_SECONDS = 2.0
"""In which the signal of a process's death has come."""


@dataclass
class Batch:
    """One micro-batch; it may be empty when all its recordings failed."""

    ids: list[str]
    waveforms: torch.Tensor
    """float32 [batch, samples], zero-padded."""
    waveform_lengths: torch.Tensor
    """int64 [batch]."""
    tokens: torch.Tensor
    """int64 [batch, max_tokens], padded with 0 (`<blank>`); [batch, 0] without a tokenizer."""
    token_lengths: torch.Tensor
    """int64 [batch]."""
    texts: list[str]
    """As in the manifest."""
    seeds: torch.Tensor
    """int64 [batch]: of each utterance in this epoch, for masks drawn later."""
    audio_seconds: float
    """Without padding, after perturbation of speed and tempo."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(utterance id, reason) of what could not be read."""

    def __len__(self) -> int:
        return len(self.ids)


def iterate_batches(
    utterances: Sequence[Utterance],
    tokenizer: Tokenizer | None,
    sampler: BucketingSampler,
    epoch: int,
    start_index: int = 0,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    num_workers: int = 0,
    sample_rate: int = 16000,
    cache: WaveformCache | None = None,
    every: int = 1,
) -> Iterator[Batch]:
    """Batches `start_index`, `start_index + every`, … of an epoch, in order.

    Args:
        utterances: what the sampler's draws mean, see `BucketingSampler.batch`.
        tokenizer: None gives batches without tokens.
        sampler: the plan of the epoch.
        epoch: from 0.
        start_index: first batch; resuming there gives the same batches as reading up to it.
        augment: None changes nothing (evaluation).
        seed: of the run.
        num_workers: processes that read ahead; 0 reads in this one. Batches do not depend on it.
        sample_rate: of the waveforms.
        cache: decoded recordings from `decode_all`; what it lacks is read from its file.
        every: of n processes each reads every n-th batch, from one of its own on.
    """
    dataset = _Utterances(utterances, tokenizer, epoch, augment, seed, sample_rate, cache or {})
    indices = range(start_index, sampler.num_batches(epoch), every)
    plan = [sampler.batch(epoch, i) for i in indices]
    loader: DataLoader[_Example | _Failure] = DataLoader(
        dataset,
        batch_sampler=plan,
        num_workers=num_workers,
        collate_fn=_Collate(sample_rate),
        prefetch_factor=4 if num_workers else None,
        # Other ways to start would import torch anew in every epoch and copy the cache.
        multiprocessing_context="fork" if num_workers else None,
        worker_init_fn=_leave_to_parent if num_workers else None,
        # By default the loader draws from torch's global generator, and a resumed run would differ.
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of threads at every fork; the workers touch neither locks nor CUDA.
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        batches = iter(loader)
    return _until_a_worker_dies(batches) if num_workers else batches


def _until_a_worker_dies(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; a worker's death is always DataLoader's RuntimeError that says so.

    DataLoader raises it when the signal of the death comes. The connection over which a batch is
    taken from that worker may break before.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError):
            time.sleep(_SIGNAL_SECONDS)  # the signal's handler raises in here
            raise
        yield batch


def decode_all(
    utterances: Sequence[Utterance],
    sample_rate: int = 16000,
    max_hours: float = 2.0,
    num_threads: int | None = None,
) -> WaveformCache | None:
    """Decode a small set once, to keep in memory (115 MB an hour); None when it is larger.

    Ogg/Opus decodes at about 330 times real time on one core, which a small model's epoch would
    pay every time. Forked workers share the memory. Recordings that fail are left out: they are
    reported where they are needed.
    """
    if sum(u.duration for u in utterances) > max_hours * 3600:
        return None

    def decode(utterance: Utterance) -> NDArray[np.int16] | None:
        try:
            return _read_int16(utterance, sample_rate)
        except (AudioError, OSError):
            return None

    with ThreadPoolExecutor(num_threads) as pool:
        decoded = pool.map(decode, utterances)
        return {
            u.id: samples
            for u, samples in zip(utterances, decoded, strict=True)
            if samples is not None
        }


@dataclass
class _Example:
    utterance: Utterance
    waveform: NDArray[np.float32]
    tokens: list[int]
    seed: int


@dataclass
class _Failure:
    id: str
    reason: str


class _Utterances(Dataset["_Example | _Failure"]):
    """The sampler's draw to augmented waveform and tokens."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer | None,
        epoch: int,
        augment: AugmentConfig | None,
        seed: int,
        sample_rate: int,
        cache: WaveformCache,
    ) -> None:
        self._utterances = utterances
        self._tokenizer = tokenizer
        self._epoch = epoch
        self._augmenter = None if augment is None else Augmenter(augment, sample_rate)
        self._seed = seed
        self._sample_rate = sample_rate
        self._cache = cache

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, draw: int) -> _Example | _Failure:
        copy, index = divmod(draw, len(self._utterances))
        utterance = self._utterances[index]
        # Each copy of an utterance in an epoch is augmented in its own way.
        source: list[int | str] = [self._seed, self._epoch, utterance.id]
        source += [copy] if copy else []
        tokens = [] if self._tokenizer is None else self._tokenizer.encode(utterance.text)
        try:
            waveform = self._waveform(utterance, ctc_frames_needed(tokens), source)
        except (AudioError, OSError) as error:
            return _Failure(utterance.id, str(error))
        return _Example(utterance, waveform, tokens, derived_seed("features", *source))

    def _waveform(
        self, utterance: Utterance, frames_needed: int, source: Sequence[int | str]
    ) -> NDArray[np.float32]:
        samples = self._cache.get(utterance.id)
        if samples is None:
            samples = _read_int16(utterance, self._sample_rate)
        waveform = np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)

        def can_align(num_samples: int) -> bool:
            return encoder_frames(num_samples, self._sample_rate) >= max(frames_needed, 1)

        if not can_align(len(waveform)):
            raise AudioError(
                f"{utterance.audio_path}: {len(waveform) / self._sample_rate:.2f} s of audio "
                f"cannot be aligned with {frames_needed} CTC labels"
            )
        if self._augmenter is None:
            return waveform
        return self._augmenter(waveform, derived_generator("waveform", *source), can_align)


def _read_int16(utterance: Utterance, sample_rate: int) -> NDArray[np.int16]:
    """Samples at 16 bits, whether cached or not, so that a cache changes no result."""
    samples = read_audio_int16(utterance.audio_path, sample_rate)
    seconds = len(samples) / sample_rate
    if utterance.duration - seconds > max(
        _DURATION_TOLERANCE_S, _DURATION_TOLERANCE * utterance.duration
    ):
        raise AudioError(
            f"{utterance.audio_path}: truncated audio: {seconds:.2f} s where the manifest says "
            f"{utterance.duration:.2f} s"
        )
    return samples


class _Collate:
    """Examples to a batch; a class, because workers may have to pickle it."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate

    def __call__(self, items: Sequence[_Example | _Failure]) -> Batch:
        examples = [item for item in items if isinstance(item, _Example)]
        waveform_lengths = torch.tensor([len(e.waveform) for e in examples], dtype=torch.int64)
        token_lengths = torch.tensor([len(e.tokens) for e in examples], dtype=torch.int64)
        waveforms = torch.zeros(len(examples), max((len(e.waveform) for e in examples), default=0))
        tokens = torch.zeros(
            len(examples), max((len(e.tokens) for e in examples), default=0), dtype=torch.int64
        )
        for row, example in enumerate(examples):
            waveforms[row, : len(example.waveform)] = torch.from_numpy(example.waveform)
            tokens[row, : len(example.tokens)] = torch.tensor(example.tokens, dtype=torch.int64)
        return Batch(
            ids=[e.utterance.id for e in examples],
            waveforms=waveforms,
            waveform_lengths=waveform_lengths,
            tokens=tokens,
            token_lengths=token_lengths,
            texts=[e.utterance.text for e in examples],
            seeds=torch.tensor([e.seed for e in examples], dtype=torch.int64),
            audio_seconds=int(waveform_lengths.sum()) / self._sample_rate,
            bad=[(item.id, item.reason) for item in items if isinstance(item, _Failure)],
        )


def _leave_to_parent(worker: int) -> None:
    # Ctrl-C, `timeout` and schedulers signal the whole process group; the parent decides when its
    # workers end, and has to finish its step and save first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A worker outlives a killed parent by seconds, in which other training processes would take the
    # connections for alive.
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                connection = socket.socket(fileno=int(name))
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    connection.detach()
                connection.close()
