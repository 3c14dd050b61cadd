"""Muon against the singular value decomposition and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxformer.config import TrainingConfig
from voxformer.training.muon import Muon, orthogonalise
from voxformer.training.optim import make_optimizer


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (5, 7), (6, 40)])
def test_orthogonalise_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    result = orthogonalise(matrices)
    for matrix, update in zip(matrices, result, strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        # In the basis of the input's singular vectors the update is diagonal and about 1.
        core = u.T @ update @ v.T
        torch.testing.assert_close(core, torch.diag(core.diag()), atol=1e-4, rtol=0)
        assert float(core.diag().min()) > 0.5
        assert float(core.diag().max()) < 1.3


def test_steps_agree_with_pytorchs_muon() -> None:
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 16), (32, 16), (16, 48)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95}
    first = Muon(ours, **options)
    second = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options)
    before = [p.detach().clone() for p in ours]
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for start, a, b in zip(before, ours, theirs, strict=True):
        moved = (a.detach() - start).norm()
        # PyTorch's rounds to bfloat16 on the way.
        assert float((a - b).detach().norm() / moved) < 0.03


def test_bfloat16_makes_nearly_the_same_step() -> None:
    start = torch.randn(24, 60, generator=torch.Generator().manual_seed(1))
    gradient = torch.randn(24, 60, generator=torch.Generator().manual_seed(2))
    steps = []
    for bfloat16 in (False, True):
        weight = nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        Muon([weight], lr=0.1, bfloat16=bfloat16).step()
        steps.append(weight.detach() - start)
    assert not torch.equal(*steps)
    # Five rounds of products, each rounded to eight bits.
    assert (steps[0] - steps[1]).norm() < 0.05 * steps[0].norm()


def test_only_matrices_inside_the_layers_go_to_muon(make_config) -> None:  # type: ignore[no-untyped-def]
    from voxformer.model import VoxFormer

    model = VoxFormer(make_config("hybrid").model)
    optimizer = make_optimizer(model, TrainingConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    muon = {names[id(p)] for g in optimizer.members["muon"].param_groups for p in g["params"]}
    adamw = {names[id(p)] for g in optimizer.members["adamw"].param_groups for p in g["params"]}
    assert muon | adamw == set(names.values())
    assert muon.isdisjoint(adamw)
    assert all(name.startswith(("encoder.blocks.", "decoder.layers.")) for name in muon)
    assert "decoder.embedding.weight" in adamw
    assert "ctc_head.weight" in adamw
