"""The training loop: one optimiser step after another, each a function of the run's position.

Nothing here depends on what happened before but through the saved state: dropout is reseeded from
(seed, step), augmentation from (seed, epoch, utterance), batches from (seed, epoch, index). A
resumed run is therefore bit-equal to one that was never stopped (same build, instruction set and
thread count).

Several processes (torchrun) share the micro-batches of each step. `_step` and what it calls run in
all of them, what surrounds it in the first alone, which then shares the position.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from voxformer.config import RunConfig, Stage, dump_config
from voxformer.data.loader import Batch, decode_all
from voxformer.data.sampler import BucketingSampler
from voxformer.data.seeds import derived_seed
from voxformer.model import count_parameters
from voxformer.text.atomic import write_atomically
from voxformer.training.batch_size import Trial, batch_seconds
from voxformer.training.checkpoint import CheckpointError, CheckpointFolder
from voxformer.training.compatibility import changed_data, describe_data, same_share
from voxformer.training.compiling import as_written, compile_layers
from voxformer.training.distributed import LostProcessError, Processes, join_processes
from voxformer.training.gradients import GradientSum
from voxformer.training.memory import peak_memory_gib
from voxformer.training.mirror import Mirror
from voxformer.training.monitor import Monitor
from voxformer.training.optim import (
    WeightAverage,
    ctc_weight_at,
    learning_rate,
    make_optimizer,
    planned_steps,
    schedule_step,
)
from voxformer.training.position import Position, resumed_position
from voxformer.training.precision import Precision
from voxformer.training.recovery import best_so_far
from voxformer.training.saver import CheckpointSaver
from voxformer.training.setup import (
    RunError,
    Start,
    build_objective,
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
from voxformer.training.signals import Stop
from voxformer.training.steps import steps_of_epoch
from voxformer.training.validation import Validator
from voxformer.training.watch import Finding, Watch, ended_early, skipped_step, too_many_skipped

logger = logging.getLogger("voxformer.training")

T = TypeVar("T")

EXIT_OK, EXIT_DISK, EXIT_WATCH = 0, 3, 4


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
    config = config.model_copy(deep=True)
    with join_processes(config) as processes:
        if config.training.num_threads:
            torch.set_num_threads(config.training.num_threads)
        if config.training.deterministic:
            torch.use_deterministic_algorithms(True)
        code = _train(config, name, processes)
        # An exit code other than 0 makes torchrun end the rest, so all wait for the mirror, too.
        return processes.share(code)


def _train(config: RunConfig, name: str, processes: Processes) -> int:
    folder = run_folder(config, name)
    existed = folder.is_dir()
    try:
        with contextlib.ExitStack() as stack:

            def start() -> Start:
                make_run_folder(folder)
                stack.enter_context(locked(folder))
                return find_start(config, folder)

            found = processes.from_first(start)
            return _Run(config, name, folder, found, processes).run()
    except BaseException:
        if not existed and processes.first:
            with contextlib.suppress(OSError):
                folder.rmdir()  # goes only where it holds nothing
        raise


class _Run:
    """State of one run between its first and its last step."""

    def __init__(
        self, config: RunConfig, name: str, folder: Path, start: Start, processes: Processes
    ) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self.device = processes.device
        self.vocabulary = processes.from_first(lambda: prepare_vocabulary(config, folder, start))
        with processes.together():
            self._build(start)
            limit = batch_seconds(self.trial, start, self.utterances, self.vocabulary.tokenizer)
        # By the card with least memory; in the config, so that a run that goes on has it, too.
        config.training.batch_seconds = None if limit is None else min(processes.gather(limit))
        with processes.together():
            self._plan(start)
            if processes.first:
                self._open(name, start)
        processes.agree(
            "the training utterances",
            {u.id: (round(u.duration, 3), u.weight) for u in self.utterances},
        )
        self.gradients = GradientSum(self.module.parameters(), processes)
        self.found: list[Finding] = []
        self.before_step: Position | None = None
        self.saved_there = "nothing" if start.resumed is None else f"step {self.position.step}"
        self.unsaved = start.resumed is None
        self.opening = start.message

    def _build(self, start: Start) -> None:
        """What every process has: data, network, optimiser, and where they are."""
        config, training = self.config, self.config.training
        self.utterances, self.token_rate = load_training_set(config, self.vocabulary.tokenizer)
        self.precision = Precision(training.precision, self.device)
        self.module, self.objective = build_objective(config, self.device, self.vocabulary.bigram)
        take_weights(self.module, start, config.model)
        self.optimizer = make_optimizer(self.module, training)
        self.average = (
            WeightAverage(self.module, training.ema_decay) if training.ema_decay else None
        )
        self.trial = Trial(config, self.module, self.objective, self.optimizer, self.precision)

    def _plan(self, start: Start) -> None:
        """Where a run stands among its batches and steps."""
        training = self.config.training
        self.sampler = BucketingSampler(
            [u.duration for u in self.utterances],
            training.batch_size,
            training.batch_seconds_limit,
            training.seed,
            weights=[u.weight for u in self.utterances],
        )
        self.per_step = training.gradient_accumulation_steps * self.processes.count
        self.total_steps = planned_steps(self.sampler.num_batches(0), self.per_step, training)
        self.data = describe_data(self.utterances)
        self.position = Position()
        self.notes = list(start.notes)
        if start.resumed is not None:
            self._restore(start.resumed, start.path)

    def _open(self, name: str, start: Start) -> None:
        """What only the first process has: everything that evaluates, writes and tells."""
        config, training, position = self.config, self.config.training, self.position
        validation = load_validation_set(config, self.vocabulary.tokenizer)
        if start.resumed is not None:
            position.best, notes = best_so_far(self.folder, position.step, position.best)
            self.notes += notes
        self.watch = Watch(config.watch, position.watch, position.critical_in_a_row)
        self.saver = CheckpointSaver(
            CheckpointFolder(self.folder, training.keep_last_n, training.keep_epochs_n),
            training.max_unsaved_minutes,
            saved_step=position.step if start.resumed is not None else -1,
        )
        self.mirror = Mirror(config.mirror, self.folder) if config.mirror.url else None
        last_step = self.total_steps - round(position.schedule_offset)
        self.monitor = Monitor(self.folder, last_step, name)
        self.validator = Validator(
            config,
            self.module,
            self.objective,
            self.vocabulary,
            validation,
            self.token_rate,
            self.device,
        )
        write_atomically(self.folder / "config.yaml", dump_config(config))

    def run(self) -> int:
        """Train to the end, a signal or a stop; save in each case."""
        with Stop() as stop, contextlib.ExitStack() as stack:
            if self.processes.first:
                stack.enter_context(self.monitor)
                stack.enter_context(self.mirror or contextlib.nullcontext())
                stack.enter_context(self.saver)
                self._tell_opening()
            if self._finished() and self.position.evaluated == self.position.step:
                logger.info("already finished at step %d", self.position.step)
                return EXIT_OK
            try:
                code = self._epochs(stop)
            except LostProcessError as error:
                raise RunError(
                    f"{error}; {self._keep_last_step()} is saved, go on with --resume"
                ) from None
            except RuntimeError as error:
                # Raised wherever the step is by now, so this state is no step's and is not saved.
                if "DataLoader worker" not in str(error):
                    raise
                if self.processes.first:
                    self.saver.finish(lambda: True)
                raise RunError(
                    "a process that reads audio died; if memory or shared memory (/dev/shm) ran "
                    f"out, lower training.num_workers or set it to 0; {self._saved()} is saved, go "
                    "on with --resume"
                ) from None
            return self._first(self._close, code, stop)

    def _tell_opening(self) -> None:
        count = self.processes.count
        logger.info("%s in %s", self.opening, self.folder)
        for note in self.notes:
            logger.warning("%s", note)
        logger.info(
            "stage %s on %s%s: %.1f M parameters, %d utterances (%.2f h), %d steps",
            self.config.stage.value,
            self.device,
            f" and {count - 1} more" if count > 1 else "",
            count_parameters(self.module) / 1e6,
            len(self.utterances),
            sum(u.duration for u in self.utterances) / 3600,
            self.total_steps,
        )
        if count > 1 and self.config.training.batch_seconds is None:
            logger.info(
                "processes wait for the one with the longest batch; training.batch_seconds makes "
                "batches cost about the same"
            )

    def _close(self, code: int, stop: Stop) -> int:
        # Evaluating at the end moves what is best so far, so it is saved once more.
        self._save()
        full = code == EXIT_DISK
        if not self.saver.finish(lambda: full or stop.signal_number is not None):
            code = EXIT_DISK
        if code == EXIT_DISK:
            logger.error(
                "stopped at step %d because saving failed, %s is saved; make space and go on with "
                "--resume",
                self.position.step,
                self._saved(),
            )
        if code == EXIT_OK:
            logger.info(
                "done: %s, %.0f s in steps, peak memory %.2f GiB",
                self.folder / "latest.pt",
                self.position.seconds,
                peak_memory_gib(self.device),
            )
        return code

    def _first(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns in the first process, where alone it runs; the others take over
        the position that it leaves."""
        here = function(*arguments) if self.processes.first else None
        left = self.processes.share((here, asdict(self.position), self._saved()))
        result, position, self.saved_there = left
        if not self.processes.first:
            self.position = Position(**position)
        return result  # type: ignore[return-value]

    def _keep_last_step(self) -> str:
        """Save the last step that all processes made together; says what is saved."""
        if self.before_step is not None:
            self.position = self.before_step
        if self.processes.first:
            self._save()
            self.saver.finish(lambda: True)
        return self._saved()

    def _saved(self) -> str:
        if not self.processes.first:  # the first may have written more since it told
            return self.saved_there.replace("step", "at least step")
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

    def _epochs(self, stop: Stop) -> int:
        # Only where there is something to do: for hours of speech it takes minutes.
        config = self.config
        if config.training.compile:
            compile_layers(self.trial)
        self.cache = decode_all(self.utterances, config.model.sample_rate, config.data.memory_hours)
        while not self._finished():
            began = time.monotonic()
            steps = steps_of_epoch(
                config,
                self.utterances,
                self.vocabulary.tokenizer,
                self.sampler,
                self.position.epoch,
                self.position.micro_batch,
                self.processes,
                self.cache,
            )
            for batches, end in steps:
                self._step(batches, end, began, stop)
                code = self._first(self._after_step, stop)
                began = time.monotonic()
                if code is not None:
                    return code
                if self._finished():
                    break
            if self.position.micro_batch >= self.sampler.num_batches(self.position.epoch):
                summary = self.objective.epoch_summary(self.processes.add_tensor)
                self._first(self._end_of_epoch, summary)
        return self._first(self._last_evaluation, stop)

    def _last_evaluation(self, stop: Stop) -> int:
        if self.position.evaluated != self.position.step and self._evaluate():
            return self._stopped_by_watch()
        return EXIT_OK if stop.signal_number is None else 128 + stop.signal_number

    def _step(self, batches: list[Batch], end: int, began: float, stop: Stop) -> None:
        """One optimiser update over its micro-batches, which were asked for when it began.

        Args:
            batches: this process's.
            end: micro-batches of the epoch that are used once all processes have had theirs.
            began: when, in seconds of the monotonic clock.
            stop: learns of signals to other processes.
        """
        training, position, processes = self.config.training, self.position, self.processes
        waited = time.monotonic() - began
        self.before_step = copy.deepcopy(position)
        position.step += 1
        position.micro_batch = end
        self.unsaved = True
        scheduled = self._schedule_step()
        rate = learning_rate(scheduled, self.total_steps, training, position.planned_step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weight = self._weight()["ctc_weight"]
        said = processes.gather([(batch.bad, self.objective.weigh(batch)) for batch in batches])
        totals: dict[str, float] = {}
        for bad, weights in itertools.chain(*said):
            for utterance_id, reason in bad:
                logger.warning("utterance %s skipped: %s", utterance_id, reason)
            for key, value in weights.items():
                totals[key] = totals.get(key, 0.0) + value
        self.module.train()
        terms: dict[str, float] = {"audio_seconds": sum(b.audio_seconds for b in batches)}
        last = max((i for i, batch in enumerate(batches) if len(batch)), default=-1)
        for index, batch in enumerate(batches):
            if not len(batch):
                continue
            place = processes.rank + index * processes.count
            torch.manual_seed(derived_seed("dropout", training.seed, position.step, place))
            alone = training.compile and len(batch) == 1
            with self.precision.autocast(), as_written(alone):
                share = self.objective.share(batch, totals, weight, scheduled / self.total_steps)
            if index == last:
                self.gradients.expect_last()
            self.precision.backward(share.loss)
            for key, value in share.terms.items():
                terms[key] = terms.get(key, 0.0) + value
        self.gradients.finish()
        terms = processes.add(terms)
        stop.hear(processes.gather(stop.signal_number))
        norm = self._update(terms, batches)
        self.before_step = None
        seconds = time.monotonic() - began
        position.seconds += seconds
        pace = {
            "audio_per_second": terms.pop("audio_seconds") / seconds,
            "step_seconds": seconds,
            "data_wait": waited / seconds,
        }
        if processes.first:
            self._report(terms, norm, rate, weight, pace)
            self.found += self.watch.after_step(terms)

    def _update(self, terms: dict[str, float], batches: list[Batch]) -> float:
        """Clip and apply the gradients; a non-finite step changes nothing and is counted."""
        self.precision.unscale(self.optimizer)
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.training.gradient_clip))
        if math.isfinite(norm) and math.isfinite(terms.get("loss", math.nan)):
            self.position.nonfinite_in_a_row = 0
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.position.step)
        else:
            self.position.skipped_steps += 1
            self.position.nonfinite_in_a_row += 1
            ids = self.processes.gather([name for batch in batches for name in batch.ids])
            self.suspects = list(itertools.chain(*ids))
            self.found.append(
                skipped_step(self.position.step, terms.get("loss"), norm, self.suspects)
            )
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _report(
        self,
        terms: dict[str, float],
        norm: float,
        rate: float,
        weight: float,
        pace: dict[str, float],
    ) -> None:
        position, training = self.position, self.config.training
        values = {
            "epoch": position.epoch
            + position.micro_batch / self.sampler.num_batches(position.epoch),
            "loss": math.nan,
            **terms,
            "ctc_weight": weight,
            "learning_rate": rate,
            "gradient_norm": norm,
            **pace,
            "peak_memory_gib": peak_memory_gib(self.device),
            "skipped_steps": position.skipped_steps,
            **self.precision.metrics(),
            **self.saver.metrics(),
            **(self.mirror.metrics() if self.mirror else {}),
        }
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
        return schedule_step(position.planned_step, self.total_steps, position.seconds, limit)

    def _after_step(self, stop: Stop) -> int | None:
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

    def _end_of_epoch(self, summary: dict[str, float]) -> None:
        position = self.position
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
        with as_written(self.config.training.compile):
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
            "micro_batches_per_step": self.per_step,
            "loss_scale": self.precision.state_dict(),
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
            self.precision.load_state_dict(state.get("loss_scale", {}))
            position = self.position = resumed_position(
                state, self.sampler.num_batches(0), self.per_step, self.config.training
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: does not fit this run: {reason}") from None
        if self.config.stage is not Stage.PRETRAIN and state["tokens"] != self.vocabulary.tokens:
            raise CheckpointError(f"{path}: its tokens are not those of its tokenizer")
        data, saved_data = self._data(), state.get("data")
        self.notes += changed_data(saved_data, data)
        position.micro_batch = same_share(position.micro_batch, saved_data, data["num_batches"])
