"""What a hurried, unlucky or hostile user types gives one line, exit code 2 and no files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from voxformer.audio.io import AudioLibraryError
from voxformer.cli import COMMANDS, main, train
from voxformer.config import ConfigError

MANIFEST = '{"audio_filepath": "a.wav", "duration": 1, "text": "hi"}\n'
FILES = ("decoder.onnx", "decoder_step.onnx", "encoder.onnx", "tokens.txt")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command in this process."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, but for three inputs."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a model\n")
    Path("m.jsonl").write_text(MANIFEST)
    Path("empty.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("trian", "invalid choice: 'trian'"),
        ("train", "the following arguments are required: --config"),
        ("train --config nope --bogus", "unrecognized arguments: --bogus"),
        ("train --config nope", "nope: no such config"),
        ("train --config .", ".: a folder, not a config"),
        (f"train --config {'x' * 300}", "file name too long"),
        ("prepare", "required: kind, --out"),
        ("prepare tedlium x --out y", "invalid choice: 'tedlium'"),
        ("prepare librispeech --out x", "name the corpus"),
        ("prepare librispeech nope --out x", "nope: no such folder"),
        ("prepare librispeech . --out x", "no <speaker>/<chapter>/*.trans.txt here"),
        ("prepare kaldi nope --out x", "nope/wav.scp: no such file"),
        ("prepare kaldi file --out x", "file/wav.scp: not readable UTF-8 text: Not a directory"),
        ("prepare manifest nope --out x", "nope: no such manifest"),
        ("prepare manifest . --out x", ".: not a readable UTF-8 manifest: Is a directory"),
        ("prepare manifest empty.jsonl --out x", "empty: no usable utterance"),
        ("prepare manifest m.jsonl --out x", "a.wav: no such audio file"),
        ("prepare manifest m.jsonl --out .", "m.jsonl: --out . would replace it"),
        ("prepare manifest m.jsonl --out x --dev-speakers -1", "'-1' is not a whole number of at"),
        ("tokenizer --manifest m.jsonl --out t", "required: --vocab-size"),
        ("tokenizer --manifest nope --vocab-size 9 --out t", "nope: no such manifest"),
        ("tokenizer --manifest empty.jsonl --vocab-size 9 --out t", "the manifest is empty"),
        ("tokenizer --manifest m.jsonl --vocab-size x --out t", "'x' is not a whole number"),
        ("tokenizer --manifest m.jsonl --vocab-size -5 --out t", "'-5' is not a whole number"),
        ("tokenizer --manifest m.jsonl --vocab-size 999 --out t", "set vocab_size to 4 or less"),
        ("tokenizer --manifest m.jsonl --vocab-size 4 --out file", "file: file exists"),
        ("evaluate --model nope --manifest m.jsonl", "nope: no such checkpoint or bundle"),
        ("evaluate --model file --manifest m.jsonl", "file: no file.sha256 beside it"),
        ("evaluate --model . --manifest m.jsonl", ".: no bundle.json there"),
        ("evaluate --model . --manifest nope", "nope: no such manifest"),
        ("evaluate --model . --manifest m.jsonl --mode foo", "invalid choice: 'foo'"),
        ("evaluate --model . --manifest m.jsonl --batch-size 0", "'0' is not a whole number"),
        ("evaluate --model . --manifest m.jsonl --ctc-weight 3", "'3' is not a number from 0"),
        ("evaluate --model . --manifest m.jsonl --ctc-weight nan", "'nan' is not a number from"),
        ("transcribe --model .", "required: AUDIO"),
        ("transcribe a.wav --model nope", "nope: no bundle.json there"),
        ("transcribe a.wav --model .", "no bundle.json there"),
        ("transcribe a.wav --model file", "file: a file, not a bundle"),
        ("transcribe a.wav --model . --threads -1", "'-1' is not a whole number of at least 0"),
        ("transcribe - --raw 1e4 --model .", "'1e4' is not a whole number of 1 to 10000000"),
        ("transcribe - --raw 16000000000 --model .", "is not a whole number of 1 to 10000000"),
        (
            "transcribe a/x.wav b/x.wav --model . --out y",
            "a/x.wav and b/x.wav would write the same",
        ),
        ("export", "no run under checkpoints/ has a best.pt"),
        ("export --checkpoint nope", "nope: no such checkpoint"),
        ("export --checkpoint .", ".: a folder; name a checkpoint in it"),
        ("export --checkpoint file", "file: no file.sha256 beside it"),
        ("checkpoints list nope", "nope: no such folder"),
        ("checkpoints verify .", ".: no checkpoints here"),
        ("checkpoints prune . --keep 0", "'0' is not a whole number of at least 1"),
        ("checkpoints burn .", "invalid choice: 'burn'"),
        ("doctor now", "unrecognized arguments: now"),
        ("quickstart --recipe nope --out q", "nope/stage1: no such config"),
    ],
)
def test_bad_command_is_one_line_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], place: Path, command: str, expected: str
) -> None:
    code, error = run(capsys, *command.split(" "))
    assert code == 2
    assert expected in error
    assert len(error.splitlines()) == 1, error
    assert error.startswith("voxformer")
    left = {path.name for path in place.rglob("*")}
    assert left <= {"file", "m.jsonl", "empty.jsonl"}
    assert Path("m.jsonl").read_text() == MANIFEST


def test_quickstart_finds_a_wrong_key_before_it_makes_speech(
    capsys: pytest.CaptureFixture[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stage in (1, 2, 3):
        path = place / "configs" / "mine" / f"stage{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("model: {d_model: 64}\n")
    (place / "configs" / "mine" / "stage4.yaml").write_text("model: {d_modl: 64}\n")
    monkeypatch.setattr("voxformer.data.synthetic.synthesise", pytest.fail)
    code, error = run(capsys, "quickstart", "--recipe", "mine", "--out", "q")
    assert code == 2
    assert "stage4.yaml:1: model.d_modl: unknown key; did you mean d_model?" in error
    assert not Path("q").exists()


@pytest.fixture
def bundle(place: Path) -> Path:
    """A bundle.json that vouches for files of no meaning: enough to be refused for a reason."""
    folder = place / "bundle"
    folder.mkdir()
    files = {}
    for name in FILES:
        (folder / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        files[name] = {"sha256": digest, "bytes": len(name)}
    values = {"format": "voxformer-bundle", "format_version": 1, "files": files}
    (folder / "bundle.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("command", ["transcribe a.wav", "evaluate --manifest m.jsonl"])
def test_unusable_bundle_is_one_line(
    capsys: pytest.CaptureFixture[str], bundle: Path, command: str
) -> None:
    arguments = [*command.split(), "--model", str(bundle)]
    values = json.loads((bundle / "bundle.json").read_text())

    def error() -> str:
        code, text = run(capsys, *arguments)
        assert code == 2
        assert len(text.splitlines()) == 1, text
        return text

    assert "bundle.json: incomplete or of another shape" in error()
    (bundle / "decoder.onnx").write_text("another")
    assert "decoder.onnx: its SHA-256 is not the one in bundle.json" in error()
    (bundle / "encoder.onnx").unlink()
    (bundle / "decoder.onnx").write_text("decoder.onnx")
    assert "encoder.onnx: missing" in error()
    (bundle / "bundle.json").write_text(json.dumps({**values, "format_version": 6}))
    assert "format version 6, this VoxFormer reads up to 5; install a newer" in error()
    (bundle / "bundle.json").write_bytes(b"\xff\xfe")
    assert "bundle.json: not readable JSON" in error()


def test_help_is_quick_and_has_an_example() -> None:
    # One process for all: what a help must not do is import torch, which alone takes seconds.
    script = """
