"""How a config differs from that of the checkpoint it goes on from: told, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxformer.config import RunConfig, Stage
from voxformer.data.manifest import Utterance
from voxformer.training.checkpoint import TRAINING_ONLY, CheckpointError

# A changed value would be another run: what was learned or is still to come depends on it.
REFUSED = {
    "training.seed": "the start weights and the order of the data come from it",
    "training.optimizer": "the saved state is of the other one",
    "pretrain.codebook_size": "the encoder has learned those labels",
    "pretrain.codebook_dim": "the encoder has learned those labels",
    "pretrain.num_codebooks": "the encoder has learned those labels",
}

# Where and how a run is run, not what it learns; what the data are is compared by itself.
SILENT = {
    "stage",
    *(f"data.{key}" for key in ("train_manifest", "valid_manifest", "tokenizer", "memory_hours")),
    *(f"training.{key}" for key in ("checkpoint_dir", "resume_from", "init_from")),
    *(f"training.{key}" for key in ("device", "num_threads", "num_workers", "log_interval")),
    *(f"training.{key}" for key in ("save_interval", "keep_last_n", "keep_epochs_n")),
    "training.max_unsaved_minutes",
}


def changed_settings(path: str | Path, saved: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What is set otherwise than in the run that wrote a checkpoint, as `key: old, now new`.

    Keys that only one of the two knows are those of other versions and are passed over; sizes of
    the network are `check_architecture`'s.

    Args:
        path: the checkpoint, for the message.
        saved: the config in it.
        config: of the run that goes on.

    Raises:
        CheckpointError: a setting that may not change, with what to do.
    """
    before, now = _flat(saved), _flat(config.model_dump(mode="json"))
    changed = []
    for key in now:
        section, _, name = key.partition(".")
        sizes = section == "model" and name not in TRAINING_ONLY
        if key not in before or before[key] == now[key] or key in SILENT or sizes:
            continue
        if key == "training.batch_seconds" and now[key] == "auto":
            continue  # what was found goes on
        if section == "mirror" or (section == "pretrain" and config.stage is not Stage.PRETRAIN):
            continue
        if key in REFUSED:
            raise CheckpointError(
                f"{path}: {key} is {before[key]} there, {now[key]} here: {REFUSED[key]}; set it "
                f"to {before[key]}, or start another run (another training.checkpoint_dir)"
            )
        changed.append(f"{key}: {before[key]}, now {now[key]}")
    return changed


def describe_data(utterances: Sequence[Utterance]) -> dict[str, Any]:
    """What a checkpoint keeps of the training set: to know it again under another path, and for
    `longest_seconds`, how long the utterances are that the model knows.
    """
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(f"{utterance.id}\t{utterance.duration}\t{utterance.weight}\n".encode())
    return {
        "utterances": len(utterances),
        "digest": digest.hexdigest(),
        # Of 99 in 100: a model has not learned from the few that are longer what length is like.
        "longest_seconds": float(np.percentile([u.duration for u in utterances], 99)),
    }


def changed_data(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """A line where the training set is not that of the checkpoint."""
    if saved is None or saved["digest"] == now["digest"]:
        return []
    counts = saved["utterances"], now["utterances"]
    return ["training set: {} utterances, now {}, not the same".format(*counts)]


def same_share(micro_batch: int, saved: Mapping[str, Any] | None, num_batches: int) -> int:
    """Where in an epoch of `num_batches` a run goes on that was cut into other batches before."""
    if saved is None or saved["num_batches"] == num_batches:
        return micro_batch
    return round(micro_batch / saved["num_batches"] * num_batches)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
