"""A run's mirror: what is new in the run folder, brought to another place in the background.

Training neither waits for it nor fails by it. A thread looks every few minutes for what the far end
lacks; when it cannot get there it says so once, and tries again after ever longer pauses. How it
stands is in every metrics row and in `mirror.json`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from voxformer.config import MirrorConfig
from voxformer.text.atomic import write_atomically
from voxformer.training.remote import (
    Entry,
    FarEndError,
    FarFolder,
    UnreachableError,
    check_store,
    open_far_folder,
    reason,
)
from voxformer.training.storage import numbered_checkpoints, recorded_digests
from voxformer.training.transfer import (
    LOGS,
    TOKENIZER,
    FarDamageError,
    Halted,
    Pace,
    Pulled,
    far_steps,
    part_name,
    prune_far,
    pull,
    put,
    recorded,
    remove_parts,
    stream_digest,
    verify_far,
)

logger = logging.getLogger("voxformer.training")

STATE_FILE = "mirror.json"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
START_ATTEMPTS = 3


@dataclass
class _State:
    """How a mirror stands; everything here is told."""

    status: str = "starting"
    step: int | None = None
    last_success: float | None = None
    last_error: str | None = None
    last_error_time: float | None = None
    failures_in_a_row: int = 0
    pending_bytes: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


class Mirror:
    """Keeps a run folder's copy up to date while the context lasts, and once more at its end.

    Args:
        settings: with a `url`.
        folder: the run folder.
        open_folder: connects to the far end.

    Raises:
        FarEndError: a mirror there can never work.
    """

    def __init__(
        self,
        settings: MirrorConfig,
        folder: Path,
        open_folder: Callable[[str, float], FarFolder] = open_far_folder,
    ) -> None:
        assert settings.url is not None
        check_store(settings.url, folder)
        self.settings, self.folder, self.url = settings, folder, settings.url
        self.open_folder = open_folder
        self.state = _State()
        self.halted, self._final, self._wake = (threading.Event() for _ in range(3))
        self.pace = Pace(settings.megabytes_per_second, self.halted)
        self._verified: dict[str, tuple[str, Entry]] = {}
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._ahead = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self.halted.set()
            self._wake.set()

    def metrics(self) -> dict[str, Any]:
        """What a metrics row says about the mirror; seconds and bytes."""
        state = self.state
        since = None if state.last_success is None else time.time() - state.last_success
        return {
            "mirror_step": state.step,
            "mirror_age_s": since,
            "mirror_pending_bytes": state.pending_bytes,
            "mirror_failures": state.failures_in_a_row,
            "mirror_error": state.last_error if state.failures_in_a_row else None,
        }

    def copy(self) -> list[str]:
        """Bring to the far end what it lacks, and delete there what is too old.

        Returns:
            Names of the files that were sent.

        Raises:
            FarEndError: it did not work; what has a final name there verifies all the same.
        """
        far = self.open_folder(self.url, self.settings.timeout_seconds)
        try:
            far.make()
            return self._copy(far)
        finally:
            far.close()

    def _copy(self, far: FarFolder) -> list[str]:
        names = self._wanted()
        there = {**far.entries(), **far.entries(TOKENIZER)}
        missing, parts = [], set()
        self.state.pending_bytes = 0
        for name in names:
            with contextlib.suppress(FileNotFoundError), (self.folder / name).open("rb") as file:
                digest, size = self._local_digest(name, file)
                if digest and not self._is_there(far, name, digest, there.get(name)):
                    missing.append(name)
                    parts.add(part_name(name, digest))
                    self.state.pending_bytes += size
        self._tell("copying")
        sent = [name for name in missing if self._send(far, name)]
        self._clean(far, parts)
        self.state.pending_bytes = 0
        return sent

    def _send(self, far: FarFolder, name: str) -> bool:
        try:
            file = (self.folder / name).open("rb")
        except FileNotFoundError:  # deleted by training meanwhile, which has a newer one
            return False
        with file:
            digest, size = self._local_digest(name, file)
            if digest is None:
                return False
            try:
                put(far, name, file, size, digest, self.pace, self._passed)
                self._verified[name] = digest, far.entries(name.rpartition("/")[0])[name]
            except (FileNotFoundError, KeyError):
                raise UnreachableError(f"{self.url}: {name} was deleted there meanwhile") from None
        self._note(name, digest, size)
        return True

    def _wanted(self) -> list[str]:
        """Names of what the far end should hold, what resuming needs first."""
        steps = [path.name for path in numbered_checkpoints(self.folder, "step")[-1:]]
        tokenizer = sorted(p.name for p in (self.folder / TOKENIZER).glob("[!.]*") if p.is_file())
        names = ["config.yaml", *(f"{TOKENIZER}/{name}" for name in tokenizer), *steps, "best.pt"]
        return [name for name in (*names, *LOGS) if (self.folder / name).is_file()]

    def _local_digest(self, name: str, file: BinaryIO) -> tuple[str | None, int]:
        """Digest and size of an open file as it is now; None for a damaged checkpoint."""
        status = os.fstat(file.fileno())
        key = status.st_ino, status.st_mtime_ns, status.st_size
        if name not in self._digests or self._digests[name][0] != key:
            # Logs grow: the digest is of what there was when they were looked at.
            self._digests[name] = key, stream_digest(file, status.st_size, self.pace)
        digest = self._digests[name][1]
        if name.endswith(".pt") and digest not in recorded_digests(self.folder / name):
            logger.warning("mirror: %s is damaged here and is not sent", name)
            return None, 0
        return digest, status.st_size

    def _is_there(self, far: FarFolder, name: str, digest: str, entry: Entry | None) -> bool:
        """Whether the far end has this content; read from there once, and when it has changed."""
        if entry is None:
            return False
        known = self._verified.get(name)
        if known is not None and known[1] == entry:
            if known[0] != digest:
                return False
        else:
            if digest not in recorded(far, name):
                return False
            try:
                if verify_far(far, name, self.pace) != digest:
                    return False
            except FarDamageError as error:
                logger.warning("mirror: %s; it is sent again", error)
                return False
            except FileNotFoundError:
                return False
            self._verified[name] = digest, entry
        self._note(name, digest, entry.size)
        return True

    def _note(self, name: str, digest: str, size: int) -> None:
        self.state.files[name] = {"sha256": digest, "bytes": size}
        if name.startswith("step_"):
            step = int(name[5:-3])
            if self.state.step != step:
                self.state.step = step
                logger.info("mirror: %s is verified at %s", name, self.url)

    def _clean(self, far: FarFolder, parts: set[str]) -> None:
        newest = self.state.step
        if newest is not None:
            for name in prune_far(far, self.settings.keep_last_n, newest):
                self.state.files.pop(name, None)
            ahead = [step for step in far_steps(far) if step > newest]
            if ahead and not self._ahead:
                logger.warning(
                    "mirror: %s has step_%d.pt, newer than this run's; it is left there, and goes "
                    "before this run's until that has come as far",
                    self.url,
                    ahead[-1],
                )
            self._ahead = bool(ahead)
        remove_parts(far, parts)

    def _passed(self, count: int) -> None:
        self.state.pending_bytes = max(0, self.state.pending_bytes - count)

    def _work(self) -> None:
        while not self.halted.is_set():
            final = self._final.is_set()
            pause = 60.0 * self.settings.every_minutes
            try:
                self.copy()
            except Halted:
                return
            except Exception as error:  # whatever it is, training goes on
                pause = min(pause, self._failed(error))
            else:
                self._succeeded()
                if final:
                    self._tell("finished")
                    return
                self._tell("waiting")
            if not self._final.is_set():
                self._wake.wait(pause)
            elif final:
                self.halted.wait(pause)

    def _failed(self, error: Exception) -> float:
        """Say it, the first time; returns the seconds until the next attempt."""
        state = self.state
        known = isinstance(error, FarEndError)
        message = reason(error) if known else f"{type(error).__name__}: {reason(error)}"
        state.failures_in_a_row += 1
        state.last_error, state.last_error_time = message, time.time()
        if state.failures_in_a_row == 1:
            logger.warning(
                "mirror: %s; training goes on, and it is tried again until it works", message
            )
        self._tell("failing")
        return pause_s(state.failures_in_a_row)

    def _succeeded(self) -> None:
        failures, self.state.failures_in_a_row = self.state.failures_in_a_row, 0
        self.state.last_success = time.time()
        if failures:
            logger.info("mirror: up to date again after %d failures", failures)

    def _finish(self) -> None:
        """Have everything mirrored once more, within `final_minutes`."""
        minutes = self.settings.final_minutes
        self._final.set()
        self._wake.set()
        self._thread.join(min(2.0, minutes * 60))
        if self._thread.is_alive() and minutes:
            logger.info(
                "mirror: up to %g minutes for the last checkpoint; a signal leaves at once", minutes
            )
            self._thread.join(max(0.0, minutes * 60 - 2))
        if self._thread.is_alive() or self.state.status != "finished":
            logger.warning(
                "mirror: not up to date (it has %s): %s; `voxformer checkpoints mirror %s %s` "
                "brings it there later",
                "no checkpoint" if self.state.step is None else f"step {self.state.step}",
                self.state.last_error or f"{self.state.pending_bytes} bytes were to be sent",
                self.folder,
                self.url,
            )

    def _tell(self, status: str) -> None:
        self.state.status = status
        content = {"url": self.url, "time": round(time.time(), 3), **vars(self.state)}
        with contextlib.suppress(OSError):  # a full disk, which training reports
            write_atomically(self.folder / STATE_FILE, json.dumps(content, indent=1) + "\n")


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, up to 5 minutes, ± 50 %.

    The jitter keeps runs that lost the same far end from coming back all at once.
    """
    longest = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20), LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.5)