import contextlib, io, sys
from voxformer.cli import COMMANDS, main
for arguments in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(arguments)
    text = out.getvalue()
    assert len(arguments) == 1 or f"example:\\n  voxformer {arguments[0]}" in text, text
    assert text.startswith(("usage: voxformer", "voxformer ")), text
heavy = {"torch", "numpy", "onnxruntime", "pydantic", "yaml", "soundfile", "sentencepiece", "rich"}
print(len(COMMANDS), sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"{len(COMMANDS)} []\n"


def test_reader_that_leaves_is_no_error() -> None:
    script = "import sys; from voxformer.cli import main; sys.exit(main(['doctor']))"
    command = [sys.executable, "-c", script]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("closed", "code", "line"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&-", 2, "voxformer transcribe: nope: no bundle.json there"),
    ],
)
def test_standard_streams_may_be_closed(place: Path, closed: str, code: int, line: str) -> None:
    command = "checkpoints list runs" if code == 0 else "transcribe - --model nope"
    Path("runs").mkdir()
    Path("runs/step_1.pt").touch()
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m voxformer {command} {closed}', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (code, bool(line)), done.stderr
    assert done.stderr.startswith(line)


def test_a_name_that_standard_output_cannot_hold_is_one_line(place: Path) -> None:
    Path("runs").mkdir()
    Path("runs/\u00fc.pt").touch()
    Path(os.fsdecode(b"runs/\xff.pt")).touch()

    def listed(encoding: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "voxformer", "checkpoints", "list", "runs"],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
        )

    done = listed("utf-8")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\xff.pt" in done.stdout
    for encoding in ("ascii", "cp1251"):
        done = listed(encoding)
        assert done.returncode == 2
        line = f"voxformer checkpoints: standard output is {encoding}, without '\\xfc'; set PYTHON"
        assert done.stderr.decode().startswith(line)
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "out: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".x", None, "x"), 2, "x: is a dir"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 3, "out: no space left on"),
        (ConfigError("a: wrong\nb: wrong"), 2, "a: wrong\nvoxformer train: b: wrong"),
        (ModuleNotFoundError("no", name="torch"), 2, "needs torch: pip install 'voxformer[train]'"),
        (AudioLibraryError("reading audio needs soundfile: pip"), 2, "reading audio needs sound"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_users_errors_are_lines(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(train, "run", _raiser(error))
    found, text = run(capsys, "train", "--config", "x")
    assert found == code
    assert text.startswith(f"voxformer train: {line}" if line else "")
    assert bool(text) == bool(line)


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), UnicodeDecodeError("a", b"", 0, 1, "b"), ImportError("cannot import x")],
)
def test_bugs_are_not_dressed_up_as_users_errors(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(train, "run", _raiser(error))
    with pytest.raises(type(error)):
        main(["train", "--config", "x"])


def _raiser(error: BaseException):  # type: ignore[no-untyped-def]
    def run(args: object) -> int:
        raise error

    return run
