"""Checkpoints written in the background, tried again until they are on disk.

A save copies the state into host memory, which is all that training waits for; a thread writes it.
There is one state of each kind (`step`, `best`) at a time, so that host memory holds at most two:

- a save while one of its kind is being written waits for that, so every file that was asked for
  gets written;
- a save while one of its kind waits for room replaces it, since it is further.

`best.pt` is not written before there is a step to resume.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from voxformer.training.checkpoint import CheckpointFolder
from voxformer.training.snapshot import Snapshot
from voxformer.training.space import make_room
from voxformer.training.storage import Abandoned

logger = logging.getLogger("voxformer.training")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
# While nothing changes, a failure is repeated in the log this often.
REMINDER_S = 60.0


@dataclass
class _Save:
    """A state that is to be written, and how often it could not be."""

    kind: str
    step: int
    state: dict[str, Any]
    bytes: int
    epoch: int | None = None
    writing: bool = False
    failures: int = 0
    failed_at: float = 0.0
    next_try: float = 0.0
    quota_refused: bool = False

    @property
    def names(self) -> str:
        first = "best.pt" if self.kind == "best" else f"step_{self.step}.pt"
        return first if self.epoch is None else f"{first} (epoch_{self.epoch}.pt)"


class CheckpointSaver:
    """Saves a run's state while the context lasts, in a thread of its own.

    Args:
        folder: where to.
        max_unsaved_minutes: how long saving may fail before the run is `overdue`.
        saved_step: of the newest checkpoint that is there already; -1 for none.

    Attributes:
        saved_step: of the newest checkpoint that is on disk; -1 for none.
        time_stalled_s: how long training has waited for saves, in seconds.
    """

    def __init__(
        self, folder: CheckpointFolder, max_unsaved_minutes: float, saved_step: int = -1
    ) -> None:
        self.folder = folder
        self.max_unsaved_s = 60.0 * max_unsaved_minutes
        self.saved_step = saved_step
        self.time_stalled_s = 0.0
        self._snapshots = {"step": Snapshot(), "best": Snapshot()}
        self._saves: dict[str, _Save] = {}
        self._failing_since: dict[str, float] = {}
        self._reminded: dict[str, float] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)

    def __enter__(self) -> CheckpointSaver:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A second signal leaves at once; after an error what was saved is brought to disk.
            if kind is None or issubclass(kind, Exception):
                self.finish(lambda: True)
        finally:
            with self._changed:
                self._closed.set()
                self._changed.notify_all()
            self._thread.join(2.0)

    def save_step(self, step: int, state: Mapping[str, Any], epoch: int | None = None) -> None:
        """Have `step_N.pt` and `latest.pt` written, and `epoch_N.pt` where an epoch is given."""
        self._submit("step", step, state, epoch)

    def save_best(self, step: int, state: Mapping[str, Any]) -> None:
        """Have `best.pt` written."""
        self._submit("best", step, state)

    @property
    def overdue(self) -> bool:
        """Whether steps could not be saved for longer than a run may go on without."""
        return self._is_overdue("step")

    def finish(self, hurry: Callable[[], bool]) -> bool:
        """Wait until everything is on disk, trying again until it is or the time is up.

        Args:
            hurry: whether to give up after one attempt from now on, as after a signal.

        Returns:
            Whether everything is on disk.
        """
        began = time.monotonic()
        with self._changed:
            for save in self._saves.values():
                save.next_try = 0.0
            self._changed.notify_all()
            while self._saves and self._thread.is_alive():
                tried = all(save.failed_at > began for save in self._ready())
                if tried and (hurry() or any(map(self._is_overdue, self._saves))):
                    break
                self._changed.wait(0.2)
            self.time_stalled_s += time.monotonic() - began
            return not self._saves

    def metrics(self) -> dict[str, Any]:
        """What a metrics row says about saving."""
        failing = list(self._failing_since.values())
        return {
            "time_stalled_s": self.time_stalled_s,
            "saved_step": self.saved_step if self.saved_step >= 0 else None,
            "unsaved_s": time.monotonic() - min(failing) if failing else 0.0,
        }

    def _submit(
        self, kind: str, step: int, state: Mapping[str, Any], epoch: int | None = None
    ) -> None:
        began = time.monotonic()
        with self._changed:
            while (before := self._saves.get(kind)) and (before.writing or not before.failures):
                if not self._thread.is_alive():
                    break
                self._changed.wait(1.0)
            if before is not None and before.epoch is not None:
                logger.warning("epoch_%d.pt is left out: a newer state goes first", before.epoch)
            snapshot = self._snapshots[kind]
            copied = snapshot.take(state)
            save = _Save(kind, step, copied, snapshot.file_bytes, epoch)
            if before is not None:
                save.failures, save.quota_refused = before.failures, before.quota_refused
            self._saves.pop(kind, None)
            self._saves[kind] = save
            self._changed.notify_all()
        self.time_stalled_s += time.monotonic() - began

    def _work(self) -> None:
        while (save := self._next()) is not None:
            try:
                self._write(save)
            except Abandoned:
                return
            except Exception as error:  # whatever it is, training goes on
                self._failed(save, error)
            else:
                self._succeeded(save)

    def _next(self) -> _Save | None:
        """Wait for a save whose turn it is, in the order in which they came."""
        with self._changed:
            while not self._closed.is_set():
                now = time.monotonic()
                ready = self._ready()
                for save in ready:
                    if save.next_try <= now:
                        save.writing = True
                        return save
                pause = min((save.next_try for save in ready), default=None)
                self._changed.wait(None if pause is None else pause - now)
            return None

    def _ready(self) -> list[_Save]:
        """What can be written by now: best.pt alone could not be resumed."""
        return [
            save for save in self._saves.values() if save.kind == "step" or self.saved_step >= 0
        ]

    def _write(self, save: _Save) -> None:
        if save.kind == "best":
            make_room(self.folder.folder, save.bytes, save.quota_refused)
            self.folder.save_best(save.state, self._closed)
        else:
            bytes_needed = save.bytes * self.folder.copies(save.epoch is not None)
            make_room(self.folder.folder, bytes_needed, save.quota_refused)
            self.folder.save_step(save.step, save.state, save.epoch, self._closed)

    def _succeeded(self, save: _Save) -> None:
        with self._changed:
            del self._saves[save.kind]
            if save.kind == "step":
                self.saved_step = save.step
            if self._failing_since.pop(save.kind, None) is not None:
                self._reminded.pop(save.kind, None)
                logger.info("%s is saved, after %d failures", save.names, save.failures)
            self._changed.notify_all()

    def _failed(self, save: _Save, error: Exception) -> None:
        with self._changed:
            now = time.monotonic()
            save.writing = False
            save.failures += 1
            save.failed_at = now
            pause = min(FIRST_PAUSE_S * 2.0 ** min(save.failures - 1, 10), LONGEST_PAUSE_S)
            save.next_try = now + pause
            save.quota_refused = isinstance(error, OSError) and error.errno == errno.EDQUOT
            since = self._failing_since.setdefault(save.kind, now)
            if now - self._reminded.get(save.kind, -REMINDER_S) >= REMINDER_S:
                self._reminded[save.kind] = now
                self._warn(save, error, pause, self.max_unsaved_s - (now - since))
            self._changed.notify_all()

    def _warn(self, save: _Save, error: Exception, pause: float, left: float) -> None:
        if isinstance(error, OSError):
            full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            reason = f"{error.strerror or error}{full}"
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        saved = f"step {self.saved_step}" if self.saved_step >= 0 else "nothing"
        end = (
            f"; without it the run stops in {max(0.0, left) / 60:.1f} min with exit code 3"
            if save.kind == "step"
            else ""
        )
        logger.error(
            "%s not saved: %s; %s is saved, the next attempt is in %.0f s%s",
            save.names,
            reason,
            saved,
            pause,
            end,
        )

    def _is_overdue(self, kind: str) -> bool:
        since = self._failing_since.get(kind)
        return since is not None and time.monotonic() - since >= self.max_unsaved_s