def pull_if_there(settings: MirrorConfig, folder: Path) -> Pulled | None:
    """Fetch what the mirror of a run holds into its empty folder.

    Returns:
        What was fetched, or None where the mirror holds no checkpoint.

    Raises:
        UnreachableError: it does not answer, after a few attempts.
        FarEndError: what will not pass by itself, such as a host key that is not known.
    """
    if settings.url is None:
        return None
    check_store(settings.url, folder)
    for attempt in range(START_ATTEMPTS):
        if attempt:
            time.sleep(pause_s(1) / 2)
        try:
            far = open_far_folder(settings.url, settings.timeout_seconds)
            try:
                pace = Pace(settings.megabytes_per_second)
                return pull(far, folder, pace) if far_steps(far) else None
            finally:
                far.close()
        except UnreachableError as error:
            unreachable = error
    raise unreachable


def pull_url(url: str, folder: Path, timeout_s: float = 30.0) -> Pulled:
    """Fetch a run from the folder that a URL names, or the one step file that it names.

    Raises:
        FarEndError: it cannot be reached, or nothing there verifies.
    """
    place, _, name = url.rpartition("/")
    only = name if name.endswith(".pt") else None
    if only is not None and not only.startswith("step_"):
        raise FarEndError(f"{url}: name the folder, or a step_N.pt in it")
    far = open_far_folder(place if only else url, timeout_s)
    try:
        return pull(far, folder, only=only)
    finally:
        far.close()
