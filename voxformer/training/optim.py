"""Optimiser, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from voxformer.config import TrainingConfig
from voxformer.training.muon import Muon, Optimizers


def make_optimizer(module: nn.Module, config: TrainingConfig) -> Optimizers:
    """The config's optimiser over the trainable weights.

    AdamW takes everything, or with `muon` all but the matrices inside the layers. Vectors (biases,
    norms) and embeddings do not decay.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.startswith(("encoder.blocks.", "decoder.layers."))
        if config.optimizer == "muon" and inside and parameter.dim() == 2:
            matrices.append(parameter)
        elif parameter.dim() < 2 or "embedding" in name:
            plain.append(parameter)
        else:
            decayed.append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.adam_betas[0], config.adam_betas[1]),
        eps=1e-8,
        fused=True,  # one kernel for all weights
    )
    if not matrices:
        return Optimizers(adamw=adamw)
    muon = Muon(
        matrices,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        bfloat16=config.precision == "bf16",
    )
    return Optimizers(adamw=adamw, muon=muon)


def planned_steps(micro_batches: int, per_step: int, config: TrainingConfig) -> int:
    """Steps of a whole run, as its schedules count them.

    Args:
        micro_batches: of an epoch.
        per_step: micro-batches of a step, over all processes.
        config: `num_epochs` and `max_steps`.
    """
    steps = -(-micro_batches // per_step) * config.num_epochs
    return min(steps, config.max_steps) if config.max_steps else steps


def rescaled_offset(step: int, offset: float, planned_before: int, planned_now: int) -> float:
    """What to add to `step` so that schedules stay at the same fraction of the run.

    For a run that goes on with steps of another size, such as on more processes.
    """
    return (step + offset) * planned_now / planned_before - step


def schedule_step(
    step: float, total_steps: int, seconds: float, max_minutes: float | None
) -> float:
    """Where in 1 … total_steps the schedules are: at `step`, or further where time is shorter.

    A run that `max_minutes` will end before its last step follows its schedules in time instead, so
    that the learning rate is down when it ends. While the steps are ahead of the clock, the clock
    changes nothing.
    """
    if max_minutes is None:
        return step
    return max(step, total_steps * min(1.0, seconds / (60.0 * max_minutes)))


def learning_rate(
    step: float, total_steps: int, config: TrainingConfig, made: float | None = None
) -> float:
    """Learning rate of step 1 … total_steps; see `schedule_step`.

    Args:
        step: where the schedule is.
        total_steps: of the run.
        config: peak, warm-up and shape.
        made: steps that were really made, which the warm-up counts; default: `step`. Where time is
            far too short for `total_steps`, the clock would pass the warm-up in a second.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    made = step if made is None else made
    if made < warmup:
        peak *= made / warmup
    if step <= warmup:
        return peak
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / step)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    floor = config.final_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def ctc_weight_at(step: float, total_steps: int, start: float, end: float) -> float:
    """CTC's weight in step 1 … total_steps, linear from start to end."""
    if total_steps <= 1:
        return end
    return start + (end - start) * min(1.0, (step - 1) / (total_steps - 1))


class WeightAverage:
    """Exponential moving average of the trainable weights (Polyak averaging).

    The decay starts small, (1 + n)/(10 + n): early averages are not held at the start values.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        present = module.state_dict()  # shares the module's memory
        self.average = {k: v.detach().clone() for k, v in present.items()}
        self._present = [v for v in present.values() if v.is_floating_point()]
        self._average = [v for v in self.average.values() if v.is_floating_point()]
        self._counts = [
            (self.average[k], v) for k, v in present.items() if not v.is_floating_point()
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(self._average, self._present, 1.0 - decay)
        for average, value in self._counts:
            average.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights under the module's names."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, value in state.items():
            self.average[name].copy_(value)
