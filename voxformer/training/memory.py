"""How much memory a run takes."""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch
from torch import Tensor, nn

from voxformer.training.muon import Muon, Optimizers

USABLE = 0.85
"""Share of a card's memory to fill; the rest is for fragments, libraries and NCCL."""


def peak_memory_gib(device: torch.device) -> float:
    """Most that was in use so far, on the device where it is a GPU, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def room_on_gpu(device: torch.device) -> int:
    """What this process may fill: what is free, and what it holds already."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * (free + torch.cuda.memory_reserved(device)))


def bytes_of_optimizer(optimizer: Optimizers) -> int:
    """What the optimiser will allocate in the first step: AdamW two moments, Muon one."""
    total = 0
    for member in optimizer.members.values():
        moments = 1 if isinstance(member, Muon) else 2
        for group in member.param_groups:
            total += moments * sum(p.numel() * p.element_size() for p in group["params"])
    return total


def saved_bytes(module: nn.Module, step: Callable[[], object]) -> int:
    """Activations that a forward pass keeps for the backward pass, on any device."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())
