"""From a config to what the loop needs: folder, tokenizer, data, network, starting point."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voxformer.audio.features import frame_geometry
from voxformer.config import RunConfig, Stage
from voxformer.data.checks import screen
from voxformer.data.manifest import Utterance, read_manifest
from voxformer.model.bestrq import BestRq
from voxformer.model.voxformer import VoxFormer
from voxformer.text import Tokenizer, train_tokenizer
from voxformer.text.atomic import write_atomically
from voxformer.training.checkpoint import (
    CheckpointError,
    check_architecture,
    holds_checkpoints,
    load_checkpoint,
    load_matching_weights,
    newest_verified,
)
from voxformer.training.objectives import (
    Objective,
    PretrainObjective,
    SupervisedObjective,
    freeze_encoder,
)

logger = logging.getLogger("voxformer.training")

LENGTH_CAP_MARGIN = 1.5


class RunError(ValueError):
    """A run that cannot start as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Start:
    """Where a run begins: nothing, a checkpoint to resume, or weights to start from."""

    resumed: dict[str, Any] | None
    initial: dict[str, Any] | None
    initial_path: str | None
    message: str


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a run and what a checkpoint keeps of it."""

    tokenizer: Tokenizer | None
    model_bytes: bytes

    @property
    def tokens(self) -> list[str]:
        """Every token, `<blank>` first; empty in pre-training."""
        return list(self.tokenizer.tokens) if self.tokenizer else []


def run_folder(config: RunConfig, name: str) -> Path:
    """`training.checkpoint_dir`, or `checkpoints/<name of the config>`."""
    return Path(config.training.checkpoint_dir or Path("checkpoints") / name)


def choose_device(wanted: str) -> torch.device:
    """The device of the config's `training.device`.

    Raises:
        RunError: it was named and is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(
            f"training.device: {wanted} was asked for, but this torch {torch.__version__} sees no "
            "CUDA device; run `nvidia-smi`, install a CUDA build of torch, or use device: cpu"
        )
    return torch.device(wanted)


def find_start(config: RunConfig, folder: Path) -> Start:
    """Decide where to begin and load it.

    Raises:
        RunError: the run folder already holds checkpoints and the config does not say to resume.
        CheckpointError: a named file is missing, damaged, or for another architecture.
    """
    training = config.training
    own_latest = folder / "latest.pt"
    if training.resume_from is not None:
        path = Path(training.resume_from)
        if path.resolve() == own_latest.resolve():
            if not holds_checkpoints(folder):
                begun = (
                    f"{path} does not exist yet and {folder} holds no checkpoint: starting fresh"
                )
                return _initial(config, begun)
            found, state = newest_verified(folder)
        else:
            found, state = path, load_checkpoint(path)
        if state["stage"] != config.stage.value:
            raise CheckpointError(
                f"{found}: of stage {state['stage']}, this config is stage {config.stage.value}; "
                "use training.init_from to take its weights"
            )
        check_architecture(found, state["config"]["model"], config.model)
        return Start(state, None, None, f"resuming {found} at step {state['step']}")
    if holds_checkpoints(folder):
        raise RunError(
            f"{folder} already holds checkpoints: add --resume (or training.resume_from: "
            f"{own_latest}) to go on, or choose another training.checkpoint_dir"
        )
    return _initial(config, "starting fresh")


def _initial(config: RunConfig, message: str) -> Start:
    path = config.training.init_from
    if path is None:
        return Start(None, None, None, message)
    return Start(None, load_checkpoint(path), path, f"{message}, with weights from {path}")


def prepare_vocabulary(config: RunConfig, folder: Path, start: Start) -> Vocabulary:
    """The run's tokenizer: named, kept from before, inherited through `init_from`, or trained now.

    Raises:
        RunError: its size is not `model.vocab_size`.
    """
    if config.stage is Stage.PRETRAIN:
        return Vocabulary(None, b"")
    home = folder / "tokenizer"
    saved = start.resumed or start.initial
    if saved is not None and saved.get("tokens"):
        _unpack_tokenizer(saved, home)
        source = home
    elif config.data.tokenizer is not None:
        source = Path(config.data.tokenizer)
    else:
        texts = [u.text for u in _read_training(config)]
        logger.info("training a tokenizer of %d pieces", config.model.vocab_size)
        train_tokenizer(texts, config.model.vocab_size, home, config.data.tokenizer_type)
        source = home
    tokenizer = Tokenizer.load(source)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise RunError(
            f"{source}: tokenizer of {tokenizer.vocab_size} pieces, but model.vocab_size is "
            f"{config.model.vocab_size}"
        )
    return Vocabulary(tokenizer, (Path(source) / "tokenizer.model").read_bytes())


