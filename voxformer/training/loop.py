"""The training loop: one optimiser step after another, each a function of the run's position.

Nothing here depends on what happened before but through the saved state: dropout is reseeded from
(seed, step), augmentation from (seed, epoch, utterance), batches from (seed, epoch, index). A
resumed run is therefore bit-equal to one that was never stopped (same build, instruction set and
thread count).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from voxformer.config import RunConfig, Stage, dump_config
from voxformer.data.loader import Batch, decode_all, iterate_batches
from voxformer.data.sampler import BucketingSampler
from voxformer.data.seeds import derived_seed
from voxformer.model import count_parameters
from voxformer.text.atomic import write_atomically
from voxformer.training.checkpoint import CheckpointError, CheckpointFolder
from voxformer.training.compatibility import changed_data, describe_data, same_share
from voxformer.training.mirror import Mirror
from voxformer.training.monitor import Monitor
from voxformer.training.optim import (
    WeightAverage,
    ctc_weight_at,
    learning_rate,
    make_optimizer,
    schedule_step,
)
from voxformer.training.recovery import best_so_far
from voxformer.training.saver import CheckpointSaver
from voxformer.training.setup import (
    RunError,
    Start,
    build_objective,
    choose_device,
    ctc_weight_range,
    find_start,
    load_training_set,
    load_validation_set,
    locked,
    make_run_folder,
    prepare_vocabulary,
    run_folder,
    take_weights,
)
from voxformer.training.validation import Validator
from voxformer.training.watch import Finding, Watch, ended_early, skipped_step, too_many_skipped

logger = logging.getLogger("voxformer.training")

EXIT_OK, EXIT_DISK, EXIT_WATCH = 0, 3, 4


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


@dataclass
class _Stop:
    """Set by a signal; the loop saves and leaves at the next step."""

    signal_number: int | None = None
    previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise SystemExit(128 + number)
        self.signal_number = number
        logger.warning(
            "%s: saving and leaving after this step; once more leaves at once",
            signal.Signals(number).name,
        )


def train(config: RunConfig, name: str) -> int:
    """Run one stage to its end.

    Args:
        config: the whole run.
        name: of the config, for the default run folder.

    Returns:
        Exit code: 0 done, 3 out of disk, 4 stopped by the run's watch, 130/143 after saving on a
        signal.

    Raises:
        RunError, CheckpointError, DataError, FarEndError: it cannot start; nothing was changed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("training on several processes is not built yet; start it without torchrun")
    device = choose_device(config.training.device)
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    if config.training.deterministic:
        torch.use_deterministic_algorithms(True)
    folder = run_folder(config, name)
    existed = folder.is_dir()
    make_run_folder(folder)
    try:
        with locked(folder):
            return _Run(config, name, folder, find_start(config, folder), device).run()
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # goes only where it holds nothing
        raise


