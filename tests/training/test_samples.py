"""`samples.json`: what the last evaluation heard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voxformer.evaluation.wer import align_words, total
from voxformer.training.loop import train


def test_samples_are_those_of_the_last_evaluation(
    make_config, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    assert train(make_config("hybrid", num_epochs=1, eval_interval=2), "run") == 0
    content = json.loads((tmp_path / "run" / "samples.json").read_text())
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["type"] == "valid"][-1]
    assert content["step"] == last["step"]
    dev = [json.loads(row) for row in (corpus / "dev.jsonl").read_text().splitlines()]
    samples = content["samples"]
    assert [(s["id"], s["reference"]) for s in samples] == [(u["id"], u["text"]) for u in dev]
    assert [Path(s["audio"]) for s in samples] == [corpus / u["audio_filepath"] for u in dev]
    for mode in ("ctc_greedy", "attention"):
        pairs = [(s["reference"], s["hypotheses"][mode]) for s in samples]
        counts = total([a.counts for a in align_words(*map(list, zip(*pairs, strict=True)))])
        assert counts.wer == pytest.approx(last[f"wer_{mode}"], abs=1e-5)


def test_disk_that_does_not_take_them_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voxformer.training import monitor

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(monitor, "write_atomically", full)
    with monitor.Monitor(tmp_path, 1, "run") as told:
        told.samples(1, [])
    assert "samples not written: No space left on device" in capsys.readouterr().err
