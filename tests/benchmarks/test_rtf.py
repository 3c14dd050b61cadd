"""What benchmarks/rtf.py measures and says, on a small random model and noise."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch

from voxformer.data import DataError, read_manifest
from voxformer.evaluation import evaluate
from voxformer.evaluation.models import open_bundle
from voxformer.runtime import EngineError, read_bundle


@pytest.fixture(scope="module")
def rtf(script):
    return script("rtf"), script("random_model")


@pytest.fixture(scope="module")
def measured(rtf, random_bundle, noise_manifest, tmp_path_factory):
    """A bundle, its manifest, the folder of what a run of rtf.py wrote, and what it is."""
    folder = tmp_path_factory.mktemp("rtf")
    arguments = ["--model", str(random_bundle), "--batch-size", "auto", "1", "2"]
    arguments += ["--beam-size", "4", "--rounds", "2", "--json", str(folder / "rtf.json")]
    assert rtf[0].main([*arguments, "--svg", str(folder / "rtf.svg")]) == 0
    values = json.loads((folder / "rtf.json").read_text("utf-8"))
    return random_bundle, noise_manifest, folder, values


def test_every_engine_batch_size_and_mode_is_a_row(measured):
    rows = measured[3]["passes"]
    modes = ("ctc_greedy", "ctc_beam", "attention", "rescoring")
    engines = ("torch (cpu)", "onnxruntime (CPUExecutionProvider)")
    expected = {(e, size, m) for e in engines for size in (None, 1, 2) for m in modes}
    assert {(row["engine"], row["batch_size"], row["mode"]) for row in rows} == expected
    assert len(rows) == len(expected)


def test_rtfx_is_real_audio_over_time_and_the_shares_are_all_of_it(measured):
    values = measured[3]
    assert values["audio_seconds"] == pytest.approx(0.6 + 1.3 + 0.9 + 2.0 + 1.1, abs=1e-3)
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
    bundle, manifest, _, values = measured
    model = open_bundle(read_bundle(bundle))
    options = rtf[0]._options(rtf[0]._arguments(["--beam-size", "4"]), read_bundle(bundle))
    utterances = read_manifest(manifest)
    modes = ["ctc_greedy", "rescoring"]
    expected = evaluate(model.engine, model.vocabulary, utterances, modes, options).modes
    for row in values["passes"]:
        if row["mode"] in modes:
            assert row["words"] == expected[row["mode"]].words.to_json()
            assert row["wer"] == expected[row["mode"]].wer


def test_random_weights_and_circumstances_are_told(measured):
    values = measured[3]
    [model] = values["models"]
    assert model["random_weights"] is True
    assert {"cpu", "cores", "load_at_end", "gpus"} <= set(values["machine"])
    assert "reading" in values["timed"]
    assert values["versions"]["onnxruntime"]


def test_results_become_a_table_and_a_plot(measured, rtf, script, capsys):
    _, _, folder, values = measured
    table = script("render_results").table(["rtf"], folder)
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


@pytest.mark.parametrize("option", ["--rounds", "--utterances", "--batch-size", "--beam-size"])
def test_a_number_that_measures_nothing_is_refused(rtf, option, capsys):
    for value in ("0", "-1"):
        with pytest.raises(SystemExit) as stop:
            rtf[0].main([option, value])
        assert stop.value.code == 2
        assert f"'{value}' is not a whole number of at least 1" in capsys.readouterr().err


def test_what_cannot_be_measured_or_shown_is_said(measured, rtf, tmp_path, monkeypatch):
    bundle, manifest, _, _ = measured
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    silent = manifest.with_name("silent.jsonl")
    silent.write_text("".join(json.dumps({**row, "text": " "}) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match=r"silent\.jsonl: its texts hold no word"):
        rtf[0].main(["--model", str(bundle), "--manifest", str(silent)])
    for content in (b"\xff", b"{}", b"[]", b'{"passes": [{}]}'):
        (tmp_path / "read.json").write_bytes(content)
        with pytest.raises(DataError, match=r"read\.json: not what --json of this script writes"):
            rtf[0].main(["--read", str(tmp_path / "read.json")])
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(EngineError, match="pip install pocketsphinx"):
        rtf[0].main(["--model", str(bundle), "--engine", "pocketsphinx"])


def test_ctc_layer_of_a_random_model_writes_as_many_tokens_as_asked(rtf, model):
    shaped = copy.deepcopy(model)
    random = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(3, 48000, generator=random)
    found = rtf[1].shape_ctc(shaped, waveforms, torch.tensor([48000, 30000, 16000]), 3.0)
    assert found == pytest.approx(3.0, abs=0.5)


def test_words_of_a_random_model_are_all_different(rtf):
    words = {rtf[1]._word(number) for number in range(2000)}
    assert len(words) == 2000
    assert all(word.isalpha() for word in words)
