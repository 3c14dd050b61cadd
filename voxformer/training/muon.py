"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024; Liu et al. 2025, "Muon is
scalable for LLM training").

PyTorch has one too, but it works matrix by matrix in bfloat16, which many CPUs emulate. This one
stacks matrices of equal shape, and off the GPU stays in float32 unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: five rounds bring every singular value to about 1 (0.7 to 1.2)."""
ROUNDS = 5
ADAMW_RMS = 0.2
"""Liu et al., section 2.2: updates of this RMS let AdamW's learning rate be used as it is."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly: float [n, rows, columns], rows <= columns.

    Each round multiplies X from the left by a polynomial P of X Xᵀ. Wide float32 matrices are
    therefore left alone until the end: the polynomials are multiplied up on the small Gram matrix,
    which turns into P X Xᵀ P. That is 5/9 of the arithmetic at four times the width. bfloat16 has
    too few digits for the squares.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    rows, columns = x.shape[1:]
    if columns < 2 * rows or x.dtype == torch.bfloat16:
        for _ in range(ROUNDS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x
    gram = x @ x.mT
    product: Tensor | None = None
    for remaining in reversed(range(ROUNDS)):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if remaining:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ x


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices.

    Args:
        params: two-dimensional weights; embeddings and output layers are better left to AdamW.
        lr: learning rate, on AdamW's scale.
        momentum: decay of the gradient's moving average (Nesterov).
        weight_decay: decoupled.
        bfloat16: orthogonalise in it on a CPU too, which is faster where that has it.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bfloat16: bool = False,
    ) -> None:
        self.bfloat16 = bfloat16
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients; `closure` is not used.

        A few operations over all weights at once: a GPU takes longer to be told of a weight than to
        update it.
        """
        for group in self.param_groups:
            members = [p for p in group["params"] if p.grad is not None]
            if not members:
                continue
            updates = self._momenta(members, group["momentum"])
            torch._foreach_mul_(members, 1.0 - group["lr"] * group["weight_decay"])
            by_shape: dict[tuple[int, ...], list[int]] = {}
            for index, parameter in enumerate(members):
                by_shape.setdefault(tuple(sorted(parameter.shape)), []).append(index)
            for (_, columns), alike in by_shape.items():
                # Wide before tall ones, so that each kind is one tensor when it is added.
                wide = [i for i in alike if members[i].size(0) <= members[i].size(1)]
                tall = [i for i in alike if members[i].size(0) > members[i].size(1)]
                stacked = torch.stack([updates[i] for i in wide] + [updates[i].mT for i in tall])
                if stacked.is_cuda or self.bfloat16:
                    stacked = stacked.bfloat16()
                flat = orthogonalise(stacked).to(members[alike[0]].dtype)
                scale = group["lr"] * ADAMW_RMS * columns**0.5
                for indices, found in (
                    (wide, flat[: len(wide)]),
                    (tall, flat[len(wide) :].mT.contiguous()),
                ):
                    if indices:
                        torch._foreach_add_(
                            [members[i] for i in indices], list(found.unbind()), alpha=-scale
                        )

    def _momenta(self, members: list[nn.Parameter], momentum: float) -> list[Tensor]:
        """Nesterov momenta of the weights' gradients."""
        averages: list[Tensor] = []
        gradients: list[Tensor] = []
        for parameter in members:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            averages.append(state["momentum"])
            assert parameter.grad is not None
            gradients.append(parameter.grad)
        torch._foreach_lerp_(averages, gradients, 1.0 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))


class Optimizers:
    """Several optimisers that are stepped, zeroed and saved as one."""

    def __init__(self, **members: torch.optim.Optimizer) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups; setting `lr` in one sets it in the optimiser."""
        return [group for member in self.members.values() for group in member.param_groups]

    def step(self) -> None:
        """Apply all gradients."""
        for member in self.members.values():
            member.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for member in self.members.values():
            member.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of each, by name."""
        return {name: member.state_dict() for name, member in self.members.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; raises KeyError when it is of other optimisers."""
        for name, member in self.members.items():
            member.load_state_dict(state[name])
