"""In which number formats a run computes, and the loss scale that half precision needs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from voxformer.training.muon import Optimizers
from voxformer.training.setup import RunError

logger = logging.getLogger("voxformer.training")

FIRST_LOSS_SCALE = 1024.0
"""Lower than torch's 65,536, with which the first steps of a run are skipped one after another."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """`training.precision` on a device.

    Weights, their gradients, the optimiser and the front end's spectrum are fp32 whatever is
    chosen. fp16 has so few small numbers that gradients would vanish; the loss is scaled
    (Micikevicius et al. 2018) by a power of two that halves when gradients overflow, which skips
    that step, and doubles after 2,000 good ones.

    Args:
        wanted: of the config.
        device: where the run computes.
        fused_attention: on a CPU in bf16, too, where it is slower: who counts on a CPU what a GPU's
            backward pass will keep wants it.

    Attributes:
        name: what `auto` stands for here, else `wanted`.

    Raises:
        RunError: the device does not have it.
    """

    def __init__(self, wanted: str, device: torch.device, fused_attention: bool = False) -> None:
        self.name = choose_precision(wanted, device)
        self.device = device
        self._plain_attention = device.type == "cpu" and self.name == "bf16" and not fused_attention
        if device.type == "cuda":
            # By default torch computes convolutions in TF32, and so the front end's spectrum.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
            torch.backends.cuda.matmul.fp32_precision = "tf32" if self.name == "tf32" else "ieee"
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=FIRST_LOSS_SCALE, enabled=self.name == "fp16"
        )

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Where the loss is computed."""
        with contextlib.ExitStack() as contexts:
            if self.name in HALF:
                contexts.enter_context(torch.autocast(self.device.type, dtype=HALF[self.name]))
            if self._plain_attention:
                # The backward pass of torch's fused attention is slower in bf16 on a CPU than plain
                # products.
                contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled if need be."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Optimizers) -> None:
        """Divide gradients by the loss scale, and settle the next one; before they are used."""
        if not self._scaler.is_enabled() or not _has_gradients(optimizer):
            return
        for member in optimizer.members.values():
            self._scaler.unscale_(member)
        self._scaler.update()

    def metrics(self) -> dict[str, float]:
        """For rows of `metrics.jsonl`: the loss scale, if there is one."""
        return {"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; empty without a loss scale."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; a run of another precision starts with its own scale."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


def choose_precision(wanted: str, device: torch.device) -> str:
    """What `auto` stands for on a device: bf16 on a GPU that computes in it, else fp32.

    Raises:
        RunError: what was named is not to be had there.
    """
    cuda = device.type == "cuda"
    if wanted == "auto":
        return "bf16" if cuda and _has_bf16() else "fp32"
    if wanted == "bf16" and cuda and not _has_bf16():
        raise RunError("training.precision: this GPU only emulates bf16; use fp16 or fp32")
    if wanted == "tf32" and not (cuda and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise RunError(
            "training.precision: tf32 is there on NVIDIA GPUs from Ampere on only, not on "
            f"{torch.cuda.get_device_name(device) if cuda else 'a CPU'}; use fp32"
        )
    if wanted == "bf16" and not cuda and _emulates_bf16():
        logger.warning("training.precision: this CPU only emulates bf16; fp32 is faster")
    return wanted


def _has_bf16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _emulates_bf16() -> bool:
    """Whether the CPU is an x86-64 without the instructions; of others torch does not tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that is taken
    capabilities: dict[str, Any] = tell() if tell else {}
    if capabilities.get("architecture") != "x86_64":
        return False
    return not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _has_gradients(optimizer: Optimizers) -> bool:
    groups = optimizer.param_groups
    return any(p.grad is not None for group in groups for p in group["params"])
