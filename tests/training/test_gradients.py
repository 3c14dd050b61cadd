"""Sums of gradients over processes are those of one process, whoever had something to add."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from voxformer.training.distributed import Processes
from voxformer.training.gradients import GradientSum

from . import processes

COUNT = 3


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = {name: nn.Linear(4, 4) for name in ("first", "second", "unused", "frozen")}
    layers["frozen"].requires_grad_(False)
    return nn.ModuleDict(layers)


def loss_of(module: nn.ModuleDict, part: int) -> torch.Tensor:
    """Of one micro-batch; which layers it uses depends on the part."""
    x = module["frozen"](torch.full((2, 4), float(part)))
    if part % 2:
        x = module["second"](x)
    return module["first"](x).square().sum()


def parts_of(rank: int) -> list[int]:
    return [[0, 1], [2], []][rank]


def add_gradients(rank: int, place: Path, bucket_bytes: int) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=COUNT)
    everyone = Processes(rank, COUNT)
    everyone.connect(timedelta(seconds=60))
    module = network()
    gradients = GradientSum(module.parameters(), everyone, bucket_bytes)
    for repeat in range(2):  # nothing of a step is left for the next
        module.zero_grad(set_to_none=True)
        for index, part in enumerate(parts_of(rank)):
            if index == len(parts_of(rank)) - 1:
                gradients.expect_last()
            loss_of(module, part + repeat).backward()
        gradients.finish()
    torch.save({n: p.grad for n, p in module.named_parameters()}, place / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("bucket_bytes", [1, 100, 10**6])
def test_sums_are_those_of_one_process(tmp_path: Path, bucket_bytes: int) -> None:
    started = processes.fork(COUNT, add_gradients, tmp_path, bucket_bytes)
    assert processes.finish(started) == [0] * COUNT
    module = network()
    for rank in range(COUNT):
        for part in parts_of(rank):
            loss_of(module, part + 1).backward()
    expected: dict[str, Any] = {n: p.grad for n, p in module.named_parameters()}
    assert [n for n, g in expected.items() if g is None] == [
        "unused.weight",
        "unused.bias",
        "frozen.weight",
        "frozen.bias",
    ]
    for rank in range(COUNT):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None, name
            else:
                torch.testing.assert_close(found[name], gradient)


def test_buckets_start_in_order_while_the_backward_pass_goes_on() -> None:
    """With two layers in a row the later one's gradient is under way before the first one's is."""
    sent: list[int] = []

    class Counting(Processes):
        def start_adding(self, tensor: torch.Tensor) -> None:
            sent.append(tensor.numel())

        def wait_for(self, work: Any) -> None:
            pass

    layers = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 6, bias=False))
    gradients = GradientSum(layers.parameters(), Counting(0, 2), bucket_bytes=1)
    seen: list[list[int]] = []
    layers[0].weight.register_hook(lambda _: seen.append(list(sent)))
    gradients.expect_last()
    layers(torch.ones(3, 4)).sum().backward()
    assert seen == [[31]]
    assert sent == [31, 21]
    gradients.finish()
    assert sent == [31, 21]
    assert layers[0].weight.grad is not None
