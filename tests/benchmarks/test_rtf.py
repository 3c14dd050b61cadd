"""What benchmarks/rtf.py measures and says, on a small random model and noise."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.config import RunConfig
from voxformer.data import Utterance, read_manifest, write_manifest
from voxformer.evaluation import evaluate
from voxformer.evaluation.models import open_bundle
from voxformer.export import export_checkpoint
from voxformer.runtime import read_bundle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SECONDS = (0.6, 1.3, 0.9, 2.0, 1.1)


@pytest.fixture(scope="module")
def rtf():
    """The script and the one that makes random models, as modules."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("rtf"), importlib.import_module("random_model")
    patch.undo()


@pytest.fixture(scope="module")
def measured(rtf, model, tmp_path_factory):
    """A bundle of a checkpoint with random weights, a manifest, and what a run of rtf.py wrote."""
    script, random_model = rtf
    folder = tmp_path_factory.mktemp("rtf")
    random = np.random.default_rng(0)
    utterances = []
    for number, seconds in enumerate(SECONDS):
        path = folder / f"{number}.wav"
        samples = random.normal(0, 0.1, int(seconds * 16000)).astype(np.float32)
        soundfile.write(path, samples, 16000)
        utterances.append(Utterance(str(number), path, seconds, "b c d"))
    write_manifest(folder / "speech.jsonl", utterances)
    config = RunConfig(model=model.config)
    random_model.write(str(folder / "run" / "best.pt"), model, config, 12.0)
    bundle = export_checkpoint(
        folder / "run" / "best.pt", folder / "bundle", folder / "speech.jsonl", exporter="trace"
    )
    arguments = ["--model", str(bundle), "--batch-size", "1", "2", "--beam-size", "4"]
    arguments += ["--rounds", "2", "--json", str(folder / "rtf.json")]
    assert script.main([*arguments, "--svg", str(folder / "rtf.svg")]) == 0
    return bundle, folder, json.loads((folder / "rtf.json").read_text("utf-8"))


def test_every_engine_batch_size_and_mode_is_a_row(measured):
    rows = measured[2]["passes"]
    modes = ("ctc_greedy", "ctc_beam", "attention", "rescoring")
    engines = ("torch (cpu)", "onnxruntime (CPUExecutionProvider)")
    expected = {(e, size, m) for e in engines for size in (1, 2) for m in modes}
    assert {(row["engine"], row["batch_size"], row["mode"]) for row in rows} == expected
    assert len(rows) == len(expected)


def test_rtfx_is_real_audio_over_time_and_the_shares_are_all_of_it(measured):
    values = measured[2]
    assert values["audio_seconds"] == pytest.approx(sum(SECONDS), abs=1e-3)
    for row in values["passes"]:
        assert row["rtfx"] == pytest.approx(values["audio_seconds"] / row["seconds"])
        assert row["rtfx"] in row["rtfx_rounds"]
        assert len(row["rtfx_rounds"]) == len(row["rtfx_pipelined_rounds"]) == 2
        assert sum(row["shares"].values()) == pytest.approx(1.0)
        assert min(row["shares"].values()) >= 0.0
        assert (row["shares"]["rescoring"] > 0.0) == (row["mode"] == "rescoring")
        assert row["texts_equal_in_all_passes"]
        assert ("latency_s" in row) == (row["batch_size"] == 1)
        if row["batch_size"] == 1:
            times = list(row["latency_s"].values())
            assert times == sorted(times)
            assert times[-1] <= row["seconds"]


def test_error_rates_are_those_of_an_evaluation(measured, rtf):
    bundle, folder, values = measured
    model = open_bundle(read_bundle(bundle))
    options = rtf[0]._options(rtf[0]._arguments(["--beam-size", "4"]), read_bundle(bundle))
    utterances = read_manifest(folder / "speech.jsonl")
    modes = ["ctc_greedy", "rescoring"]
    expected = evaluate(model.engine, model.vocabulary, utterances, modes, options).modes
    for row in values["passes"]:
        if row["mode"] in modes:
            assert row["words"] == expected[row["mode"]].words.to_json()
            assert row["wer"] == expected[row["mode"]].wer


def test_random_weights_and_circumstances_are_told(measured):
    values = measured[2]
    [model] = values["models"]
    assert model["random_weights"] is True
    assert {"cpu", "cores", "load_at_end", "gpus"} <= set(values["machine"])
    assert "reading" in values["timed"]
    assert values["versions"]["onnxruntime"]


def test_results_become_a_table_and_a_plot(measured, rtf, capsys, monkeypatch):
    _, folder, values = measured
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    renderer = importlib.import_module("render_results")
    table = renderer.table(["rtf"], folder)
    row = next(r for r in values["passes"] if r["batch_size"] == 2 and r["mode"] == "rescoring")
    cells = f"| fp32 | 2 | rescoring | {row['wer']:.2%} | {row['rtfx']:.1f} |"
    assert cells in table
    assert "Random weights: the WER means nothing." in table
    svg = (folder / "rtf.svg").read_text("utf-8")
    assert svg.count("<rect") == 1 + len(values["passes"])
    again = ["--read", str(folder / "rtf.json"), "--svg", str(folder / "again.svg")]
    assert rtf[0].main(again) == 0
    assert (folder / "again.svg").read_text("utf-8") == svg
    assert "rescoring" in capsys.readouterr().out


def test_ctc_layer_of_a_random_model_writes_as_many_tokens_as_asked(rtf, model):
    import copy

    import torch

    shaped = copy.deepcopy(model)
    random = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(3, 48000, generator=random)
    found = rtf[1].shape_ctc(shaped, waveforms, torch.tensor([48000, 30000, 16000]), 3.0)
    assert found == pytest.approx(3.0, abs=0.5)


def test_words_of_a_random_model_are_all_different(rtf):
    words = {rtf[1]._word(number) for number in range(2000)}
    assert len(words) == 2000
    assert all(word.isalpha() for word in words)
