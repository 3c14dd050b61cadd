"""Invariant 6: a file under its final name is complete and verifiable."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from voxformer.training import storage
from voxformer.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def write(path: Path, content: bytes) -> str:
    return storage.write_verified(path, lambda file: file.write(content) and None)


def test_digest_file_is_in_the_format_of_sha256sum(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.pt", b"content")
    assert digest == hashlib.sha256(b"content").hexdigest()
    assert (tmp_path / "a.pt.sha256").read_text() == f"{digest}  a.pt\n"
    assert storage.verify(tmp_path / "a.pt") == digest


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.write_verified(path, fail)
    assert path.read_bytes() == b"old"
    storage.verify(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "a.pt.sha256"]


@pytest.mark.parametrize(
    "stopped_by",
    [RuntimeError("DataLoader worker (pid 1) is killed by signal"), KeyboardInterrupt()],
    ids=["dead reader", "interrupt"],
)
def test_what_stops_a_save_is_what_it_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException
) -> None:
    """Not torch's complaint about the archive that was thereby cut short."""
    write_all = storage._HashingWriter.write
    writes = 0

    def write_until_stopped(self, data: bytes) -> int:  # type: ignore[no-untyped-def]
        nonlocal writes
        writes += 1
        if writes == 4:
            raise stopped_by
        return write_all(self, data)

    monkeypatch.setattr(storage._HashingWriter, "write", write_until_stopped)
    state = {"model": {str(i): torch.zeros(4096) for i in range(8)}}
    with pytest.raises(type(stopped_by), match=r"DataLoader worker|^$"):
        save_checkpoint(tmp_path / "a.pt", state)
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_a_kill_at_any_step_leaves_a_verifiable_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool, linked: bool
) -> None:
    """Stop at the n-th call that changes the disk, for every n until the write completes."""
    calls = 0
    limit = 0

    def counted(function):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls > limit:
                raise Killed
            return function(*arguments, **options)

        return call

    source = tmp_path / "source.pt"
    write(source, b"new")
    for name in ("fsync", "replace", "link", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    outcomes = set()
    for limit in range(1, 60):
        folder = tmp_path / f"{limit}"
        folder.mkdir()
        path = folder / "a.pt"
        calls = -1000
        if replacing:
            write(path, b"old")
        calls = 0
        try:
            if linked:
                storage.link_verified(source, path)
            else:
                write(path, b"new")
        except Killed:
            finished = False
        else:
            finished = True
        if path.exists():
            storage.verify(path)
            outcomes.add(path.read_bytes())
        else:
            outcomes.add(None)
        if finished:
            break
    assert finished
    assert path.read_bytes() == b"new"
    assert outcomes == ({b"old", b"new"} if replacing else {None, b"new"})


def test_kills_in_a_row_before_the_rename_leave_a_verifiable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    write(path, b"old")
    replace = os.replace

    def killed_at_the_last(source: str, target: str) -> None:
        if Path(target) == path:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed_at_the_last)
    for content in (b"new", b"newer", b"new"):
        with pytest.raises(Killed):
            write(path, content)
        storage.verify(path)
    monkeypatch.setattr(os, "replace", replace)
    digest = write(path, b"newest")
    assert storage.recorded_digests(path) == [digest]


@pytest.mark.parametrize("damage", ["flip", "truncate", "append"])
def test_any_damage_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"stage": "ctc", "model": {"w": torch.arange(100.0)}})
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        at = int(torch.randint(len(content), (1,), generator=generator))
        changed = {
            "flip": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            "truncate": content[:at],
            "append": content + b"x",
        }[damage]
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="SHA-256"):
            load_checkpoint(path)


def test_a_file_without_a_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="cannot be verified"):
        load_checkpoint(path)
