"""`voxformer transcribe` as users run it, on what they give it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.cli import main
from voxformer.cli.recordings import find_sources, shown

RATE = 16000


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, seconds=0.5, rate=RATE, channels=1, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(path)))
    samples = random.uniform(-0.3, 0.3, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)
    return Path(path)


@pytest.fixture
def transcribe(bundle, capsys):
    """Runs the command; gives its exit code, what it printed and its errors, line by line."""

    def run(*arguments):
        code = main(["transcribe", *map(str, arguments), "--model", str(bundle), "--threads", "1"])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return run


def command(bundle, *arguments):
    return [sys.executable, "-m", "voxformer", "transcribe", *arguments, "--model", str(bundle)]


def test_a_folder_is_searched_and_its_shape_kept(place, transcribe):
    for name in ("a.wav", "x/a.FLAC", "x/y/b.ogg", ".hidden/c.wav", ".d.wav"):
        write(place / "in" / name)
    (place / "in" / "notes.txt").write_text("no audio")
    code, printed, errors = transcribe("in", "--out", "texts", "--format", "json")
    assert (code, printed, errors) == (0, "", [])
    written = sorted(str(p.relative_to("texts")) for p in Path("texts").rglob("*") if p.is_file())
    assert written == ["a.json", "x/a.json", "x/y/b.json"]
    values = json.loads(Path("texts/a.json").read_text("utf-8"))
    assert {"text", "words", "duration", "segments"} <= set(values)
    for word in values["words"]:
        assert 0 <= word["start"] <= word["end"]
        assert 0 <= word["confidence"] <= 1
    code, printed, _ = transcribe("in", "--format", "json")
    assert [row["audio"] for row in json.loads(printed)] == [
        "in/a.wav",
        "in/x/a.FLAC",
        "in/x/y/b.ogg",
    ]


def test_one_bad_file_is_one_line_and_the_others_go_on(place, transcribe):
    write("good.wav")
    write("stereo.wav", rate=8000, channels=2)
    write("fine.flac", rate=96000, subtype="PCM_24")
    Path("empty.wav").touch()
    write("none.wav", seconds=0)
    Path("text.wav").write_text("this is no sound\n" * 50)
    torn = write("torn.flac", seconds=3)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    Path("folder").mkdir()
    Path("dangling.wav").symlink_to("nowhere")
    bad = ["empty.wav", "none.wav", "text.wav", "torn.flac", "dangling.wav", "gone.wav", "folder"]
    good = ["stereo.wav", "good.wav", "fine.flac"]
    code, printed, errors = transcribe(*bad[:3], *good, *bad[3:], "--out", "o", "--format", "vtt")
    assert (code, printed) == (2, "")
    assert sorted(path.name for path in Path("o").iterdir()) == [
        "fine.vtt",
        "good.vtt",
        "stereo.vtt",
    ]
    assert len(errors) == len(bad)
    for name in bad:
        [line] = [line for line in errors if name in line]
        assert line.startswith("voxformer transcribe: ")
    code, printed, _ = transcribe(*bad, *good)
    assert [line.split("\t")[0] for line in printed.splitlines()] == good
    assert code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(place, transcribe):
    write("secret.wav").chmod(0)
    write("in/good.wav")
    write("in/locked/x.wav").parent.chmod(0)
    code, printed, errors = transcribe("secret.wav", "in")
    Path("in/locked").chmod(0o755)
    assert code == 2
    assert printed.startswith("in/good.wav\t")
    assert [e.endswith("permission denied") or "Permission" in e for e in errors] == [True, True]


def test_folders_that_cannot_be_read_are_said(place, monkeypatch):
    """As root nothing is unreadable, so `os.walk` is told so."""

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", "in/locked"))
        yield "in", [], ["a.wav"]

    monkeypatch.setattr(os, "walk", walk)
    Path("in").mkdir()
    said: list[str] = []
    [source] = find_sources(["in"], said.append)
    assert source.result == Path("a")
    assert said == ["in/locked: permission denied"]

    def refused(folder, onerror):
        onerror(PermissionError(13, "Permission denied", "in"))
        return []

    monkeypatch.setattr(os, "walk", refused)
    assert find_sources(["in"], said.append) == []
    assert said[1:] == ["in: permission denied"]


def test_nothing_to_do_does_not_load_the_model(place, capsys):
    Path("bare").mkdir()
    assert main(["transcribe", "bare", "--model", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("voxformer transcribe: bare: no audio in this folder (.aif,")
    assert said.count("\n") == 1


def test_results_that_would_overwrite_each_other_are_refused(place, transcribe):
    write("a/x.wav")
    write("b/x.wav")
    write("a/x.flac")
    for arguments in (("a/x.wav", "b/x.wav"), ("a",), ("a/x.wav", "b")):
        code, _, errors = transcribe(*arguments, "--out", "o")
        assert code == 2
        assert "would write the same file" in errors[0]
    assert not Path("o").exists()
    write("both/a/x.wav")
    write("both/b/x.wav")
    assert transcribe("both", "--out", "o")[0] == 0
    assert Path("o/a/x.txt").is_file()
    assert Path("o/b/x.txt").is_file()
    assert transcribe("b/x.wav", "b/x.wav", "--out", "o")[0] == 0  # the same result twice


def test_earlier_results_are_replaced_as_a_whole(place, transcribe):
    write("a.wav")
    Path("o").mkdir()
    Path("o/a.txt").write_text("before " * 1000)
    assert transcribe("a.wav", "--out", "o")[0] == 0
    assert "before" not in Path("o/a.txt").read_text()
    assert [path.name for path in Path("o").iterdir()] == ["a.txt"]


def test_out_that_is_a_file_is_one_line(place, transcribe):
    write("a.wav")
    Path("o").touch()
    code, _, errors = transcribe("a.wav", "--out", "o")
    assert code == 2
    assert errors == ["voxformer transcribe: o: file exists"]


def test_names_of_any_bytes_can_be_printed(place, transcribe):
    write("a.wav")
    odd = os.fsdecode(b"\xff\n\t.wav")
    shutil.copy("a.wav", odd)
    code, printed, errors = transcribe(odd, "a.wav", os.fsdecode(b"\xfe.wav"))
    assert code == 2
    assert printed.splitlines()[0].startswith("\ufffd\\n\\t.wav\t")
    assert len(errors) == 1
    assert shown("ü.wav") == "ü.wav"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_standard_input_is_a_recording(place, bundle, transcribe, suffix):
    path = write(f"a.{suffix}", rate=8000)
    _, expected, _ = transcribe(path)
    with path.open("rb") as file:
        done = subprocess.run(command(bundle, "-"), stdin=file, capture_output=True)
    assert done.stderr == b""
    assert done.stdout.decode() == expected
    assert done.returncode == 0


def test_raw_samples_on_standard_input(place, bundle, transcribe):
    path = write("a.wav", rate=8000, subtype="PCM_16")
    _, expected, _ = transcribe(path)
    samples, _ = soundfile.read(path, dtype="int16")
    raw = command(bundle, "-", "--raw", "8000")
    done = subprocess.run(raw, input=samples.astype("<i2").tobytes(), capture_output=True)
    assert (done.returncode, done.stdout.decode()) == (0, expected)
    for data, reason in ((b"", b"empty audio"), (b"abc", b"middle of a sample")):
        done = subprocess.run(raw, input=data, capture_output=True)
        assert done.returncode == 2
        assert done.stderr.startswith(b"voxformer transcribe: stdin: ")
        assert reason in done.stderr
        assert done.stderr.count(b"\n") == 1
    done = subprocess.run(command(bundle, "-"), input=b"no sound", capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"voxformer transcribe: stdin: unreadable audio")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.wav", "--raw", "8000"), "--raw is of standard input: name -"),
        (("-", "-"), "standard input can be read once"),
    ],
)
def test_standard_input_asked_for_in_the_wrong_way(place, transcribe, arguments, message):
    code, _, errors = transcribe(*arguments)
    assert code == 2
    assert message in errors[0]


def test_a_reader_that_leaves_ends_the_command_quietly(place, bundle):
    for number in range(12):
        write(f"in/{number}.wav")
    process = subprocess.Popen(
        command(bundle, "in"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    with process.stderr as errors:
        process.stdout.close()
        assert errors.read() == b""
    assert process.wait() == 141


@pytest.mark.slow
def test_an_interrupt_leaves_whole_files_only(place, bundle):
    for number in range(300):
        write(f"in/{number}.wav", seconds=5)
    process = subprocess.Popen(
        [*command(bundle, "in", "--out", "o", "--format", "json"), "--mode", "attention"],
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list(Path(place).glob("o/*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait() == 130
    written = list(Path("o").iterdir())
    assert 0 < len(written) < 300
    for path in written:
        assert json.loads(path.read_text("utf-8"))["duration"] == 5.0


def test_progress_is_for_terminals(place, bundle):
    """Over a pseudo-terminal it shows, and is wiped away; results stay as they are."""
    write("in/a.wav")
    write("in/b.wav")
    reader, terminal = pty.openpty()
    done = subprocess.run(command(bundle, "in"), stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    said = os.read(reader, 65536).decode()
    os.close(reader)
    assert done.stdout.count(b"\n") == 2
    assert " of 2 recordings" in said
    assert said.endswith("\r\x1b[K")
