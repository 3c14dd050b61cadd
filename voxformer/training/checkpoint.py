"""What survives a run: `step_N.pt`, `epoch_N.pt`, `latest.pt` and `best.pt` in the run folder.

A checkpoint is data from a stranger: it is loaded with `weights_only=True` after its digest was
checked, and holds nothing but tensors, numbers and strings. The tokenizer travels inside it, so
that a checkpoint alone is enough to go on, evaluate or export.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from voxformer.config import ConfigError, ModelConfig, RunConfig
from voxformer.config.load import validate_config
from voxformer.model import VoxFormer
from voxformer.training.storage import (
    DigestError,
    digest_path,
    link_verified,
    remove_verified,
    verify,
    write_verified,
)

FORMAT = "voxformer-checkpoint"
FORMAT_VERSION = 1
NUMBERED = re.compile(r"^(step|epoch)_(\d+)\.pt$")

logger = logging.getLogger("voxformer.training")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model as evaluation and export need it.

    Attributes:
        model: in evaluation mode, with the averaged weights when the run kept them.
        tokens: every token, `<blank>` first and `<sos/eos>` last.
        config: of the run that made it.
        metadata: `step`, `stage`, `max_tokens_per_second`, `metrics`, `digest`.
    """

    model: VoxFormer
    tokens: list[str]
    config: RunConfig
    metadata: dict[str, Any]


def save_checkpoint(path: Path, state: dict[str, Any]) -> str:
    """Write `state` with format name and version; returns the file's SHA-256.

    Raises:
        OSError: the disk is full or failing; nothing under the final name was touched.
    """
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **state}

    def write(file: BinaryIO) -> None:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            # torch wraps a failed write; the cause is what tells a full disk from a bug.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    return write_verified(path, write)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Verify and read a checkpoint.

    Raises:
        CheckpointError: missing, unverifiable, corrupt, not ours, or from a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        digest = verify(path)
    except DigestError as error:
        raise CheckpointError(f"{error}; it is damaged or is not a VoxFormer checkpoint") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a VoxFormer checkpoint: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a PyTorch file, but not a VoxFormer checkpoint")
    if state["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {state['format_version']}, this VoxFormer reads up to "
            f"{FORMAT_VERSION}; install a newer voxformer"
        )
    state["digest"] = digest
    return state


def load_model_checkpoint(path: str | Path) -> LoadedModel:
    """A checkpoint of stage 2 or later as a model that is ready to run.

    Raises:
        CheckpointError: as `load_checkpoint`, or of stage 1, which has no vocabulary.
    """
    state = load_checkpoint(path)
    if state["stage"] == "pretrain":
        raise CheckpointError(
            f"{path}: an encoder pre-training checkpoint cannot recognise speech yet"
        )
    try:
        config = validate_config(state["config"], source=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    model = VoxFormer(config.model)
    model.load_state_dict(state["ema"] if state.get("ema") else state["model"])
    model.eval()
    metadata = {
        key: state.get(key)
        for key in ("step", "stage", "max_tokens_per_second", "metrics", "digest")
    }
    return LoadedModel(model, list(state["tokens"]), config, metadata)


def check_architecture(path: str | Path, saved: dict[str, Any], wanted: ModelConfig) -> None:
    """Refuse a checkpoint of another architecture, naming what differs.

    Raises:
        CheckpointError: with every differing field and both values.
    """
    values = wanted.model_dump(mode="json")
    saved_values = {**ModelConfig().model_dump(mode="json"), **saved}  # type: ignore[call-arg]
    free = {"ctc_weight", "dropout"}
    different = [
        f"{key} {saved_values[key]} there, {values[key]} here"
        for key in values
        if key not in free and saved_values[key] != values[key]
    ]
    if different:
        raise CheckpointError(f"{path}: for another architecture: {'; '.join(different)}")


def load_matching_weights(
    module: torch.nn.Module, weights: dict[str, Tensor], path: str | Path
) -> tuple[list[str], list[str]]:
    """Copy the weights whose names exist in `module`.

    Returns:
        Names taken, and names in `module` that the checkpoint lacks (they keep their start values).

    Raises:
        CheckpointError: a shared name with another shape, or no shared name at all.
    """
    own = module.state_dict()
    taken = [name for name in own if name in weights]
    wrong = [name for name in taken if own[name].shape != weights[name].shape]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {name} is {tuple(weights[name].shape)} there, {tuple(own[name].shape)} here "
            f"({len(wrong)} tensors differ); init_from needs the same sizes"
        )
    if not taken:
        raise CheckpointError(f"{path}: shares no weights with this model")
    module.load_state_dict({name: weights[name] for name in taken}, strict=False)
    return taken, [name for name in own if name not in weights]


def numbered_checkpoints(folder: Path, kind: str) -> list[Path]:
    """`step_N.pt` or `epoch_N.pt` files, oldest first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            match = NUMBERED.match(path.name)
            if match and match.group(1) == kind:
                found.append((int(match.group(2)), path))
    return [path for _, path in sorted(found)]


def holds_checkpoints(folder: Path) -> bool:
    """Whether a run folder has any checkpoint, usable or not."""
    return folder.is_dir() and any(folder.glob("*.pt"))


def newest_verified(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run that verifies and loads; damaged ones are set aside.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be used.
    """
    candidates = [folder / "latest.pt"]
    candidates += reversed(numbered_checkpoints(folder, "step"))
    candidates += reversed(numbered_checkpoints(folder, "epoch"))
    for path in candidates:
        if not path.is_file():
            continue
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            digest_path(path).unlink(missing_ok=True)
            logger.warning("%s; set aside as %s", error, aside.name)
    raise CheckpointError(f"{folder}: no checkpoint in it can be used; see the log for each")


class CheckpointFolder:
    """Writes a run's checkpoints and keeps as many as asked for."""

    def __init__(self, folder: Path, keep_last_n: int, keep_epochs_n: int) -> None:
        self.folder = folder
        self.keep_last_n = keep_last_n
        self.keep_epochs_n = keep_epochs_n
        for stale in folder.glob(".*.tmp"):
            stale.unlink()

    def save_step(self, step: int, state: dict[str, Any]) -> Path:
        """Write `step_N.pt`, point `latest.pt` at it, delete what is too old."""
        path = self.folder / f"step_{step}.pt"
        if not path.exists():
            save_checkpoint(path, state)
        link_verified(path, self.folder / "latest.pt")
        self._prune("step", self.keep_last_n)
        return path

    def save_epoch(self, epoch: int, step_path: Path) -> None:
        """Keep the checkpoint `step_path` under `epoch_N.pt` as well, at no cost in disk."""
        if self.keep_epochs_n:
            link_verified(step_path, self.folder / f"epoch_{epoch}.pt")
            self._prune("epoch", self.keep_epochs_n)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write `best.pt` (weights only)."""
        save_checkpoint(self.folder / "best.pt", state)

    def _prune(self, kind: str, keep: int) -> None:
        for path in numbered_checkpoints(self.folder, kind)[:-keep]:
            remove_verified(path)
