"""The run's own watch: what it finds in a run's numbers, and what is to be done about it.

`Watch` is told the numbers of each step and each evaluation and answers with findings. It keeps its
counts in a plain dictionary that is saved with the run's position, so that a resumed run goes on
counting where it was. It reads and writes nothing itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from voxformer.config import WatchConfig
from voxformer.evaluation.wer import band

BANDS = ("good", "moderate", "high", "critical")
"""From the least bad; each includes those after it. `target` asks for nothing."""

_RANGES = {
    "good": "at 15 % or more",
    "moderate": "at 25 % or more",
    "high": "at 50 % or more",
    "critical": "above 100 %",
}

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}

_NEEDS_EVALUATION = (
    "critical_action",
    "high_action",
    "moderate_action",
    "good_action",
    "loop_action",
    "blank_action",
    "attention_action",
)

_BAND_ADVICE = (
    "compare the last transcripts with their references; lower training.learning_rate, or go back "
    "to an earlier step_N.pt"
)
_LOOP_ADVICE = (
    "the decoder does not follow the speech: train CTC longer before it, raise model.ctc_weight, "
    "or decode with rescoring"
)
_EMPTY_CTC_ADVICE = (
    "usual early in training; if it lasts, train longer before masking as much (augment), raise "
    "training.learning_rate, and check that transcripts fit their recordings"
)
_EMPTY_ATTENTION_ADVICE = (
    "the decoder ends at once: check decoding.attention_length_penalty, and that transcripts fit "
    "their recordings"
)
_ATTENTION_ADVICE = (
    "it writes without listening: start from an encoder trained with CTC (training.init_from), "
    "lower training.learning_rate, or lengthen training.warmup_steps"
)
_STALE_ADVICE = (
    "change training.learning_rate, check that transcripts fit their recordings, or end the run"
)


@dataclass(frozen=True)
class Finding:
    """One thing that the watch found.

    Attributes:
        name: `critical`, `high`, `moderate`, `good`, `loop`, `blank`, `attention`, `stale`,
            `nonfinite` or `early_stopping`.
        severity: `info`, `warning` or `critical`.
        message: one line: what, how bad, what to do.
        action: `warn`, `stop`, or `end` (as if the run were complete).
        mode: the decoding mode it is about, if it is about one.
    """

    name: str
    severity: str
    message: str
    action: str
    mode: str | None = None

    @property
    def level(self) -> int:
        """Of the log line."""
        return _LEVELS[self.severity]

    def row(self) -> dict[str, Any]:
        """For `metrics.jsonl`."""
        return {
            "name": self.name,
            "mode": self.mode,
            "severity": self.severity,
            "action": self.action,
            "message": self.message,
        }


def needless_without_evaluation(config: WatchConfig) -> str | None:
    """The first setting that asks for something only evaluations can bring about, if there is one.

    A run without a validation set would never do what it says.
    """
    if config.early_stopping:
        return f"watch.early_stopping: {config.early_stopping}"
    for key in _NEEDS_EVALUATION:
        if getattr(config, key) == "stop":
            return f"watch.{key}: stop"
    return None


class Watch:
    """Looks at a run's numbers as they come.

    Args:
        config: actions and thresholds.
        state: what it remembers, filled in place; empty at the start of a run.
        critical_in_a_row: of a checkpoint that has only this count, for every mode.
    """

    def __init__(
        self, config: WatchConfig, state: dict[str, Any], critical_in_a_row: int = 0
    ) -> None:
        self._config = config
        self._old_count = 0 if state else critical_in_a_row
        self._state = state
        self._streaks: dict[str, int] = state.setdefault("in_a_row", {})
        self._window: dict[str, Any] = state.setdefault("window", {"steps": 0, "sums": {}})
        self._best: dict[str, float] = state.setdefault("best_window", {})

    @property
    def critical_in_a_row(self) -> int:
        """Evaluations in a row in the critical band, of the mode that has most."""
        counts = [n for key, n in self._streaks.items() if key.startswith("critical ")]
        return max(counts, default=self._old_count)

    def after_step(self, terms: Mapping[str, float]) -> list[Finding]:
        """What a step's mean losses show; steps without a finite loss are not looked at.

        Losses are compared by windows of `stale_steps` steps, CTC and cross-entropy each with its
        own past, since their weights in the sum may change over the run. CTC-CRF's stands for
        CTC's, which may grow where that is trained.
        """
        ctc = "crf" if "crf" in terms else "ctc"
        watched = {key: terms[key] for key in (ctc, "ce") if key in terms}
        watched = watched or {"loss": terms.get("loss", math.nan)}
        if not all(math.isfinite(value) for value in watched.values()):
            return []
        window = self._window
        window["steps"] += 1
        for key, value in watched.items():
            total, count = window["sums"].get(key, (0.0, 0))
            window["sums"][key] = [total + value, count + 1]
        if window["steps"] < self._config.stale_steps:
            return []
        means = {key: total / count for key, (total, count) in window["sums"].items()}
        window["steps"], window["sums"] = 0, {}
        return self._after_window(means)

    def _after_window(self, means: dict[str, float]) -> list[Finding]:
        config, best = self._config, dict(self._best)
        for key, value in means.items():
            self._best[key] = min(value, best.get(key, math.inf))
        fell = any(
            value < best.get(key, math.inf) * (1.0 - config.stale_improvement)
            for key, value in means.items()
        )
        if fell or config.stale_action == "none":
            return []
        shown = ", ".join(f"{key} {means[key]:.4g} after {best[key]:.4g}" for key in means)
        message = (
            f"no loss fell by {config.stale_improvement:.2%} over {config.stale_steps} steps "
            f"({shown}): {_STALE_ADVICE}"
        )
        stop = config.stale_action == "stop"
        return [self._finding("stale", None, message, stop, 1, 1)]

    def after_evaluation(self, row: Mapping[str, Any], warm: bool = True) -> list[Finding]:
        """What an evaluation shows.

        Args:
            row: of the evaluation in `metrics.jsonl`: `wer_MODE`, and what `symptoms` measures.
            warm: whether warm-up is over; before that nothing is found and nothing counted.
        """
        if not warm:
            self._streaks.clear()
            self._old_count = 0
            return []
        findings: list[Finding] = []
        for mode in [key.removeprefix("wer_") for key in row if key.startswith("wer_")]:
            findings += self._bands(mode, row[f"wer_{mode}"])
            findings += self._loops(mode, row)
            findings += self._blanks(mode, row)
        findings += self._attention(row.get("attention_peak"))
        self._old_count = 0
        return findings

    def forget(self) -> None:
        """After a stop: a run that is resumed gets as many evaluations again."""
        self._streaks.clear()
        self._old_count = 0

    def _bands(self, mode: str, wer: float) -> Iterable[Finding]:
        """The worst band that has an action; the counts of all that the WER is in."""
        place = BANDS.index(label) if (label := band(wer)) in BANDS else -1
        found: list[Finding] = []
        for index, name in enumerate(BANDS):
            inside = index <= place
            action = getattr(self._config, f"{name}_action")
            count = self._count(name, mode, inside)
            if inside and action != "none":
                message = (
                    f"WER {mode} {wer:.1%} ({label}), evaluation {count} in a row "
                    f"{_RANGES[name]}: {_BAND_ADVICE}"
                )
                found = [*found, self._evaluated(name, mode, message, action, count)]
        stops = [finding for finding in found if finding.action == "stop"]
        return stops[-1:] or found[-1:]

    def _loops(self, mode: str, row: Mapping[str, Any]) -> Iterable[Finding]:
        share = row.get(f"looping_{mode}")
        inside = share is not None and share > 0.0 and share >= self._config.loop_share
        count = self._count("loop", mode, inside)
        if not inside or self._config.loop_action == "none":
            return
        repeat = row.get(f"most_repeated_{mode}")
        said = (
            f", such as {repeat['ngram'][:60]!r} {repeat['times']} times in a row in "
            f"{repeat['utterance']}"
            if repeat
            else ""
        )
        message = (
            f"{share:.0%} of the {mode} hypotheses loop ({row.get(f'capped_{mode}', 0.0):.0%} are "
            f"cut by the length cap){said}: {_LOOP_ADVICE}"
        )
        yield self._evaluated("loop", mode, message, self._config.loop_action, count)

    def _blanks(self, mode: str, row: Mapping[str, Any]) -> Iterable[Finding]:
        share = row.get(f"empty_{mode}")
        inside = share is not None and share > 0.0 and share >= self._config.blank_share
        count = self._count("blank", mode, inside)
        if not inside or self._config.blank_action == "none":
            return
        blank = row.get("blank_probability")
        ctc = mode != "attention"
        mean = f" (mean probability of <blank> {blank:.3f})" if ctc and blank is not None else ""
        message = (
            f"{share:.0%} of the {mode} hypotheses are empty or nearly so{mean}: "
            f"{_EMPTY_CTC_ADVICE if ctc else _EMPTY_ATTENTION_ADVICE}"
        )
        yield self._evaluated("blank", mode, message, self._config.blank_action, count)

    def _attention(self, peak: float | None) -> Iterable[Finding]:
        inside = peak is not None and peak >= self._config.attention_share
        count = self._count("attention", "", inside)
        if not inside or self._config.attention_action == "none":
            return
        message = (
            f"every head of the decoder's cross-attention keeps {peak:.0%} or more on one place of "
            f"the speech: {_ATTENTION_ADVICE}"
        )
        yield self._evaluated("attention", None, message, self._config.attention_action, count)

    def _count(self, name: str, mode: str, inside: bool) -> int:
        key = f"{name} {mode}"
        before = self._streaks.get(key, self._old_count if name == "critical" else 0)
        self._streaks[key] = before + 1 if inside else 0
        return self._streaks[key]

    def _evaluated(
        self, name: str, mode: str | None, message: str, action: str, count: int
    ) -> Finding:
        limit = self._config.stop_after_evaluations
        return self._finding(name, mode, message, action == "stop", count, limit)

    def _finding(
        self, name: str, mode: str | None, message: str, stop: bool, count: int, limit: int
    ) -> Finding:
        key = f"watch.{name}_action"
        if stop and count >= limit:
            return Finding(name, "critical", f"{message}; {stops(key)}", "stop", mode)
        left = f"; {limit - count} more in a row stop the run ({key})" if stop else ""
        return Finding(name, "warning", message + left, "warn", mode)


def skipped_step(step: int, loss: float | None, norm: float, ids: list[str]) -> Finding:
    """A step whose loss or gradient was not finite, so that it changed nothing."""
    message = (
        f"step {step} skipped: loss {loss}, gradient norm {norm}, utterances "
        f"{', '.join(ids[:8]) or 'none readable'}"
    )
    return Finding("nonfinite", "warning", message, "warn")


def too_many_skipped(count: int, ids: list[str]) -> Finding:
    """So many such steps in a row that the run stops; the ids are those of the last."""
    message = (
        f"{count} non-finite steps in a row; the last had utterances "
        f"{', '.join(ids) or 'none that could be read'}: listen to them, lower "
        f"training.learning_rate; {stops('training.max_nonfinite_steps')}"
    )
    return Finding("nonfinite", "critical", message, "stop")


def ended_early(evaluations: int) -> Finding:
    """What early stopping says when it ends a run."""
    message = (
        f"{evaluations} evaluations without a better one: the run ends as if it were complete "
        "(watch.early_stopping); best.pt is the one to use"
    )
    return Finding("early_stopping", "info", message, "end")


def stops(why: str) -> str:
    """The end of every message of a stop: what happens, by which setting, how to go on."""
    return f"the run stops ({why}), go on with --resume once it is mended"
