"""Sums of gradients over the processes of a run, sent while the backward pass still runs.

Not torch's DistributedDataParallel, for three reasons. It averages over processes, where a step's
loss is a mean over tokens, whose number differs from one process to the next. It expects one call
of one module, with the same weights in use everywhere, where an objective calls the parts of a
model, a step of CTC alone leaves the decoder out, and a process may have no batch at all. And a
weight that nobody used has to stay without a gradient, since the optimiser would otherwise decay
it; which weights those are is known only when all have finished. So each bucket carries, beside its
gradients, who has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from voxformer.training.distributed import Processes

BUCKET_BYTES = 25 * 2**20
"""As in DistributedDataParallel: large enough for bandwidth, small enough to start early."""


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    missing: int = 0
    flat: Tensor | None = None
    work: Any = None


class GradientSum:
    """Adds the gradients of all processes, bucket by bucket, in the same order everywhere.

    Call `expect_last` before a step's last backward pass (a process without a batch does not), then
    `finish`. With one process both do nothing.

    Args:
        parameters: those that are trained, in the module's order, of one type and device.
        processes: whose gradients are added.
        bucket_bytes: gradients that travel together, about.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        processes: Processes,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._processes = processes
        self._buckets: list[_Bucket] = []
        self._started = 0
        self._expecting = False
        if processes.count == 1:
            return
        size = bucket_bytes
        # The backward pass comes to the last layers first.
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if size >= bucket_bytes:
                self._buckets.append(_Bucket([]))
                size = 0
            bucket = self._buckets[-1]
            bucket.parameters.append(parameter)
            size += parameter.numel() * parameter.element_size()
            self._start_when_complete(parameter, bucket)

    def expect_last(self) -> None:
        """The next backward pass is this process's last of the step."""
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._expecting = True

    def finish(self) -> None:
        """Wait until every weight's `.grad` is the sum, or None where no process had one.

        Raises:
            LostProcessError: a process has ended; `.grad` is then of no use.
        """
        self._expecting = False
        for bucket in self._buckets[self._started :]:
            self._start(bucket)
        for bucket in self._buckets:
            self._processes.wait_for(bucket.work)
        for bucket in self._buckets:
            assert bucket.flat is not None
            count = len(bucket.parameters)
            gradients, owners = bucket.flat[:-count], bucket.flat[-count:].tolist()
            parts = gradients.split([p.numel() for p in bucket.parameters])
            for parameter, part, number in zip(bucket.parameters, parts, owners, strict=True):
                parameter.grad = part.view_as(parameter) if number else None
            bucket.flat = bucket.work = None
        self._started = 0

    def _start_when_complete(self, parameter: nn.Parameter, bucket: _Bucket) -> None:
        def accumulated(_: Tensor) -> None:
            if not self._expecting:
                return
            bucket.missing -= 1
            # In order: a bucket that is complete waits for those before it.
            while self._started < len(self._buckets):
                following = self._buckets[self._started]
                if following.missing:
                    return
                self._start(following)

        parameter.register_post_accumulate_grad_hook(accumulated)

    def _start(self, bucket: _Bucket) -> None:
        """Send a bucket: its gradients, then 1 for each weight that has one."""
        first = bucket.parameters[0]
        parts = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in bucket.parameters
        ]
        owners = [float(p.grad is not None) for p in bucket.parameters]
        bucket.flat = torch.cat([*parts, torch.tensor(owners, dtype=first.dtype).to(first.device)])
        for parameter in bucket.parameters:
            parameter.grad = None  # the bucket has it, and memory for one copy is enough
        bucket.work = self._processes.start_adding(bucket.flat)
        self._started += 1
