"""A run that cannot start says why in one line; one that is disturbed loses nothing verified."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from voxformer.cli import main
from voxformer.config import RunConfig
from voxformer.text import train_tokenizer
from voxformer.training import loop
from voxformer.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_model_checkpoint,
    save_checkpoint,
)
from voxformer.training.loop import train
from voxformer.training.setup import RunError, locked
from voxformer.training.storage import verify


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CTC run of one step; its config is `config.yaml` there."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    config = RunConfig.model_validate(
        {
            "stage": "ctc",
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
                "max_steps": 1,
                "num_workers": 0,
                "num_threads": 1,
                "device": "cpu",
                "checkpoint_dir": str(folder),
            },
            "data": {
                "train_manifest": str(corpus / "train.jsonl"),
                "valid_manifest": str(corpus / "dev.jsonl"),
            },
            "decoding": {"beam_size": 3, "n_best": 3},
        }
    )
    assert train(config, "finished") == 0
    return folder


@pytest.fixture
def refusal(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """`refusal(*overrides)`: the one line with which a new run `tmp_path/run` does not start."""

    def start(*overrides: str) -> str:
        capsys.readouterr()
        arguments = ["train", "--config", str(finished / "config.yaml")]
        for override in (f"training.checkpoint_dir={tmp_path / 'run'}", *overrides):
            arguments += ["--set", override]
        assert main(arguments) == 2
        error = capsys.readouterr().err.replace(f"{tmp_path}/", "")
        assert len(error.splitlines()) == 1, error
        assert not list((tmp_path / "run").glob("*.pt"))
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return error.strip().removeprefix("voxformer train: ")

    return start


def write_manifest(folder: Path, corpus: Path, *extra: str, **changes: object) -> str:
    """The training manifest with its first row changed, and more lines; as an override."""
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(corpus / row["audio_filepath"])
    rows[0].update(changes)
    path = folder / "changed.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), *extra]) + "\n")
    return f"data.train_manifest={path}"


def test_a_run_folder_has_one_trainer(refusal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        assert refusal() == (
            "run: another process is training in it; wait for it, stop it, or choose another "
            "training.checkpoint_dir"
        )
    with locked(tmp_path / "run"):
        pass


def test_the_children_of_a_killed_trainer_do_not_hold_its_folder(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from voxformer.training.setup import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        child = int(trainer.stdout.readline())
        try:
            with pytest.raises(RunError, match="another process"), locked(tmp_path):
                pass
            trainer.kill()
            trainer.wait()
            with locked(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            trainer.kill()


def test_manifests_that_cannot_be_used(refusal, corpus: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty.jsonl").write_text("\n")
    assert refusal("data.train_manifest=") == (
        "data.train_manifest: not set; name a JSONL manifest in the config, or with "
        "--set data.train_manifest=FILE"
    )
    assert refusal("data.train_manifest=nope.jsonl") == (
        "nope.jsonl: no such manifest; `voxformer prepare` makes one"
    )
    assert refusal(f"data.train_manifest={tmp_path}/empty.jsonl") == (
        "empty.jsonl: the manifest is empty; `voxformer prepare` makes one"
    )
    assert "not a readable UTF-8 manifest: Is a" in refusal(f"data.train_manifest={corpus}")
    assert refusal("data.valid_manifest=nope.jsonl").startswith("nope.jsonl: no such manifest")
    assert refusal("augment.noise_manifest=nope.jsonl").startswith("nope.jsonl: no such manifest")
    line = refusal(write_manifest(tmp_path, corpus, text=""))
    assert line.startswith("training manifest: 1 of 24 utterances (4.2%) cannot be used, ")
    assert line.endswith("train0: empty text")
    assert "train0: no audio file" in refusal(
        write_manifest(tmp_path, corpus, audio_filepath="gone.wav")
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{oops", "not JSON: Expecting property name"),
        ("3", "a line is one JSON object, not int"),
        ('{"audio_filepath": "a.wav", "duration": 1' + "0" * 400 + "}", "duration is missing or"),
        ('{"audio_filepath": "a.wav", "duration": 1' + "0" * 5000 + "}", "a number too long"),
        ("[" * 100_000, "nested too deeply"),
        (r'{"audio_filepath": "a.wav", "duration": 1, "id": "\ud800"}', "id holds half a char"),
    ],
)
def test_hostile_line_is_named(
    refusal, corpus: Path, tmp_path: Path, line: str, expected: str
) -> None:  # type: ignore[no-untyped-def]
    error = refusal(write_manifest(tmp_path, corpus, line))
    assert error.startswith("changed.jsonl:25: ")
    assert expected in error


def test_vocabularies_that_do_not_fit(refusal, finished: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert refusal("model.vocab_size=5000") == (
        "the text gives at most 20 unigram pieces, not 5000; set vocab_size to 20 or less"
    )
    assert "needs at least 15 unigram pieces" in refusal("model.vocab_size=3")
    assert refusal("data.tokenizer=nope").startswith("nope: no tokenizer.model there; make one")
    train_tokenizer(["low mid high rise fall mild box"] * 9, 18, tmp_path / "other")
    other = f"data.tokenizer={tmp_path / 'other'}"
    assert refusal(other, "model.vocab_size=20") == (
        "other: tokenizer of 18 pieces, but model.vocab_size is 20"
    )
    initial = f"training.init_from={finished / 'latest.pt'}"
    assert "other is not the tokenizer that" in refusal(other, initial)
    assert "vocab_size 18 there, 20 here" in refusal(initial, "model.vocab_size=20")


def test_device_and_run_folder_that_are_not_there(refusal, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        line = refusal(f"training.checkpoint_dir={tmp_path}/{folder}")
        assert line.startswith(f"{folder}: cannot be the run folder: ")
        assert line.endswith("; choose another training.checkpoint_dir")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "run: cannot be the run folder: permission denied" in refusal()
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cuda was asked for, but this torch" in refusal("training.device=cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert refusal("training.device=cuda:2").endswith("but the last of 2 is cuda:1")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.mark),)


def with_digest(path: Path) -> Path:
    path.with_name(path.name + ".sha256").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    )
    return path


@pytest.mark.parametrize("key", ["resume_from", "init_from"])
def test_files_that_are_not_ours(refusal, finished: Path, tmp_path: Path, key: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "x.pt"

    def check(expected: str) -> None:
        assert expected in refusal(f"training.{key}={path}")

    check("x.pt: no such checkpoint")
    path.mkdir()
    check("x.pt: a folder; name a checkpoint in it")
    path.rmdir()
    no_pytorch = "x.pt: not a VoxFormer checkpoint: it is no whole PyTorch file, or holds more than"
    for content in (b"", b"hello world\n" * 9, (finished / "latest.pt").read_bytes()[:5000]):
        path.write_bytes(content)
        check("x.pt: no x.pt.sha256 beside it, so it cannot be verified")
        with_digest(path)
        check(no_pytorch)
        path.with_name("x.pt.sha256").unlink()
    torch.save(torch.zeros(3), path)
    check("x.pt: no x.pt.sha256 beside it")
    with_digest(path)
    check("x.pt: a PyTorch file, but not a VoxFormer checkpoint")
    mark = tmp_path / "executed"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with_digest(path)
    check(no_pytorch)
    torch.save({"format": "voxformer-checkpoint", "x": Payload(mark)}, path)
    with_digest(path)
    check(no_pytorch)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # the payload was live


@pytest.mark.parametrize("key", ["resume_from", "init_from"])
def test_checkpoints_that_are_damaged_or_of_something_else(
    refusal, finished: Path, tmp_path: Path, key: str
) -> None:  # type: ignore[no-untyped-def]
    whole = finished / "latest.pt"
    path = tmp_path / "x.pt"
    recorded = whole.with_name("latest.pt.sha256").read_text()
    (tmp_path / "x.pt.sha256").write_text(recorded)
    path.write_bytes(whole.read_bytes())
    assert "x.pt.sha256 is damaged or of another file" in refusal(f"training.{key}={path}")
    (tmp_path / "x.pt.sha256").write_text(recorded.replace("latest.pt", "x.pt"))
    content = bytearray(whole.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    assert "x.pt.sha256 says otherwise" in refusal(f"training.{key}={path}")
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "x.pt.sha256 says otherwise" in refusal(f"training.{key}={path}")
    named = f"training.{key}={whole}"
    assert "for another architecture: d_model 32 there, 64 here" in refusal(
        named, "model.d_model=64"
    )
    # The same shapes, but another computation.
    assert "encoder_num_heads 2 there, 4 here" in refusal(named, "model.encoder_num_heads=4")
    state = load_checkpoint(whole)
    del state["digest"]
    for change, expected in (
        ({"format_version": 99}, "format version 99, this VoxFormer reads up to 1; install"),
        ({"model": None}, "not a whole VoxFormer checkpoint: it has no model"),
        ({"config": {}}, "not a whole VoxFormer checkpoint: it has no config.model"),
        ({"tokenizer": None}, "has a list of tokens but no tokenizer"),
    ):
        save_checkpoint(path, {**state, **change})
        assert expected in refusal(f"training.{key}={path}")


def test_what_cannot_be_resumed(refusal, finished: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    latest = f"training.resume_from={finished / 'latest.pt'}"
    assert "of stage ctc, this config is stage hybrid; use training.init_from" in refusal(
        latest, "stage=hybrid"
    )
    assert "best.pt: holds weights only" in refusal(f"training.resume_from={finished / 'best.pt'}")
    state = load_checkpoint(finished / "latest.pt")
    del state["digest"]
    path = tmp_path / "x.pt"
    for change in ({"position": {"foo": 1}}, {"optimizer": {}}, {"model": {}}):
        save_checkpoint(path, {**state, **change})
        assert "x.pt: does not fit this run: " in refusal(f"training.resume_from={path}")


def test_weights_that_do_not_fit_their_config_are_refused(finished: Path, tmp_path: Path) -> None:
    state = load_checkpoint(finished / "best.pt")
    del state["digest"]
    for change, expected in (
        ({"model": {}}, "its weights do not fit its config: "),
        ({"tokens": ["a"]}, "holds 0 pieces, its model.vocab_size is 18"),
    ):
        save_checkpoint(tmp_path / "x.pt", {**state, **change})
        with pytest.raises(CheckpointError, match=expected) as error:
            load_model_checkpoint(tmp_path / "x.pt")
        assert "\n" not in str(error.value)


def test_checkpoint_of_a_newer_version_is_not_set_aside(finished: Path, tmp_path: Path) -> None:
    state = load_checkpoint(finished / "latest.pt")
    del state["digest"]
    save_checkpoint(tmp_path / "latest.pt", {**state, "format_version": 99})
    config = RunConfig.model_validate(yaml.safe_load((finished / "config.yaml").read_text()))
    config.training.checkpoint_dir = str(tmp_path)
    config.training.resume_from = str(tmp_path / "latest.pt")
    with pytest.raises(CheckpointError, match="install a newer voxformer"):
        train(config, "run")
    verify(tmp_path / "latest.pt")


def test_broken_recordings_are_named_and_training_goes_on(
    make_config, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    speech = shutil.copytree(corpus, tmp_path / "speech")
    truncated = (speech / "train3.wav").read_bytes()
    (speech / "train3.wav").write_bytes(truncated[: len(truncated) // 2])
    (speech / "train5.wav").write_bytes(b"not audio" * 500)
    (speech / "dev1.wav").write_bytes(b"")
    config = make_config("ctc", num_workers=1, eval_interval=3)
    config.data.train_manifest = str(speech / "train.jsonl")
    config.data.valid_manifest = str(speech / "dev.jsonl")
    assert train(config, "run") == 0
    log = (tmp_path / "run" / "training.log").read_text()
    for line, times in (
        ("utterance train3 skipped: ", 2),
        ("train3.wav: truncated audio: ", 2),
        ("train5.wav: unreadable audio: ", 2),
        ("validation utterance dev1 skipped: ", 4),
        ("done: ", 1),
    ):
        assert log.count(line) == times, line
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] == 12


def test_nothing_readable_stops_the_run_or_skips_the_evaluation(
    make_config, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    speech = shutil.copytree(corpus, tmp_path / "speech")
    for path in speech.glob("*.wav"):
        path.write_bytes(b"x")
    for stage in ("ctc", "pretrain"):
        config = make_config(stage, run=stage, num_epochs=1)
        config.data.valid_manifest = str(speech / "dev.jsonl")
        assert train(config, stage) == 0
        log = (tmp_path / stage / "training.log").read_text()
        assert log.count("no evaluation: not one validation utterance could be read") == 1
    config = make_config("ctc", max_nonfinite_steps=3)
    config.data.train_manifest = str(speech / "train.jsonl")
    assert train(config, "run") == 4
    log = (tmp_path / "run" / "training.log").read_text()
    assert "3 non-finite steps in a row; the last had utterances none that could be read" in log


def test_metrics_that_a_full_disk_refuses_are_warned_of_once(
    make_config, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    def report(self, *arguments) -> None:  # type: ignore[no-untyped-def]
        if self.position.step == 1:
            self.monitor._metrics.close()
            self.monitor._metrics = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
        original_report(self, *arguments)

    original_report = loop._Run._report
    monkeypatch.setattr(loop._Run, "_report", report)
    assert train(make_config("ctc", log_interval=1), "run") == 0
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("metrics not written: No space left on device; training goes on") == 1


def test_torn_line_of_metrics_does_not_spoil_the_next(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"type": "train", "st')
    assert train(make_config("ctc", max_steps=1), "run") == 0
    first, *rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert first == '{"type": "train", "st'
    assert [json.loads(row)["type"] for row in rows] == ["train", "valid"]


# A connection that was being opened to the dead process is left to Python's garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")
def test_death_of_a_reading_process_is_one_line(make_config, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    original = loop._Run._report

    def report(self, *arguments) -> None:  # type: ignore[no-untyped-def]
        original(self, *arguments)
        if self.position.step == 2:
            for pid in multiprocessing.active_children():
                pid.kill()

    monkeypatch.setattr(loop._Run, "_report", report)
    config = make_config("ctc", num_workers=1, save_interval=1, batch_size=1)
    with pytest.raises(RunError, match=r"a process that reads audio died; .* go on with --resume"):
        train(config, "run")
    # Nothing of the step that was under way is in the checkpoint.
    assert load_checkpoint(tmp_path / "run" / "latest.pt")["step"] >= 1


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers", "twice"),
    [
        (signal.SIGTERM, 0, False),
        (signal.SIGINT, 1, False),
        (signal.SIGTERM, 1, True),
        (signal.SIGINT, 0, True),
    ],
)
def test_signal_saves_and_the_second_leaves_at_once(
    finished: Path, tmp_path: Path, number: signal.Signals, workers: int, twice: bool
) -> None:
    folder = tmp_path / "run"
    values = {
        "training.checkpoint_dir": folder,
        "training.max_steps": "null",
        "training.num_epochs": 5000,
        "training.num_workers": workers,
        "training.keep_epochs_n": 0,
        "data.valid_manifest": "null",
    }
    if twice:  # a step must last longer than it takes to send the second signal
        values |= {"model.d_model": 512, "training.gradient_accumulation_steps": 6}
    command = [sys.executable, "-c", "import sys; from voxformer.cli import main; sys.exit(main())"]
    command += ["train", "--config", str(finished / "config.yaml")]
    for key, value in values.items():
        command += ["--set", f"{key}={value}"]
    helpers: list[int] = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 1/" in line:
                helpers = children(process.pid)
                os.killpg(process.pid, number)  # as Ctrl-C and schedulers do
            if "saving and leaving" in line and twice:
                os.kill(process.pid, number)
    assert process.returncode == 128 + number
    assert len(helpers) >= workers
    assert [pid for pid in helpers if Path(f"/proc/{pid}").exists()] == []
    if twice:
        assert not list(folder.glob("*.pt"))
    else:
        assert load_checkpoint(folder / "latest.pt")["step"] >= 1
