"""The page in a browser, over a run that really trains: what changes on it, and by which means."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..tones import write_corpus
from .browser import CHROMEDRIVER, CHROMIUM, SIZES, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium, chromium-driver"),
]

STEPS = 360

# What the page shows each time that it changes, and what reaches a listener of its own.
WATCHING = """
window.shown = [];
window.told = [];
const note = () => {
  const text = document.querySelector("#run-0")?.textContent ?? "";
  if (text !== window.shown.at(-1)) window.shown.push(text);
};
const everything = { subtree: true, childList: true, characterData: true };
new MutationObserver(note).observe(document.body, everything);
new EventSource("/api/events").addEventListener("status", (event) => {
  window.told.push(JSON.parse(event.data).runs[0].step);
});
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `voxformer train` on the tiny corpus, in `tmp_path/run`."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    config = {
        "stage": "hybrid",
        "model": {
            "vocab_size": 18,
            "d_model": 32,
            "encoder_num_heads": 2,
            "encoder_layers_per_block": 1,
            "subsampling_channels": 8,
            "decoder_num_heads": 2,
            "decoder_num_layers": 1,
        },
        "training": {
            "batch_size": 4,
            "num_epochs": 1000,
            "max_steps": STEPS,
            "learning_rate": 3e-3,
            "warmup_steps": 10,
            "num_workers": 1,
            "num_threads": 1,
            "device": "cpu",
            "log_interval": 1,
            "eval_interval": 40,
            "save_interval": 60,
            "checkpoint_dir": str(tmp_path / "run"),
        },
        "data": {
            "train_manifest": str(corpus / "train.jsonl"),
            "valid_manifest": str(corpus / "dev.jsonl"),
        },
    }
    (tmp_path / "live.yaml").write_text(yaml.safe_dump(config))
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "voxformer", "train", "--config"]
        with (tmp_path / "train.log").open("w") as log:
            started.append(
                subprocess.Popen([*command, str(tmp_path / "live.yaml")], stderr=log, text=True)
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=60)


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def test_page_follows_a_run_from_its_first_step_to_its_last(
    browser: Browser,
    serve: Callable[..., str],
    training: Callable[[], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    browser.show_as("desktop", "light")
    browser.open(serve(folder))
    browser.wait("document.querySelector('#run-0 .state')?.textContent === 'waiting'", "an event")
    browser.js(WATCHING)

    process = training()
    state = "document.querySelector('#run-0 .state').textContent"
    browser.wait(f"{state} === 'training, stage hybrid'", "the start")
    browser.wait("document.querySelectorAll('.uplot canvas').length >= 7", "charts")
    browser.wait("document.querySelector('#run-0 .wers')", "WER")
    browser.wait("document.querySelector('#samples h3')", "transcripts")
    browser.wait("document.querySelector('#checkpoints th')", "checkpoints")
    # A tiny model that has just begun knows the blank alone: the run's own watch finds it.
    browser.wait("document.querySelector('#watch .band')", "a finding")
    said = "document.querySelector('#chart-loss .plot').ariaLabel"
    first = browser.js(f"return {said}")
    browser.wait(f"{said} !== {json.dumps(first)}", "a newer loss")
    assert process.poll() is None, (tmp_path / "train.log").read_text()
    for size in SIZES:
        for scheme in ("light", "dark"):
            browser.show_as(size, scheme)
            browser.wait("document.querySelector('.uplot canvas')", "charts in another size")
            browser.check_page(size, f"live-{size}-{scheme}")
    browser.show_as("desktop", "light")

    browser.wait(f"{state} === 'finished, stage hybrid'", "the end", seconds=300)
    assert process.wait(timeout=60) == 0
    browser.wait(
        f"document.querySelector('#run-0 p').textContent.includes('step {STEPS} of')", "it"
    )
    last, valid = rows(folder, "train")[-1], rows(folder, "valid")[-1]
    card = browser.text("#run-0")
    assert f"100.0 %, step {STEPS} of {STEPS}" in card
    facts = "[...document.querySelectorAll('#run-0 .facts div')]"
    shown = browser.js(
        f"return Object.fromEntries({facts}.map((d) => [...d.children].map((c) => c.textContent)))"
    )
    assert float(shown["Loss"]) == pytest.approx(last["loss"], rel=1e-2)
    assert float(shown["CTC"]) == pytest.approx(last["ctc"], rel=1e-2)
    for mode in ("ctc_greedy", "attention"):
        wer = float(shown[f"WER {mode}"].split()[0])
        assert wer == pytest.approx(100 * valid[f"wer_{mode}"], abs=0.06)
        assert shown[f"WER {mode}"].endswith(valid[f"band_{mode}"])
    findings = rows(folder, "watch")
    assert browser.js("return document.querySelectorAll('#watch li').length") == len(findings)
    assert findings[-1]["message"] in browser.text("#watch li")
    assert "INFO done: " in browser.text("#log")
    names = browser.js(
        "return [...document.querySelectorAll('#checkpoints th')].map((t) => t.innerText)"
    )
    assert {"latest.pt", "best.pt", f"step_{STEPS}.pt"} <= set(names)

    # Values were seen changing as they were told, and the page neither polled nor was loaded again,
    # which would have lost these lists.
    told = [step for step in browser.js("return window.told") if step is not None]
    assert len(set(told)) >= 5
    assert told == sorted(told)
    assert len(browser.js("return window.shown")) >= 5
    polled = "performance.getEntriesByType('resource').filter((r) => r.name.includes('-status'))"
    assert browser.js(f"return {polled}.length") == 0
    assert not browser.console()
