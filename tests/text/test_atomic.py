"""A file is replaced as a whole; a device or a pipe is not a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from voxformer.text.atomic import write_atomically


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "results\n")
    reader.join()
    assert got == ["results\n"]
    assert pipe.is_fifo()


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    # A link, so that a machine whose root runs the tests keeps its device whatever happens.
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_atomically(link, "results\n")
    assert link.is_symlink()
    assert link.is_char_device()
    assert list(tmp_path.iterdir()) == [link]


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_by_name_is_written_to(tmp_path: Path, into: str) -> None:
    code = (
        "from pathlib import Path; from voxformer.text import atomic; import sys; "
        "atomic._replace = None; "  # which would take /dev/stdout away from the machine
        "print('before', flush=True); atomic.write_atomically('/dev/fd/1', 'json\\n')"
    )
    command = [sys.executable, "-c", code]
    if into == "pipe":
        written = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    else:
        with (tmp_path / "out").open("w") as out:
            subprocess.run(command, stdout=out, check=True)
        written = (tmp_path / "out").read_text()
    assert written == "before\njson\n"


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        write_atomically(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_called_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / ("x" * 256)):
        with pytest.raises(OSError, match=r".") as caught:
            write_atomically(path, "text")
        assert caught.value.filename == str(path)
        assert caught.value.filename2 is None
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError) as refused:
        write_atomically(tmp_path / "file" / "x", "text")
    assert refused.value.filename == str(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_name_that_is_no_unicode_is_an_escape_in_json(tmp_path: Path) -> None:
    values = {"audio_filepath": os.fsdecode(b"\xff\xc3\xbc.wav")}
    write_atomically(tmp_path / "a.json", json.dumps(values, ensure_ascii=False))
    assert (tmp_path / "a.json").read_text("utf-8") == '{"audio_filepath": "\\udcffü.wav"}'
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == values