def _unpack_tokenizer(state: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tokenizer.model", bytes(state["tokenizer"].tolist()))
    write_atomically(folder / "tokens.txt", "".join(f"{token}\n" for token in state["tokens"]))


def _read_training(config: RunConfig) -> list[Utterance]:
    if config.data.train_manifest is None:
        raise RunError("data.train_manifest: not set; it names the JSONL manifest to train on")
    return read_manifest(config.data.train_manifest)


def load_training_set(
    config: RunConfig, tokenizer: Tokenizer | None
) -> tuple[list[Utterance], float | None]:
    """Usable training utterances, and the length cap for decoding in tokens per second.

    The cap is 1.5 times the rate of the fastest utterance unless the config names one.
    """
    screened = screen(_read_training(config), tokenizer, config.data, config.model.sample_rate)
    _report_rejected("training", screened.rejected)
    cap = config.decoding.max_tokens_per_second
    if tokenizer is not None and cap is None:
        window = frame_geometry(config.model.sample_rate)[0] / config.model.sample_rate
        rates = [len(tokenizer.encode(u.text)) / max(u.duration, window) for u in screened.kept]
        cap = LENGTH_CAP_MARGIN * max(rates)
    return screened.kept, cap


def load_validation_set(config: RunConfig, tokenizer: Tokenizer | None) -> list[Utterance]:
    """Usable validation utterances, thinned evenly to `max_valid_utterances`."""
    if config.data.valid_manifest is None:
        return []
    utterances = read_manifest(config.data.valid_manifest)
    screened = screen(utterances, tokenizer, config.data, config.model.sample_rate)
    _report_rejected("validation", screened.rejected)
    kept, limit = screened.kept, config.data.max_valid_utterances
    if limit is None or len(kept) <= limit:
        return kept
    return [kept[i * len(kept) // limit] for i in range(limit)]


def _report_rejected(what: str, rejected: list[tuple[str, str]]) -> None:
    for utterance_id, reason in rejected:
        logger.warning("%s utterance %s skipped: %s", what, utterance_id, reason)


def build_objective(config: RunConfig, device: torch.device) -> tuple[nn.Module, Objective]:
    """The stage's network and what it optimises; weights are a function of the seed."""
    torch.manual_seed(config.training.seed)
    if config.stage is Stage.PRETRAIN:
        module = BestRq(config.model, config.pretrain, config.training.seed).to(device)
        return module, PretrainObjective(module, config.pretrain, device)
    model = VoxFormer(config.model).to(device)
    frozen = config.stage is Stage.ATTENTION
    if frozen:
        freeze_encoder(model)
    elif config.stage is Stage.CTC:
        for parameter in model.decoder.parameters():
            parameter.requires_grad = False
    objective = SupervisedObjective(
        model,
        device,
        config.augment.spec_augment,
        config.training.label_smoothing,
        cr_ctc_weight=config.training.cr_ctc_weight,
        freeze_encoder=frozen,
    )
    return model, objective


def take_weights(module: nn.Module, start: Start, model_config: Any) -> None:
    """Apply `init_from`: shared names are copied, the rest keeps its seeded start values."""
    if start.initial is None or start.initial_path is None:
        return
    weights = start.initial.get("ema") or start.initial["model"]
    taken, missing = load_matching_weights(module, weights, start.initial_path)
    started = sorted({name.split(".")[0] for name in missing})
    logger.info(
        "%s: %d tensors taken; started at random: %s",
        start.initial_path,
        len(taken),
        ", ".join(started) or "nothing",
    )


def ctc_weight_range(config: RunConfig) -> tuple[float, float]:
    """CTC's effective weight at the run's first and last step, by stage."""
    if config.stage is Stage.CTC:
        return 1.0, 1.0
    if config.stage is Stage.ATTENTION:
        return 0.0, 0.0
    return config.model.ctc_weight_range
