"""What survives a run: `step_N.pt`, `epoch_N.pt`, `latest.pt` and `best.pt` in the run folder.

A checkpoint is data from a stranger: it is loaded with `weights_only=True` after its digest was
checked, and holds nothing but tensors, numbers and strings. The tokenizer travels inside it, so
that a checkpoint alone is enough to go on, evaluate or export.
"""

from __future__ import annotations

import errno
import threading
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from voxformer.config import ConfigError, ModelConfig, RunConfig
from voxformer.config.load import validate_config
from voxformer.model import VoxFormer
from voxformer.training.storage import (
    Abandoned,
    DigestError,
    has_hard_links,
    link_verified,
    numbered_checkpoints,
    remove_verified,
    verify,
    write_verified,
)

FORMAT = "voxformer-checkpoint"
FORMAT_VERSION = 1
TRAINING_ONLY = frozenset({"ctc_weight", "dropout"})

REQUIRED = {"format_version": int, "stage": str, "step": int, "config": dict, "model": dict}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which, why, and what to do."""


class DamagedError(CheckpointError):
    """A file that is not what was written."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model as evaluation and export need it.

    Attributes:
        model: in evaluation mode, with the averaged weights when the run kept them.
        tokens: every token, `<blank>` first and `<sos/eos>` last.
        config: of the run that made it.
        metadata: `step`, `stage`, `max_tokens_per_second`, `data`, `metrics`, `digest`.
        tokenizer: the SentencePiece model that made the tokens.
    """

    model: VoxFormer
    tokens: list[str]
    config: RunConfig
    metadata: dict[str, Any]
    tokenizer: bytes | None = None


def save_checkpoint(
    path: Path, state: dict[str, Any], stopped: threading.Event | None = None
) -> str:
    """Write `state` with format name and version; returns the file's SHA-256.

    Raises:
        OSError: the disk is full or failing; nothing under the final name was touched.
        Abandoned: `stopped` was set meanwhile; the same holds.
    """
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **state}

    def write(file: BinaryIO) -> None:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            # What stopped the write comes out as torch's complaint about an archive cut short;
            # what stopped it tells a full disk, a dead reading process and a bug apart.
            cause = error.__context__
            if isinstance(cause, (OSError, Abandoned)) or "inline_container" in str(error):
                raise cause or error from None
            raise

    return write_verified(path, write, stopped)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Verify and read a checkpoint.

    Raises:
        CheckpointError: missing, unverifiable, corrupt, not ours, or from a newer version.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; name a checkpoint in it, such as latest.pt")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        digest = verify(path)
    except DigestError as error:
        raise DamagedError(f"{error}; it is damaged or is not a VoxFormer checkpoint") from None
    except OSError as error:
        damaged = error.errno == errno.EIO
        kind: type[CheckpointError] = DamagedError if damaged else CheckpointError
        raise kind(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's pickle; the error says enough
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises what its unpickler came upon: KeyError, EOFError, …
        raise DamagedError(
            f"{path}: not a VoxFormer checkpoint: it is no whole PyTorch file, or holds more than "
            "tensors, numbers and text, which is never loaded"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a PyTorch file, but not a VoxFormer checkpoint")
    for key, kind in REQUIRED.items():
        if not isinstance(state.get(key), kind):
            raise CheckpointError(f"{path}: not a whole VoxFormer checkpoint: it has no {key}")
    if not isinstance(state["config"].get("model"), dict):
        raise CheckpointError(f"{path}: not a whole VoxFormer checkpoint: it has no config.model")
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
    pieces = len(state.get("tokens") or []) - 2
    if pieces != config.model.vocab_size:
        raise CheckpointError(
            f"{path}: holds {max(0, pieces)} pieces, its model.vocab_size is "
            f"{config.model.vocab_size}"
        )
    model = VoxFormer(config.model)
    try:
        model.load_state_dict(state["ema"] if state.get("ema") else state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: its weights do not fit its config: {reason}") from None
    model.eval()
    metadata = {
        key: state.get(key)
        for key in ("step", "stage", "max_tokens_per_second", "data", "metrics", "digest")
    }
    spelled = state.get("tokenizer")
    tokenizer = bytes(spelled.tolist()) if isinstance(spelled, Tensor) else None
    return LoadedModel(model, list(state["tokens"]), config, metadata, tokenizer)


def check_architecture(
    path: str | Path,
    saved: dict[str, Any],
    wanted: ModelConfig,
    free: Collection[str] = TRAINING_ONLY,
) -> None:
    """Refuse a checkpoint of another architecture, naming what differs.

    Args:
        path: for the message.
        saved: the `model` section that the checkpoint was made with.
        wanted: the `model` section of this run.
        free: fields that may differ.

    Raises:
        CheckpointError: with every differing field and both values.
    """
    values = wanted.model_dump(mode="json")
    saved_values = {**ModelConfig().model_dump(mode="json"), **saved}  # type: ignore[call-arg]
    different = [
        f"{key} {saved_values[key]} there, {values[key]} here"
        for key in values
        if key not in free and saved_values[key] != values[key]
    ]
    if different:
        raise CheckpointError(
            f"{path}: for another architecture: {'; '.join(different)}; set model as it is there, "
            "or start another run"
        )


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


class CheckpointFolder:
    """Writes a run's checkpoints and keeps as many as asked for."""

    def __init__(self, folder: Path, keep_last_n: int, keep_epochs_n: int) -> None:
        self.folder = folder
        self.keep_last_n = keep_last_n
        self.keep_epochs_n = keep_epochs_n
        for stale in (*folder.glob(".*.tmp"), *folder.glob(".*.part")):
            stale.unlink()
        self._has_links = has_hard_links(folder)

    def copies(self, with_epoch: bool) -> int:
        """How often a step's content is on disk; once where the file system has hard links."""
        return 1 if self._has_links else 2 + with_epoch

    def save_step(
        self,
        step: int,
        state: dict[str, Any],
        epoch: int | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Write `step_N.pt`, point `latest.pt` at it, delete what is too old.

        Args:
            step: N.
            state: what to write.
            epoch: keep it as `epoch_N.pt` as well, at no cost in disk.
            stopped: gives up when it is set.
        """
        path = self.folder / f"step_{step}.pt"
        save_checkpoint(path, state, stopped)
        link_verified(path, self.folder / "latest.pt")
        if epoch is not None and self.keep_epochs_n:
            link_verified(path, self.folder / f"epoch_{epoch}.pt")
            self._prune("epoch", self.keep_epochs_n)
        self._prune("step", self.keep_last_n)

    def save_best(self, state: dict[str, Any], stopped: threading.Event | None = None) -> None:
        """Write `best.pt` (weights only)."""
        save_checkpoint(self.folder / "best.pt", state, stopped)

    def _prune(self, kind: str, keep: int) -> None:
        for path in numbered_checkpoints(self.folder, kind)[:-keep]:
            remove_verified(path)
