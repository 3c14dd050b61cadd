"""Which checkpoint a run goes on from, and what becomes of those that are damaged.

What is damaged is set aside under another name, with its digest, once something is found to go on
from; where nothing is, nothing is touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxformer.training.checkpoint import CheckpointError, DamagedError, load_checkpoint
from voxformer.training.storage import NUMBERED, digest_path, numbered_checkpoints


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        path: its file.
        state: its content.
        notes: for the log: what was damaged, and which steps are lost with it.
    """

    path: Path
    state: dict[str, Any]
    notes: list[str]


def newest_verified(folder: Path) -> Found:
    """The checkpoint of a run with the most steps that verifies and loads; damaged ones go aside.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be used, or the newest is whole
            but not for this version; nothing is touched then.
    """
    damaged: dict[Path, str] = {}
    found = _usable(folder / "latest.pt", damaged)
    # latest.pt is behind the newest step where a kill came between the two.
    for path in reversed(numbered_checkpoints(folder, "step")):
        if found is not None and found[1]["step"] >= _number(path):
            break
        if (candidate := _usable(path, damaged)) is not None:
            found = candidate
            break
    if damaged or found is None:
        for path in reversed(numbered_checkpoints(folder, "epoch")):
            if (candidate := _usable(path, damaged)) is not None:
                if found is None or candidate[1]["step"] > found[1]["step"]:
                    found = candidate
                break
    if found is None:
        reasons = "; ".join(damaged.values()) or "only best.pt is there, which holds weights alone"
        raise CheckpointError(
            f"{folder}: no checkpoint in it can be used: {reasons}; fetch one from a mirror, or "
            "start anew in another training.checkpoint_dir"
        )
    path, state = found
    notes = [f"{why}; set aside as {set_aside(bad).name}" for bad, why in damaged.items()]
    lost = max((_number(bad) for bad in damaged), default=0)
    if damaged:
        steps = f"; steps {state['step'] + 1} to {lost} are lost" if lost > state["step"] else ""
        notes.append(f"step {state['step']} is the newest that verifies{steps}")
    return Found(path, state, notes)


def best_so_far(folder: Path, step: int, best: float) -> tuple[float, list[str]]:
    """What the next evaluation has to beat, and notes for the log.

    Args:
        folder: the run folder.
        step: of the checkpoint that the run goes on from.
        best: the best score so far, as that checkpoint has it.
    """
    path = folder / "best.pt"
    if not math.isfinite(best):
        return best, []
    if not path.is_file():
        return math.inf, ["best.pt is not there; the next evaluation writes it anew"]
    try:
        state = load_checkpoint(path)
    except DamagedError as error:
        aside = set_aside(path).name
        return math.inf, [f"{error}; set aside as {aside}, the next evaluation writes it anew"]
    except CheckpointError:
        return best, []
    score = state.get("score")
    if state["step"] <= step and isinstance(score, float) and score > best:
        return score, ["best.pt is older than the best evaluation, which could not be saved"]
    return best, []


def set_aside(path: Path) -> Path:
    """Rename a damaged file and its digest, to a name that is not taken; returns the new name."""
    aside, count = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.{count}.damaged")
    path.rename(aside)
    if digest_path(path).is_file():
        digest_path(path).rename(digest_path(aside))
    return aside


def _usable(path: Path, damaged: dict[Path, str]) -> tuple[Path, dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        return path, load_checkpoint(path)
    except DamagedError as error:
        damaged[path] = str(error)
        return None


def _number(path: Path) -> int:
    """The N of `step_N.pt`; 0 for other names."""
    match = NUMBERED.match(path.name)
    return int(match.group(2)) if match and match.group(1) == "step" else 0
