"""What a run folder says now: where the run is, its checkpoints, its log, its mirror.

Every file may be absent, half written, or replaced while it is read; then its part is empty.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from voxformer.dashboard import system
from voxformer.dashboard.log import LogFile
from voxformer.dashboard.metrics import MetricsFile, finite, number
from voxformer.dashboard.transcripts import audio_of, read_samples, shown_samples
from voxformer.evaluation.wer import band

QUIET_S = 120.0
MARKS = ("config.yaml", "metrics.jsonl", "training.log")


class DashboardError(ValueError):
    """The dashboard cannot be shown as asked; the message says why."""


def open_runs(folders: list[str]) -> list[Run]:
    """Runs of the named folders; a folder of run folders stands for all of them.

    Raises:
        DashboardError: a folder does not exist.
    """
    found: list[Path] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise DashboardError(f"{folder}: no such folder; name a run folder")
        inner = [] if _is_run(folder) else sorted(p for p in folder.iterdir() if _is_run(p))
        found += [path for path in inner or [folder] if path not in found]
    names = [path.resolve().name for path in found]
    return [
        Run(index, name if names.count(name) == 1 else str(path), path)
        for index, (name, path) in enumerate(zip(names, found, strict=True))
    ]


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


class Run:
    """One run folder.

    Attributes:
        id: its place among the runs shown.
        name: for people.
    """

    def __init__(self, id: int, name: str, folder: Path) -> None:  # noqa: A002
        self.id, self.name, self.folder = id, name, folder.resolve()
        self.metrics = MetricsFile(self.folder / "metrics.jsonl")
        self._log = LogFile(self.folder / "training.log")
        self._verified: dict[tuple[str, int, int], str] = {}
        self._verifying = threading.Lock()

    def status(self) -> dict[str, Any]:
        """Everything but the charts and the transcripts, as JSON can hold it."""
        self._log.poll()
        config = _config(self.folder / "config.yaml")
        training = config.get("training")
        training = training if isinstance(training, dict) else {}
        latest, valid = self.metrics.last("train"), self.metrics.last("valid")
        step, total = self.metrics.newest_step(), self._log.total_steps
        pace = self.metrics.seconds_per_step()
        updated = max(_modified(self.folder / mark) for mark in MARKS[1:])
        state = _state(self._log, updated, pace)
        left = total - step if total is not None and step is not None else None
        return {
            "id": self.id,
            "name": self.name,
            "folder": str(self.folder),
            "there": self.folder.is_dir(),
            "state": state,
            "updated": updated or None,
            "stage": None if config.get("stage") is None else str(config["stage"]),
            "step": step,
            "total_steps": total,
            "epoch": finite(number(latest.get("epoch"))),
            "num_epochs": finite(number(training.get("num_epochs"))),
            "seconds_per_step": pace,
            "eta_s": pace * left if state == "training" and pace and left is not None else None,
            "latest": latest,
            "valid": valid,
            "wer": _wers(valid, self.metrics.best("valid")),
            "findings": [_finding(row) for row in reversed(self.metrics.findings())],
            "metrics": self.metrics.facts(),
            "samples_revision": _modified(self.folder / "samples.json"),
            "checkpoints": self.checkpoints(),
            "mirror": _mirror(self.folder / "mirror.json"),
            "disk": system.disk(self.folder),
            "log": list(self._log.lines),
        }

    def samples(self) -> dict[str, Any]:
        """Transcripts of the last evaluation, with their differences."""
        return shown_samples(self.folder / "samples.json")

    def audio(self, sample_id: str) -> Path | None:
        """The recording of a sample that the samples file names; nothing else is served."""
        for sample in read_samples(self.folder / "samples.json")[1]:
            if sample["id"] == sample_id:
                return audio_of(sample)
        return None

    def checkpoints(self) -> list[dict[str, Any]]:
        """Checkpoints, newest first, each with its size and what is known of its digest."""
        found = []
        for path in (*self.folder.glob("*.pt"), *self.folder.glob("*.damaged")):
            try:
                status = path.stat()
                digest = path.with_name(path.name + ".sha256").is_file()
            except OSError:
                continue
            state = "digest recorded" if digest else "no digest"
            if path.suffix == ".damaged":
                state = "damaged, set aside"
            known = self._verified.get((path.name, status.st_size, status.st_mtime_ns), state)
            found.append(
                {
                    "name": path.name,
                    "bytes": status.st_size,
                    "modified": status.st_mtime,
                    "has_digest": digest,
                    "state": known,
                }
            )
        return sorted(found, key=lambda c: (-c["modified"], c["name"]))

    def verify(self, name: str) -> str | None:
        """Hash a checkpoint that `checkpoints` lists, one at a time; None if it is not listed."""
        from voxformer.training.storage import DigestError, verify

        if name not in {c["name"] for c in self.checkpoints() if c["has_digest"]}:
            return None
        path = self.folder / name
        with self._verifying:
            try:
                before = path.stat()
                key = (name, before.st_size, before.st_mtime_ns)
                verify(path)
            except DigestError:
                state = "damaged: the digest does not match"
            except OSError as error:
                return f"cannot be read: {error.strerror}"
            else:
                state = "verified"
        self._verified[key] = state
        return state


def _wers(valid: dict[str, Any], best: dict[str, float]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, least in best.items():
        value = finite(number(valid.get(key)))
        found[key.removeprefix("wer_")] = {
            "value": value,
            "best": least,
            "band": None if value is None else band(value),
        }
    return found


def _finding(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the run's watch, its texts cut to a length that a page can show."""
    texts = {
        key: str(row.get(key) or "")[:600]
        for key in ("name", "mode", "severity", "action", "message")
    }
    return {"step": row["step"], "time": finite(number(row.get("time"))), **texts}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(log: LogFile, modified: float, pace: float | None) -> str:
    """`waiting`, `training`, `finished`, `stopped by its watch`, or `quiet`: nothing was written
    for longer than usual."""
    if not modified:
        return "waiting"
    if log.says_stopped:
        return "stopped by its watch"
    if log.says_finished:
        return "finished"
    return "training" if time.time() - modified < QUIET_S + 50 * (pace or 0.0) else "quiet"


def _mirror(path: Path) -> dict[str, Any] | None:
    """What a mirror says of itself; credentials in its URL are left out."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    shown: dict[str, Any] = {}
    for key in ("url", "last_success", "last_error", "pending"):
        value = content.get(key)
        if isinstance(value, list):
            value = len(value)
        elif isinstance(value, dict):
            value = json.dumps(value)
        if isinstance(value, str):
            value = _without_credentials(value) if key == "url" else value[:500]
        shown[key] = finite(value)
    return shown


def _without_credentials(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=host, query="", fragment="").geturl()
    except ValueError:
        return "…"
