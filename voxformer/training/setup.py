"""From a config to what the loop needs: folder, tokenizer, data, network, starting point."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voxformer.audio.features import frame_geometry
from voxformer.config import ModelConfig, RunConfig, Stage
from voxformer.config.locations import is_url
from voxformer.data.checks import Screened, screen
from voxformer.data.manifest import DataError, Utterance, read_manifest, spread
from voxformer.model.bestrq import BestRq
from voxformer.model.voxformer import DECODER_PREFIX, VoxFormer
from voxformer.text import Tokenizer, train_tokenizer
from voxformer.text.atomic import write_atomically
from voxformer.text.espeak import EspeakError
from voxformer.text.pronunciation import pronouncer
from voxformer.training.checkpoint import (
    TRAINING_ONLY,
    CheckpointError,
    check_architecture,
    load_checkpoint,
    load_matching_weights,
)
from voxformer.training.compatibility import changed_settings
from voxformer.training.ctc_crf import MOST_TOKENS, bigram_arpa, token_bigram
from voxformer.training.mirror import pull_if_there, pull_url
from voxformer.training.objectives import (
    Objective,
    PretrainObjective,
    SupervisedObjective,
    freeze_encoder,
)
from voxformer.training.recovery import newest_verified
from voxformer.training.remote import UnreachableError
from voxformer.training.storage import holds_checkpoints, numbered_checkpoints, sync_folder
from voxformer.training.transfer import Pulled
from voxformer.training.watch import needless_without_evaluation

logger = logging.getLogger("voxformer.training")

LENGTH_CAP_MARGIN = 1.5

TOKEN_LM = "tokens.arpa"
"""In a run's folder: the bigram of CTC-CRF."""

# What a stage has not trained, the next one may choose anew.
_DECODER = {name for name in ModelConfig.model_fields if name.startswith("decoder_")}
FREE_WITH_INITIAL = {
    Stage.PRETRAIN.value: TRAINING_ONLY | _DECODER | {"vocab_size"},
    Stage.CTC.value: TRAINING_ONLY | _DECODER,
}


