"""A run folder as training leaves it, and an application over it."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voxformer.training.storage import write_verified

from .browser import Browser


def train_row(step: int, **values: object) -> str:
    row = {
        "type": "train",
        "step": step,
        "time": 1000.0 + step / 2,
        "epoch": step / 100,
        "loss": 5.0 / (1 + step / 50),
        "ctc": 6.0 / (1 + step / 50),
        "ce": 4.0 / (1 + step / 50),
        "ctc_weight": 0.3,
        "learning_rate": 1e-3 * step / 100,
        "gradient_norm": 1.5,
        "audio_per_second": 250.0,
        "skipped_steps": 0,
        **values,
    }
    return json.dumps(row) + "\n"


def valid_row(step: int, wer: float) -> str:
    row = {
        "type": "valid",
        "step": step,
        "time": 1000.0 + step / 2,
        "ctc": 2.0,
        "ce": 1.5,
        "wer_ctc_greedy": wer,
        "wer_attention": wer / 2 if isinstance(wer, float) else wer,
        "ctc_weight": 0.3,
    }
    return json.dumps(row) + "\n"


def watch_row(step: int, name: str = "loop", severity: str = "warning") -> str:
    row = {
        "type": "watch",
        "step": step,
        "time": 1000.0 + step / 2,
        "name": name,
        "mode": "attention",
        "severity": severity,
        "action": "stop" if severity == "critical" else "warn",
        "message": f"40% of the attention hypotheses <i>{name}</i>: decode with rescoring",
        "ctc_weight": 0.3,
    }
    return json.dumps(row) + "\n"


def write_samples(folder: Path, audio: Path | str, step: int = 100) -> None:
    sample = {
        "id": "a/1",
        "reference": "switch on the light",
        "hypotheses": {"ctc_greedy": "switch the the light", "attention": "switch on the light"},
        "audio": str(audio),
    }
    (folder / "samples.json").write_text(json.dumps({"step": step, "samples": [sample]}))


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [train_row(step) for step in range(10, 201, 10)]
    rows[10:10] = [valid_row(100, 1.2), watch_row(100), watch_row(100, "critical", "critical")]
    (folder / "metrics.jsonl").write_text("".join(rows) + valid_row(200, 0.3))
    (folder / "config.yaml").write_text("stage: hybrid\ntraining:\n  num_epochs: 10\n")
    (folder / "training.log").write_text(
        "2026-11-24 10:00:00,000 INFO starting fresh in run\n"
        "2026-11-24 10:00:00,001 INFO stage hybrid on cpu: 1.0 M parameters, 24 utterances "
        "(0.01 h), 1000 steps\n"
    )
    write_verified(folder / "step_100.pt", lambda file: file.write(b"weights"))
    (folder / "best.pt").write_bytes(b"no digest")
    audio = folder.parent / "a.wav"
    with wave.open(str(audio), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    write_samples(folder, audio)
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def rows() -> tuple[Callable[..., str], Callable[..., str]]:
    return train_row, valid_row


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def serve(browser: Browser) -> Iterator[Callable[..., str]]:
    started = []

    def start(*folders: Path) -> str:
        command = [sys.executable, "-m", "voxformer", "dashboard", *map(str, folders)]
        process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    browser.open("about:blank")  # or the page would complain of the server that goes away
    for process in started:
        process.terminate()
        process.communicate(timeout=30)
