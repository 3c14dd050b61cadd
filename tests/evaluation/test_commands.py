"""`export`, `evaluate`, `transcribe` and rtf.py in a row, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from voxformer import __version__
from voxformer.cli import main
from voxformer.config import RunConfig
from voxformer.data import write_manifest
from voxformer.evaluation.models import ModelError, newest_bundle, newest_checkpoint, open_model
from voxformer.runtime import MODES, EngineError
from voxformer.training.checkpoint import save_checkpoint

RTF = Path(__file__).resolve().parents[2] / "benchmarks" / "rtf.py"


@pytest.fixture(scope="module")
def place(model, vocabulary, utterances, tmp_path_factory):
    """A folder with a run, its validation manifest and the bundle that `export` made of it."""
    folder = tmp_path_factory.mktemp("place")
    write_manifest(folder / "valid.jsonl", utterances)
    config = RunConfig(model=model.config)
    config.data.valid_manifest = str(folder / "valid.jsonl")
    state = {
        "stage": "hybrid",
        "config": config.model_dump(mode="json"),
        "model": model.state_dict(),
        "ema": None,
        "tokens": list(vocabulary.tokens),
        "step": 7,
        "max_tokens_per_second": 5.0,
        "metrics": {},
    }
    save_checkpoint(folder / "checkpoints" / "tiny" / "best.pt", state)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", "--exporter", "trace"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(place, monkeypatch):
    monkeypatch.chdir(place)


def test_export_takes_the_newest_run_and_names_the_bundle_after_it(place):
    values = json.loads((place / "bundles" / "tiny" / "bundle.json").read_text("utf-8"))
    assert newest_checkpoint() == Path("checkpoints/tiny/best.pt")
    assert newest_bundle() == Path("bundles/tiny")
    assert values["provenance"]["checkpoint"] == "checkpoints/tiny/best.pt"
    assert values["provenance"]["step"] == 7
    assert values["decoding"]["max_tokens_per_second"] == 5.0
    assert values["wer"]["utterances"] == 9


def test_checkpoint_and_bundle_have_the_same_error_rates(place, capsys):
    reports = {}
    for name, path in (("torch", "checkpoints/tiny/best.pt"), ("onnxruntime", "bundles/tiny")):
        arguments = ["--manifest", "valid.jsonl", "--mode", "all", "--json", f"{name}.json"]
        assert main(["evaluate", "--model", path, *arguments, "--errors", f"{name}.txt"]) == 0
        printed = capsys.readouterr().out
        assert all(mode in printed for mode in MODES)
        reports[name] = json.loads(Path(f"{name}.json").read_text("utf-8"))
        assert name in reports[name]["engine"]
        assert reports[name]["machine"]["cores"] >= 1
        assert reports[name]["versions"]["voxformer"] == __version__
        assert "REF:" in Path(f"{name}.txt").read_text("utf-8")
    for mode in MODES:
        left, right = (reports[name]["modes"][mode] for name in reports)
        assert left["wer"] == right["wer"]
        assert left["utterances"] == right["utterances"]


def test_search_options_of_the_command_reach_the_report(capsys):
    arguments = ["--manifest", "valid.jsonl", "--beam-size", "2", "--ctc-weight", "0.9"]
    assert main(["evaluate", "--model", "bundles/tiny", *arguments, "--json", "two.json"]) == 0
    decoding = json.loads(Path("two.json").read_text("utf-8"))["decoding"]
    assert (decoding["beam_size"], decoding["n_best"], decoding["ctc_weight"]) == (2, 2, 0.9)


@pytest.mark.parametrize("suffix", ["txt", "json", "srt", "vtt"])
def test_transcribe_writes_each_format(suffix, utterances, capsys):
    audio = [str(utterances[0].audio_path), str(utterances[2].audio_path)]
    command = ["transcribe", *audio, "--model", "bundles/tiny", "--format", suffix]
    assert main([*command, "--out", "texts"]) == 0
    assert capsys.readouterr().out == ""
    written = [Path("texts", f"{Path(path).stem}.{suffix}").read_text("utf-8") for path in audio]
    assert all(written)
    assert main(command) == 0
    printed = capsys.readouterr().out
    if suffix == "json":
        assert [row["text"] for row in json.loads(printed)] == [
            json.loads(text)["text"] for text in written
        ]
    else:
        assert all(text.strip() in printed for text in written)
    assert main(["transcribe", audio[0], "--model", "bundles/tiny", "--format", suffix]) == 0
    alone = capsys.readouterr().out
    if suffix == "json":  # scores differ in their last digits with the size of the batch
        alone, written[0] = (json.loads(text)["words"] for text in (alone, written[0]))
    assert alone == written[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["transcribe", "none.wav", "--model", "bundles/tiny"], "no such audio file"),
        (["transcribe", "a.wav", "--model", "checkpoints/tiny/best.pt"], "not a bundle"),
        (["transcribe", "a.wav", "--model", "nowhere"], "not a bundle"),
        (["evaluate", "--model", "nowhere", "--manifest", "valid.jsonl"], "no such checkpoint"),
        (["evaluate", "--model", "bundles/tiny", "--manifest", "none.jsonl"], "no such manifest"),
        (["export", "--checkpoint", "none.pt"], "no such checkpoint"),
        (["export", "--target", "h100"], "add --trt"),
        (["export", "--timing-cache", "x"], "add --trt or --kit DIR"),
        (["export", "--kit", "bundles/tiny"], "not a build kit"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_2(command, message, capsys):
    assert main(command) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_recording_that_cannot_be_read_does_not_hold_up_the_others(utterances, capsys):
    Path("torn.wav").write_bytes(utterances[0].audio_path.read_bytes()[:1000])
    good = str(utterances[2].audio_path)
    long = "a" * 300  # more than a file's name may have
    names = ["none.wav", good, "torn.wav", long]
    assert main(["transcribe", *names, "--model", "bundles/tiny"]) == 2
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == [good]
    missing, torn, unnamed = said.err.splitlines()
    assert f"{long}: unreadable audio: File name too long" in unnamed
    assert "none.wav: no such audio file" in missing
    assert "torn.wav: truncated audio" in torn


def test_a_model_of_stage_2_decodes_without_its_untrained_decoder(place, capsys):
    checkpoint = torch.load(place / "checkpoints" / "tiny" / "best.pt", weights_only=True)
    save_checkpoint(place / "stage2.pt", {**checkpoint, "stage": "ctc"})
    export = ["export", "--checkpoint", "stage2.pt", "--out", "ctc", "--exporter", "trace"]
    assert main([*export, "--manifest", "valid.jsonl"]) == 0
    values = json.loads(Path("ctc/bundle.json").read_text("utf-8"))
    assert values["modes"] == [*values["parity"]["wer"], "ctc_beam"] == list(MODES[:2])
    for model in ("ctc", "stage2.pt"):
        capsys.readouterr()
        assert main(["evaluate", "--model", model, "--manifest", "valid.jsonl"]) == 0
        assert "ctc_beam" in capsys.readouterr().out
        refused = ["evaluate", "--model", model, "--manifest", "valid.jsonl", "--mode", "attention"]
        assert main(refused) == 2
        assert capsys.readouterr().err == (
            "voxformer evaluate: mode attention needs an attention decoder, and this model's is "
            "not trained; use ctc_greedy or ctc_beam, or a model of stage 3 or 4\n"
        )


@pytest.mark.parametrize("command", ["export", "evaluate", "transcribe"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  voxformer {command} " in capsys.readouterr().out


def test_open_model_names_what_is_missing(place):
    with pytest.raises(ModelError, match="no run under nowhere/"):
        newest_checkpoint("nowhere")


@pytest.mark.parametrize("path", ["bundles/tiny", "checkpoints/tiny/best.pt"])
def test_device_that_is_not_there_is_an_error_for_either_engine(path):
    with pytest.raises(EngineError, match="FpgaExecutionProvider"):
        open_model(path, provider="FpgaExecutionProvider")
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="CUDA"):
            open_model(path, provider="cuda")


def run_rtf(*arguments):
    return subprocess.run([sys.executable, str(RTF), *arguments], capture_output=True, text=True)


def test_rtf_without_arguments_takes_the_newest_bundle_and_its_manifest(place):
    result = run_rtf("--json", "rtf.json", "--threads", "1", "--rounds", "1")
    assert result.returncode == 0, result.stderr
    values = json.loads(Path("rtf.json").read_text("utf-8"))
    rows = {(row["mode"], row["engine"].partition(" ")[0]): row for row in values["passes"]}
    assert len(rows) == 2 * len(MODES)
    for mode in MODES:
        left, right = rows[mode, "torch"], rows[mode, "onnxruntime"]
        assert left["words"] == right["words"]
        assert right["rtf"] * right["rtfx"] == pytest.approx(1.0)
        assert right["threads"] == 1
    assert values["machine"]["cores"] >= 1
    assert "reading" in values["timed"]
    assert "RTFx" in result.stdout


def test_rtf_refuses_a_checkpoint_that_has_changed(place, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with Path("checkpoints/tiny/best.pt").open("ab") as file:
        file.write(b"more")
    result = run_rtf("--engine", "torch")
    assert result.returncode == 2
    assert "has changed since" in result.stderr
    assert result.stderr.count("\n") == 1
