"""Number formats and compiled layers: the loss stays, what is resumed is bit-equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from voxformer.config import RunConfig
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.loop import train
from voxformer.training.muon import Optimizers
from voxformer.training.precision import Precision, choose_precision
from voxformer.training.setup import RunError

Maker = Callable[..., RunConfig]
CPU = torch.device("cpu")


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["type"] == "train"]


def train_in_two_parts(config: RunConfig, folder: Path, step: int) -> None:
    from .test_resume import run_until_step

    assert run_until_step(config, step) == 143
    assert load_checkpoint(folder / "latest.pt")["step"] == step
    config.training.resume_from = str(folder / "latest.pt")
    assert train(config, "parts") == 0


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = (load_checkpoint(folder / "latest.pt")["model"] for folder in (first, second))
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_has_the_losses_of_fp32_and_resumes_bit_for_bit(
    make_config: Maker, tmp_path: Path, precision: str
) -> None:
    options: dict[str, Any] = {"log_interval": 1, "eval_interval": 100}
    assert train(make_config("hybrid", "fp32", precision="fp32", **options), "fp32") == 0
    options["precision"] = precision
    assert train(make_config("hybrid", "whole", **options), "whole") == 0
    expected, found = losses(tmp_path / "fp32"), losses(tmp_path / "whole")
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected
    train_in_two_parts(make_config("hybrid", "parts", **options), tmp_path / "parts", 3)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    state = load_checkpoint(tmp_path / "whole" / "latest.pt")
    assert all(v.dtype == torch.float32 for v in state["model"].values())
    assert state["loss_scale"] == load_checkpoint(tmp_path / "parts" / "latest.pt")["loss_scale"]
    assert bool(state["loss_scale"]) == (precision == "fp16")


@pytest.mark.parametrize(
    ("precision", "fused", "plain"),
    [("bf16", False, True), ("bf16", True, False), ("fp16", False, False), ("fp32", False, False)],
)
def test_attention_is_plain_products_in_bf16_on_a_cpu(
    precision: str, fused: bool, plain: bool
) -> None:
    with Precision(precision, CPU, fused_attention=fused).autocast():
        assert torch.backends.cuda.flash_sdp_enabled() != plain
        assert torch.is_autocast_enabled("cpu") == (precision != "fp32")
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_cpu_that_emulates_bf16_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}
    for capabilities, warned in ((old, True), ({**old, "amx_bf16": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        caplog.clear()
        assert choose_precision("bf16", CPU) == "bf16"
        assert ("only emulates bf16; fp32 is faster" in caplog.text) == warned


def test_the_loss_scale_halves_after_an_overflow_and_is_saved() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = Optimizers(adamw=torch.optim.AdamW([weight]))
    precision = Precision("fp16", CPU)
    precision.unscale(optimizer)  # nothing to unscale in a step without a batch
    first = precision.metrics()["loss_scale"]
    precision.backward((weight * 3.0).sum())
    precision.unscale(optimizer)
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 3.0]
    weight.grad = None
    precision.backward((weight * 1e38).sum())
    precision.unscale(optimizer)
    assert not bool(weight.grad.isfinite().any())
    assert precision.metrics()["loss_scale"] == first / 2
    again = Precision("fp16", CPU)
    again.load_state_dict(precision.state_dict())
    assert again.metrics() == precision.metrics()
    other = Precision("fp32", CPU)
    other.load_state_dict(precision.state_dict())
    assert other.metrics() == {}


def test_what_a_device_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", CPU) == "fp32"
    with pytest.raises(RunError, match="tf32 is there on NVIDIA GPUs from Ampere on only, not on"):
        choose_precision("tf32", CPU)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert choose_precision("auto", gpu) == "fp32"
    assert choose_precision("fp16", gpu) == "fp16"
    with pytest.raises(RunError, match="only emulates bf16"):
        choose_precision("bf16", gpu)
    with pytest.raises(RunError, match="not on Tesla T4"):
        choose_precision("tf32", gpu)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_compiled_layers_train_alike_and_resume_bit_for_bit(
    make_config: Maker, tmp_path: Path, dropout: float
) -> None:
    def config(name: str, **more: Any) -> RunConfig:
        # The last batch of an epoch has one utterance.
        made = make_config("hybrid", name, batch_size=23, num_epochs=3, log_interval=1, **more)
        made.model.dropout = dropout
        return made

    assert train(config("plain"), "plain") == 0
    assert train(config("whole", compile=True), "whole") == 0
    # Dropout is drawn otherwise in fused kernels.
    near = pytest.approx(losses(tmp_path / "plain"), rel=0.1 if dropout else 1e-4)
    assert losses(tmp_path / "whole") == near
    torch._dynamo.reset()  # as in a new process
    train_in_two_parts(config("parts", compile=True), tmp_path / "parts", 3)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    names = load_checkpoint(tmp_path / "whole" / "latest.pt")["model"].keys()
    assert names == load_checkpoint(tmp_path / "plain" / "latest.pt")["model"].keys()
