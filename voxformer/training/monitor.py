"""What a run tells: `metrics.jsonl`, `samples.json`, `training.log`, TensorBoard, progress."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn

from voxformer.text.atomic import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("voxformer.training")

PLAIN_INTERVAL_S = 15.0
# TensorBoard's writer ends at its first error, as on a full disk; then a new one is tried.
EVENTS_PAUSE_S = 60.0


class Monitor:
    """Writes a run's metrics and shows its progress.

    A terminal gets a progress bar; a pipe or a file gets a line every 15 seconds, so that logs of
    unattended runs stay readable.
    """

    def __init__(self, folder: Path, total_steps: int, title: str) -> None:
        self.folder = folder
        self.total_steps = total_steps
        self.title = title
        self.console = Console(stderr=True)
        self.interactive = self.console.is_terminal
        # Without a buffer: what a full disk refused must not be written at another time.
        self._metrics = (folder / "metrics.jsonl").open("ab", buffering=0)
        self._torn = _ends_in_the_middle(folder / "metrics.jsonl")
        self._warned = False
        self._events: SummaryWriter | None = None
        self._next_events = 0.0
        self._last_plain = 0.0
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._handlers = self._attach_log()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[detail]}"),
            console=self.console,
            disable=not self.interactive,
        )
        self._task = self._progress.add_task(title, total=total_steps, detail="")

    def __enter__(self) -> Monitor:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._metrics.close()
        self._close_events()
        for handler in self._handlers:
            with contextlib.suppress(OSError):
                handler.close()
            logger.removeHandler(handler)

    def row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one row; numbers go to TensorBoard as well. What is not finite becomes null."""
        clean = {k: _finite(v) for k, v in values.items()}
        row = {"type": kind, "step": step, "time": round(time.time(), 3), **clean}
        line = ("\n" if self._torn else "") + json.dumps(row) + "\n"
        try:
            written = self._metrics.write(line.encode())
            if written:
                self._torn = written < len(line)
        except OSError as error:
            self._not_written("metrics", error)
        self._scalars(kind, step, clean)

    def _scalars(self, kind: str, step: int, values: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self._events is None and time.monotonic() >= self._next_events:
                self._events = SummaryWriter(log_dir=str(self.folder))
            for key, value in values.items():
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if number and self._events is not None:
                    self._events.add_scalar(f"{kind}/{key}", value, step)
        except OSError as error:
            self._not_written("TensorBoard's events", error)
            self._close_events()
            self._next_events = time.monotonic() + EVENTS_PAUSE_S

    def _close_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):
                events.close()

    def samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Replace `samples.json` by what the evaluation at this step heard."""
        content = {"step": step, "time": round(time.time(), 3), "samples": samples}
        try:
            text = json.dumps(content, indent=1) + "\n"
            write_atomically(self.folder / "samples.json", text)
        except OSError as error:
            self._not_written("samples", error)

    def _not_written(self, what: str, error: OSError) -> None:
        if not self._warned:
            logger.warning("%s not written: %s; training goes on", what, error.strerror)
        self._warned = True

    def progress(
        self, step: int, epoch: float, values: dict[str, float], most_seconds: float | None
    ) -> None:
        """Show where the run is: loss, learning rate, speed, time left (`most_seconds` at most)."""
        if self._first_step is None:
            self._first_step = step - 1
        now = time.monotonic()
        left = (now - self._started) / (step - self._first_step) * (self.total_steps - step)
        if most_seconds is not None:
            left = min(left, most_seconds)
        detail = (
            f"epoch {epoch:.2f} loss {values['loss']:.3f} lr {values['learning_rate']:.2e} "
            f"{values['audio_per_second']:.0f}x real time eta {_clock(left)}"
        )
        self._progress.update(self._task, completed=step, detail=detail)
        if not self.interactive and now - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = now
            print(
                f"{self.title}: step {step}/{self.total_steps} {detail}",
                file=sys.stderr,
                flush=True,
            )

    def _attach_log(self) -> list[logging.Handler]:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        file = _LogFile(self.folder / "training.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        shown: logging.Handler
        if self.interactive:
            shown = RichHandler(console=self.console, show_path=False, markup=False)
        else:
            shown = logging.StreamHandler(sys.stderr)
            shown.setFormatter(logging.Formatter("%(message)s"))
        for handler in (file, shown):
            logger.addHandler(handler)
        return [file, shown]


class _LogFile(logging.FileHandler):
    """A full disk costs the lines in the file; they are shown all the same."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called for a line that could not be written."""


def _ends_in_the_middle(path: Path) -> bool:
    """Whether the last line of a file was cut off, by a full disk or a kill."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read() not in (b"", b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return value


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
