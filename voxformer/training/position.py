"""Where a run stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from voxformer.config import TrainingConfig
from voxformer.training.optim import planned_steps, rescaled_offset


@dataclass
class Position:
    """How far a run is: everything that counts, saved with every checkpoint."""

    step: int = 0
    epoch: int = 0
    micro_batch: int = 0
    seconds: float = 0.0
    best: float = math.inf
    evaluations_since_best: int = 0
    critical_in_a_row: int = 0
    """As `watch` has it, for versions that know this count only."""
    skipped_steps: int = 0
    nonfinite_in_a_row: int = 0
    evaluated: int = -1
    watch: dict[str, Any] = field(default_factory=dict)
    """What the run's watch remembers."""
    schedule_offset: float = 0.0
    """How far the schedules are ahead of `step`, where steps have held fewer micro-batches."""

    @property
    def planned_step(self) -> float:
        """`step`, counted in steps of the size that the schedules are planned with."""
        return self.step + self.schedule_offset


def resumed_position(
    state: dict[str, Any], micro_batches: int, per_step: int, config: TrainingConfig
) -> Position:
    """The position of a checkpoint, in a run whose steps may have another size.

    Such as one on another number of processes: it is as far in its schedules as it was.

    Args:
        state: of the checkpoint.
        micro_batches: of an epoch.
        per_step: micro-batches of a step, over all processes.
        config: of this run.
    """
    position = Position(**state["position"])
    of_one = state["config"]["training"]["gradient_accumulation_steps"]
    before = state.get("micro_batches_per_step", of_one)
    if before != per_step:
        position.schedule_offset = rescaled_offset(
            position.step,
            position.schedule_offset,
            planned_steps(micro_batches, before, config),
            planned_steps(micro_batches, per_step, config),
        )
    return position