class RunError(ValueError):
    """A run that cannot start as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Start:
    """Where a run begins: nothing, a checkpoint to resume, or weights to start from."""

    resumed: dict[str, Any] | None
    initial: dict[str, Any] | None
    path: str | None
    message: str
    notes: list[str] = field(default_factory=list)
    """For the log: what was found damaged, which settings have changed."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a run and what a checkpoint keeps of it."""

    tokenizer: Tokenizer | None
    model_bytes: bytes
    bigram: Tensor | None = None
    """Of the training transcripts' tokens, where CTC-CRF needs it."""
    token_lm: Path | None = None
    """The same as a language model over tokens, which evaluations search with."""

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
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"training.device: {wanted} was asked for, but this torch {torch.__version__} sees no "
            "CUDA device; run `nvidia-smi`, install a CUDA build of torch, or use device: cpu"
        )
    if (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise RunError(
            f"training.device: {wanted} was asked for, but the last of "
            f"{torch.cuda.device_count()} is cuda:{torch.cuda.device_count() - 1}"
        )
    return device


def make_run_folder(folder: Path) -> None:
    """Make the run folder, or find out early that nothing can be written there.

    Raises:
        RunError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise RunError(
            f"{folder}: cannot be the run folder: {str(error.strerror).lower()}; choose another "
            "training.checkpoint_dir"
        ) from None


_locks: set[int] = set()


def _close_locks() -> None:
    # A process that reads audio outlives a killed trainer by seconds, and would keep its lock.
    for handle in _locks:
        os.close(handle)
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second training process out of a run folder; the lock ends with the process.

    Where the file system knows no locks (some network mounts) there is none.

    Raises:
        RunError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    _locks.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder}: another process is training in it; wait for it, stop it, or choose "
                "another training.checkpoint_dir"
            ) from None
        except OSError as error:
            logger.warning("%s: cannot be locked: %s", folder, error.strerror)
        yield
    finally:
        if handle in _locks:
            _locks.remove(handle)
            os.close(handle)


def find_start(config: RunConfig, folder: Path) -> Start:
    """Decide where to begin and load it.

    Raises:
        RunError: the run folder already holds checkpoints and the config does not say to resume.
        CheckpointError: a named file is missing, damaged, or for another architecture.
    """
    training = config.training
    own_latest = folder / "latest.pt"
    begun = "starting fresh"
    if training.resume_from is not None and is_url(training.resume_from):
        if holds_checkpoints(folder):
            raise _other_run(folder, training.resume_from)
        return _resume_pulled(config, pull_url(training.resume_from, folder), training.resume_from)
    if training.resume_from is not None:
        path = Path(training.resume_from)
        if path.resolve() != own_latest.resolve():
            state = load_checkpoint(path)
            _check_folder_goes_on_from(folder, path, state["step"])
            return _resume(config, path, state)
        if holds_checkpoints(folder):
            found = newest_verified(folder)
            return _resume(config, found.path, found.state, notes=found.notes)
        begun = f"{path} does not exist yet and {folder} holds no checkpoint: starting fresh"
    elif holds_checkpoints(folder):
        raise RunError(
            f"{folder} already holds checkpoints: add --resume (or training.resume_from: "
            f"{own_latest}) to go on, or choose another training.checkpoint_dir"
        )
    try:
        pulled = pull_if_there(config.mirror, folder)
    except UnreachableError as error:
        begun += f" without knowing whether the mirror holds checkpoints: {error}"
        pulled = None
    if pulled is not None:
        return _resume_pulled(config, pulled, str(config.mirror.url))
    return _initial(config, begun)


def _resume(
    config: RunConfig,
    found: Path,
    state: dict[str, Any],
    source: str = "",
    notes: Sequence[str] = (),
) -> Start:
    """Go on from a loaded checkpoint, if it is one of such a run."""
    if state["stage"] != config.stage.value:
        raise CheckpointError(
            f"{found}: of stage {state['stage']}, this config is stage {config.stage.value}; "
            "use training.init_from to take its weights"
        )
    if "optimizer" not in state:
        raise CheckpointError(
            f"{found}: holds weights only, so a run cannot go on from it; use "
            "training.init_from to take them, or resume from latest.pt"
        )
    check_architecture(found, state["config"]["model"], config.model)
    changed = changed_settings(found, state["config"], config)
    message = f"resuming {found} at step {state['step']}{source}"
    told = [f"goes on with other settings than before: {'; '.join(changed)}"] if changed else []
    return Start(state, None, str(found), message, [*notes, *told])


def _resume_pulled(config: RunConfig, pulled: Pulled, url: str) -> Start:
    """Go on from what a mirror held; what does not fit is not left in the run folder."""
    try:
        state = load_checkpoint(pulled.checkpoint)
        return _resume(config, pulled.checkpoint, state, f", fetched from the mirror {url}")
    except CheckpointError as error:
        pulled.undo()
        raise CheckpointError(f"the mirror {url} is of another run: {error}") from None


def _other_run(folder: Path, place: str | Path) -> RunError:
    return RunError(
        f"{folder} already holds checkpoints, and {place} is not one of them; use --resume "
        "to go on with them, or choose another training.checkpoint_dir"
    )


def _check_folder_goes_on_from(folder: Path, path: Path, step: int) -> None:
    """Refuse to mix two runs, or two continuations of one, in a folder."""
    if path.resolve().parent != folder.resolve():
        if holds_checkpoints(folder):
            raise _other_run(folder, path)
        return
    newer = [p.name for p in numbered_checkpoints(folder, "step") if int(p.stem[5:]) > step]
    if newer:
        raise RunError(
            f"{folder} holds {newer[-1]}, which is newer than {path.name}; move the newer ones "
            "away, or choose another training.checkpoint_dir"
        )


def _initial(config: RunConfig, message: str) -> Start:
    path = config.training.init_from
    if path is None:
        return Start(None, None, None, message)
    state = load_checkpoint(path)
    free = FREE_WITH_INITIAL.get(state["stage"], TRAINING_ONLY)
    check_architecture(path, state["config"]["model"], config.model, free)
    return Start(None, state, path, f"{message}, with weights from {path}")


def prepare_vocabulary(config: RunConfig, folder: Path, start: Start) -> Vocabulary:
    """The run's tokenizer: named, kept from before, inherited through `init_from`, or trained now.

    Raises:
        RunError: its size is not `model.vocab_size`, or it is not the one of the checkpoint, which
            was trained on other pronunciations.
    """
    if config.stage is Stage.PRETRAIN:
        return Vocabulary(None, b"")
    home = folder / "tokenizer"
    saved = start.resumed or start.initial
    if saved is not None and saved.get("tokens"):
        spoken = saved["config"]["data"].get("pronunciation")
        if spoken != config.data.pronunciation:
            raise RunError(
                f"data.pronunciation: {config.data.pronunciation!r}, but {start.path} was trained "
                f"with {spoken!r}; its tokens are of no use for others"
            )
        named = config.data.tokenizer
        if named is not None and Tokenizer.load(named).tokens != saved["tokens"]:
            raise RunError(
                f"data.tokenizer: {named} is not the tokenizer that {start.path} was trained with; "
                "leave it out, and the checkpoint's own is used"
            )
        _unpack_tokenizer(saved, home)
        source = home
    elif config.data.tokenizer is not None:
        source = Path(config.data.tokenizer)
    else:
        texts = [u.text for u in read_training_set(config)]
        logger.info("training a tokenizer of %d pieces", config.model.vocab_size)
        train_tokenizer(texts, config.model.vocab_size, home, config.data.tokenizer_type)
        source = home
    tokenizer = Tokenizer.load(source)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise RunError(
            f"{source}: tokenizer of {tokenizer.vocab_size} pieces, but model.vocab_size is "
            f"{config.model.vocab_size}"
        )
    vocabulary = Vocabulary(tokenizer, (Path(source) / "tokenizer.model").read_bytes())
    if config.training.crf_weight == 0.0:
        return vocabulary
    if tokenizer.vocab_size > MOST_TOKENS:
        raise RunError(
            f"training.crf_weight: CTC-CRF takes at most {MOST_TOKENS} pieces, and there are "
            f"{tokenizer.vocab_size}; lower model.vocab_size"
        )
    sequences = ((tokenizer.encode(u.text), u.weight) for u in read_training_set(config))
    bigram = token_bigram(sequences, tokenizer.vocab_size)
    path = folder / TOKEN_LM
    write_atomically(path, bigram_arpa(bigram, tokenizer.tokens))
    return replace(vocabulary, bigram=bigram, token_lm=path)


def _unpack_tokenizer(state: dict[str, Any], folder: Path) -> None:
    if not isinstance(state.get("tokenizer"), torch.Tensor):
        raise CheckpointError("the checkpoint has a list of tokens but no tokenizer")
    write_atomically(folder / "tokenizer.model", bytes(state["tokenizer"].tolist()))
    write_atomically(folder / "tokens.txt", "".join(f"{token}\n" for token in state["tokens"]))


def read_training_set(config: RunConfig) -> list[Utterance]:
    """Every training utterance, usable or not, with its phones for text where the run is on these.

    Raises:
        RunError: no manifest is named, or its texts cannot be pronounced.
    """
    if config.data.train_manifest is None:
        raise RunError(
            "data.train_manifest: not set; name a JSONL manifest in the config, or with "
            "--set data.train_manifest=FILE"
        )
    sets = config.data.training_sets
    return _pronounced(read_manifest([s.path for s in sets], [s.weight for s in sets]), config)


def _pronounced(utterances: list[Utterance], config: RunConfig) -> list[Utterance]:
    """With phones for texts, where the run is on these."""
    if config.data.pronunciation is None or config.stage is Stage.PRETRAIN:
        return utterances
    try:
        pronounce = pronouncer(config.data.pronunciation)
        return [replace(utterance, text=pronounce(utterance.text)) for utterance in utterances]
    except EspeakError as error:
        raise RunError(f"data.pronunciation: {error}") from None


def load_training_set(
    config: RunConfig, tokenizer: Tokenizer | None
) -> tuple[list[Utterance], float | None]:
    """Usable training utterances, and the length cap for decoding in tokens per second.

    The cap is 1.5 times the rate of the fastest utterance unless the config names one.

    Raises:
        DataError: a manifest cannot be used, or the weights leave an epoch empty.
    """
    screened = _screen("training", read_training_set(config), tokenizer, config)
    drawn = sum(u.weight for u in screened.kept)
    if drawn < 1.0:
        raise DataError(
            f"data.train_manifest: with weights that add up to {drawn:.3g} utterances an epoch "
            "would be empty; raise them"
        )
    if config.augment.noise_manifest is not None:
        read_manifest(config.augment.noise_manifest)
    cap = config.decoding.max_tokens_per_second
    if tokenizer is not None and cap is None:
        window = frame_geometry(config.model.sample_rate)[0] / config.model.sample_rate
        rates = [len(tokenizer.encode(u.text)) / max(u.duration, window) for u in screened.kept]
        cap = LENGTH_CAP_MARGIN * max(rates)
    return screened.kept, cap


def load_validation_set(config: RunConfig, tokenizer: Tokenizer | None) -> list[Utterance]:
    """Usable validation utterances, thinned evenly to `max_valid_utterances`.

    Raises:
        RunError: there is no validation set, and the watch is to act on evaluations.
    """
    if config.data.valid_manifest is None:
        needed = needless_without_evaluation(config.watch)
        if needed is not None:
            raise RunError(
                f"{needed}: acts on evaluations, and data.valid_manifest is not set; name a "
                "validation manifest, or leave the setting out"
            )
        return []
    utterances = _pronounced(read_manifest(config.data.valid_manifest), config)
    screened = _screen("validation", utterances, tokenizer, config)
    return spread(screened.kept, config.data.max_valid_utterances)


def _screen(
    what: str, utterances: list[Utterance], tokenizer: Tokenizer | None, config: RunConfig
) -> Screened:
    try:
        screened = screen(utterances, tokenizer, config.data, config.model.sample_rate)
    except DataError as error:
        raise DataError(f"{what} manifest: {error}") from None
    for utterance_id, reason in screened.rejected:
        logger.warning("%s utterance %s skipped: %s", what, utterance_id, reason)
    return screened


def build_objective(
    config: RunConfig, device: torch.device, bigram: Tensor | None = None
) -> tuple[nn.Module, Objective]:
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
        config.augment,
        config.training.label_smoothing,
        cr_ctc_weight=config.training.cr_ctc_weight,
        freeze_encoder=frozen,
        decoder_input_noise=config.training.decoder_input_noise,
        inter_ctc_weight=config.training.inter_ctc_weight,
        crf_weight=config.training.crf_weight,
        bigram=bigram,
    )
    return model, objective


def take_weights(module: nn.Module, start: Start, model_config: Any) -> None:
    """Apply `init_from`: shared names are copied, the rest keeps its seeded start values."""
    if start.initial is None or start.path is None:
        return
    weights = start.initial.get("ema") or start.initial["model"]
    if start.initial["stage"] == Stage.CTC.value:
        # CTC alone never trained its decoder, so this run's own sizes and start values stand.
        weights = {k: v for k, v in weights.items() if not k.startswith(DECODER_PREFIX)}
    taken, missing = load_matching_weights(module, weights, start.path)
    started = sorted({name.split(".")[0] for name in missing})
    logger.info(
        "%s: %d tensors taken; started at random: %s",
        start.path,
        len(taken),
        ", ".join(started) or "nothing",
    )


def ctc_weight_range(config: RunConfig) -> tuple[float, float]:
    """CTC's effective weight at the run's first and last step, by stage."""
    if config.stage is Stage.CTC:
        return 1.0, 1.0
    if config.stage in (Stage.PRETRAIN, Stage.ATTENTION):
        return 0.0, 0.0
    return config.model.ctc_weight_range