class _Run:
    """State of one run between its first and its last step."""

    def __init__(
        self, config: RunConfig, name: str, folder: Path, start: Start, device: torch.device
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        training = config.training
        self.vocabulary = prepare_vocabulary(config, folder, start)
        tokenizer = self.vocabulary.tokenizer
        self.utterances, self.token_rate = load_training_set(config, tokenizer)
        validation = load_validation_set(config, tokenizer)
        self.module, self.objective = build_objective(config, device)
        take_weights(self.module, start, config.model)
        self.optimizer = make_optimizer(self.module, training)
        self.average = (
            WeightAverage(self.module, training.ema_decay) if training.ema_decay else None
        )
        self.sampler = BucketingSampler(
            [u.duration for u in self.utterances],
            training.batch_size,
            training.batch_seconds,
            training.seed,
            weights=[u.weight for u in self.utterances],
        )
        steps_per_epoch = -(-self.sampler.num_batches(0) // training.gradient_accumulation_steps)
        self.total_steps = steps_per_epoch * training.num_epochs
        if training.max_steps:
            self.total_steps = min(self.total_steps, training.max_steps)
        self.data = describe_data(self.utterances)
        self.position = Position()
        self.notes = list(start.notes)
        if start.resumed is not None:
            self._restore(start.resumed, start.path)
        self.saver = CheckpointSaver(
            CheckpointFolder(folder, training.keep_last_n, training.keep_epochs_n),
            training.max_unsaved_minutes,
            saved_step=self.position.step if start.resumed is not None else -1,
        )
        self.watch = Watch(config.watch, self.position.watch, self.position.critical_in_a_row)
        self.found: list[Finding] = []
        self.mirror = Mirror(config.mirror, folder) if config.mirror.url else None
        self.monitor = Monitor(folder, self.total_steps, name)
        self.validator = Validator(
            config,
            self.module,
            self.objective,
            self.vocabulary,
            validation,
            self.token_rate,
            device,
        )
        self.unsaved = start.resumed is None
        write_atomically(folder / "config.yaml", dump_config(config))
        self.opening = start.message

    def run(self) -> int:
        """Train to the end, a signal or a stop; save in each case."""
        config, hours = self.config, sum(u.duration for u in self.utterances) / 3600
        with self.monitor, _Stop() as stop, self.mirror or contextlib.nullcontext(), self.saver:
            logger.info("%s in %s", self.opening, self.folder)
            for note in self.notes:
                logger.warning("%s", note)
            logger.info(
                "stage %s on %s: %.1f M parameters, %d utterances (%.2f h), %d steps",
                config.stage.value,
                self.device,
                count_parameters(self.module) / 1e6,
                len(self.utterances),
                hours,
                self.total_steps,
            )
            if self._finished() and self.position.evaluated == self.position.step:
                logger.info("already finished at step %d", self.position.step)
                return EXIT_OK
            try:
                code = self._epochs(stop)
            except RuntimeError as error:
                # Raised wherever the step is by now, so this state is no step's and is not saved.
                if "DataLoader worker" not in str(error):
                    raise
                self.saver.finish(lambda: True)
                raise RunError(
                    "a process that reads audio died; if memory or shared memory (/dev/shm) ran "
                    f"out, lower training.num_workers or set it to 0; {self._saved()} is saved, go "
                    "on with --resume"
                ) from None
            # Evaluating at the end moves what is best so far, so it is saved once more.
            self._save()
            in_a_hurry = code == EXIT_DISK
            if not self.saver.finish(lambda: in_a_hurry or stop.signal_number is not None):
                code = EXIT_DISK
            if code == EXIT_DISK:
                logger.error(
                    "stopped at step %d because saving failed, %s is saved; make space and go on "
                    "with --resume",
                    self.position.step,
                    self._saved(),
                )
            if code == EXIT_OK:
                logger.info(
                    "done: %s, %.0f s in steps, peak memory %.2f GiB",
                    self.folder / "latest.pt",
                    self.position.seconds,
                    self._peak_memory_gib(),
                )
            return code

    def _peak_memory_gib(self) -> float:
        """Of the device where it is a GPU, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def _saved(self) -> str:
        step = self.saver.saved_step
        return f"step {step}" if step >= 0 else "nothing"

    def _finished(self) -> bool:
        training, position = self.config.training, self.position
        patience = self.config.watch.early_stopping
        return bool(
            position.epoch >= training.num_epochs
            or (training.max_steps and position.step >= training.max_steps)
            or (training.max_minutes and position.seconds >= training.max_minutes * 60)
            or (patience and position.evaluations_since_best >= patience)
        )

    def _epochs(self, stop: _Stop) -> int:
        # Only where there is something to do: for hours of speech it takes minutes.
        config = self.config
        self.cache = decode_all(self.utterances, config.model.sample_rate, config.data.memory_hours)
        while not self._finished():
            began = time.monotonic()
            for batches in self._steps_of_epoch():
                self._step(batches, began)
                code = self._after_step(stop)
                began = time.monotonic()
                if code is not None:
                    return code
                if self._finished():
                    break
            if self.position.micro_batch >= self.sampler.num_batches(self.position.epoch):
                self._end_of_epoch()
        if self.position.evaluated != self.position.step and self._evaluate():
            return self._stopped_by_watch()
        return EXIT_OK if stop.signal_number is None else 128 + stop.signal_number

    def _steps_of_epoch(self) -> Iterator[list[Batch]]:
        training, position = self.config.training, self.position
        batches = iterate_batches(
            self.utterances,
            self.vocabulary.tokenizer,
            self.sampler,
            position.epoch,
            position.micro_batch,
            augment=self.config.augment,
            seed=training.seed,
            num_workers=training.num_workers,
            sample_rate=self.config.model.sample_rate,
            cache=self.cache,
        )
        while group := list(itertools.islice(batches, training.gradient_accumulation_steps)):
            yield group

    def _step(self, batches: list[Batch], began: float) -> None:
        """One optimiser update over its micro-batches, which were asked for when it began."""
        training, position = self.config.training, self.position
        position.step += 1
        position.micro_batch += len(batches)
        self.unsaved = True
        rate = learning_rate(self._schedule_step(), self.total_steps, training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weight = self._weight()["ctc_weight"]
        for batch in batches:
            for utterance_id, reason in batch.bad:
                logger.warning("utterance %s skipped: %s", utterance_id, reason)
        batches = [batch for batch in batches if len(batch)]
        totals: dict[str, float] = {}
        for batch in batches:
            for key, value in self.objective.weigh(batch).items():
                totals[key] = totals.get(key, 0.0) + value
        self.module.train()
        terms: dict[str, float] = {}
        for index, batch in enumerate(batches):
            torch.manual_seed(derived_seed("dropout", training.seed, position.step, index))
            with self._autocast():
                share = self.objective.share(batch, totals, weight)
            share.loss.backward()  # type: ignore[no-untyped-call]
            for key, value in share.terms.items():
                terms[key] = terms.get(key, 0.0) + value
        norm = self._update(terms, batches)
        seconds = time.monotonic() - began
        position.seconds += seconds
        self._report(terms, norm, rate, weight, sum(b.audio_seconds for b in batches) / seconds)
        self.found += self.watch.after_step(terms)

    def _update(self, terms: dict[str, float], batches: list[Batch]) -> float:
        """Clip and apply the gradients; a non-finite step changes nothing and is counted."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.training.gradient_clip))
        if batches and math.isfinite(norm) and math.isfinite(terms["loss"]):
            self.position.nonfinite_in_a_row = 0
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.position.step)
        else:
            self.position.skipped_steps += 1
            self.position.nonfinite_in_a_row += 1
            self.suspects = [utterance_id for batch in batches for utterance_id in batch.ids]
            self.found.append(
                skipped_step(self.position.step, terms.get("loss"), norm, self.suspects)
            )
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _report(
        self, terms: dict[str, float], norm: float, rate: float, weight: float, speed: float
    ) -> None:
        position, training = self.position, self.config.training
        values = {
            "epoch": position.epoch + self._epoch_progress(),
            **terms,
            "ctc_weight": weight,
            "learning_rate": rate,
            "gradient_norm": norm,
            "audio_per_second": speed,
            "skipped_steps": position.skipped_steps,
            **self.saver.metrics(),
            **(self.mirror.metrics() if self.mirror else {}),
        }
        values.setdefault("loss", math.nan)
        if position.step % training.log_interval == 0 or position.step == 1:
            self.monitor.row("train", position.step, values)
        limit = training.max_minutes
        most_seconds = None if limit is None else max(0.0, 60.0 * limit - position.seconds)
        self.monitor.progress(position.step, values["epoch"], values, most_seconds)

    def _weight(self) -> dict[str, float]:
        """CTC's effective weight at the present step, for every metrics row."""
        ends = ctc_weight_range(self.config)
        return {"ctc_weight": ctc_weight_at(self._schedule_step(), self.total_steps, *ends)}

    def _schedule_step(self) -> float:
        position, limit = self.position, self.config.training.max_minutes
        return schedule_step(position.step, self.total_steps, position.seconds, limit)

    def _epoch_progress(self) -> float:
        return self.position.micro_batch / self.sampler.num_batches(self.position.epoch)

    def _after_step(self, stop: _Stop) -> int | None:
        """Evaluate, save or leave; an exit code means leave."""
        training, step = self.config.training, self.position.step
        if self.position.nonfinite_in_a_row >= training.max_nonfinite_steps:
            self.found.append(too_many_skipped(self.position.nonfinite_in_a_row, self.suspects))
            self.position.nonfinite_in_a_row = 0  # a run that is resumed gets as many again
        found, self.found = self.found, []
        if self._tell(found) or (step % training.eval_interval == 0 and self._evaluate()):
            return self._stopped_by_watch()
        if step % training.save_interval == 0:
            self._save()
        if stop.signal_number is not None:
            return 128 + stop.signal_number
        return EXIT_DISK if self.saver.overdue else None

    def _end_of_epoch(self) -> None:
        position = self.position
        summary = self.objective.epoch_summary()
        position.epoch, position.micro_batch = position.epoch + 1, 0
        self.unsaved = True
        if summary:
            row = {"epoch": position.epoch, **summary, **self._weight()}
            self.monitor.row("epoch", position.step, row)
            shown = ", ".join(f"{key} {value:.3f}" for key, value in summary.items())
            logger.info("epoch %d: %s", position.epoch, shown)
        if self.config.training.keep_epochs_n:
            self._save(position.epoch)

    def _evaluate(self) -> bool:
        """Evaluate on the validation set, keep the best; True when the watch says stop."""
        self.position.evaluated = self.position.step
        self.unsaved = True
        result = self.validator.run(self.average.state_dict() if self.average else None)
        if result is None:
            return False
        position = self.position
        self.monitor.row("valid", position.step, {**result.row, **self._weight()})
        if result.samples:
            self.monitor.samples(position.step, result.samples)
        logger.info("step %d: %s", position.step, result.summary)
        if result.score < position.best:
            position.evaluations_since_best = 0
            if self.saver.saved_step < 0:
                self._save()  # best.pt alone could not be resumed
                self.unsaved = True
            weights = self.average.state_dict() if self.average else self.module.state_dict()
            best = {**self._identity(), "model": weights, "score": result.score}
            self.saver.save_best(position.step, {**best, "metrics": result.row})
            position.best = result.score
        else:
            position.evaluations_since_best += 1
        warm = position.step > self.config.training.warmup_steps
        findings = self.watch.after_evaluation(result.row, warm)
        position.critical_in_a_row = self.watch.critical_in_a_row
        patience = self.config.watch.early_stopping
        if patience and position.evaluations_since_best >= patience:
            findings.append(ended_early(position.evaluations_since_best))
        return self._tell(findings)

    def _tell(self, findings: list[Finding]) -> bool:
        """Log and write what the watch found; True when it says stop."""
        for finding in findings:
            logger.log(finding.level, "%s", finding.message)
            self.monitor.row("watch", self.position.step, {**finding.row(), **self._weight()})
        return any(finding.action == "stop" for finding in findings)

    def _stopped_by_watch(self) -> int:
        self.watch.forget()
        self.position.critical_in_a_row = 0
        return EXIT_WATCH

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        precision = self.config.training.precision
        cuda = self.device.type == "cuda"
        if precision == "bf16" or (precision == "auto" and cuda and torch.cuda.is_bf16_supported()):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _identity(self) -> dict[str, Any]:
        return {
            "stage": self.config.stage.value,
            "config": self.config.model_dump(mode="json"),
            "step": self.position.step,
            "tokens": self.vocabulary.tokens,
            "tokenizer": torch.tensor(list(self.vocabulary.model_bytes), dtype=torch.uint8),
            "max_tokens_per_second": self.token_rate,
            "data": self._data(),
        }

    def _data(self) -> dict[str, Any]:
        return {**self.data, "num_batches": self.sampler.num_batches(self.position.epoch)}

    def _save(self, epoch: int | None = None) -> None:
        """Have the present state written as `step_N.pt`, and as the `epoch_N.pt` of an epoch."""
        if not self.unsaved:
            return
        state = {
            **self._identity(),
            "model": self.module.state_dict(),
            "ema": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "position": asdict(self.position),
        }
        self.saver.save_step(self.position.step, state, epoch)
        self.unsaved = False

    def _restore(self, state: dict[str, Any], path: str | None) -> None:
        try:
            self.module.load_state_dict(state["model"])
            configured = [
                {key: value for key, value in group.items() if key != "params"}
                for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(state["optimizer"])
            # The config goes before what was saved: a changed weight decay is meant.
            for group, values in zip(self.optimizer.param_groups, configured, strict=True):
                group.update(values)
            if self.average is not None:
                self.average.load_state_dict(state["ema"] or state["model"])
            position = self.position = Position(**state["position"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: does not fit this run: {reason}") from None
        if self.config.stage is not Stage.PRETRAIN and state["tokens"] != self.vocabulary.tokens:
            raise CheckpointError(f"{path}: its tokens are not those of its tokenizer")
        data, saved_data = self._data(), state.get("data")
        self.notes += changed_data(saved_data, data)
        position.micro_batch = same_share(position.micro_batch, saved_data, data["num_batches"])
        position.best, notes = best_so_far(self.folder, position.step, position.best)
        self.notes += notes
