"""What has a final name at a mirror verifies, whatever cut the transfer; nothing stops training."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from voxformer.cli import main
from voxformer.config import ConfigError, MirrorConfig, load_config
from voxformer.training import mirror as mirroring
from voxformer.training import storage
from voxformer.training.mirror import Mirror, pause_s
from voxformer.training.remote import FarEndError, FarFolder, UnreachableError, open_far_folder
from voxformer.training.transfer import part_name, pull


def save(folder: Path, name: str, content: bytes) -> None:
    storage.write_verified(folder / name, lambda file: file.write(content) and None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one step, a best checkpoint, tokenizer and logs."""
    folder = tmp_path / "run"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokens.txt").write_text("a\n")
    (folder / "config.yaml").write_text("stage: ctc\n")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "training.log").write_text("")
    save(folder, "step_1.pt", b"first" * 999)
    save(folder, "best.pt", b"best 1" * 99)
    return folder


def final_names(far: Path) -> dict[str, bytes]:
    """Content of what has a final name, all of which is checked as sha256sum would."""
    found = {}
    for path in far.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".sha256":
            digests = path.with_name(path.name + ".sha256").read_text()
            assert hashlib.sha256(path.read_bytes()).hexdigest() in digests, path.name
            found[str(path.relative_to(far))] = path.read_bytes()
    return found


class CutFileSystem(LocalFileSystem):
    """Cuts the connection at the n-th thing that is done, half-way through where it has halves."""

    cachable = False
    left = 10**9

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.count()
        file = super()._open(path, mode, **options)
        if mode != "rb":
            write = file.f.write

            def half_then_count(data: bytes) -> int:
                write(data[: len(data) // 2])
                file.f.flush()
                self.count()
                return int(write(data[len(data) // 2 :]))

            file.write = half_then_count
        return file

    def mv(self, *names: Any, **options: Any) -> None:
        self.count()
        super().mv(*names, **options)

    def rm_file(self, path: str) -> None:
        self.count()
        super().rm_file(path)

    def ls(self, *arguments: Any, **options: Any) -> Any:
        self.count()
        return super().ls(*arguments, **options)


def mirror_of(run: Path, far: Path, files: CutFileSystem | None = None, **settings: Any) -> Mirror:
    def open_folder(url: str, timeout_s: float) -> FarFolder:
        return FarFolder(files or LocalFileSystem(), str(far), url)

    return Mirror(MirrorConfig(url=str(far), **settings), run, open_folder)


def test_a_cut_at_any_operation_leaves_only_what_verifies(run: Path, tmp_path: Path) -> None:
    """Cut after cut without a whole pass between, the run going on meanwhile; then one whole."""
    steps = itertools.count(2)
    for whole_before in (False, True):
        far = tmp_path / f"far{whole_before}"
        if whole_before:
            assert mirror_of(run, far).copy()
        cuts = 0
        for cut in range(200):
            newest = f"step_{next(steps)}.pt"
            save(run, newest, b"%d" % cut * 999)
            save(run, "best.pt", b"best %d" % cut * 99)
            with (run / "metrics.jsonl").open("a") as file:
                file.write(f"{cut}\n")
            files = CutFileSystem()
            files.left = cut
            try:
                mirror_of(run, far, files, keep_last_n=2).copy()
            except UnreachableError:
                cuts += 1
            here = final_names(far) if far.exists() else {}
            if cut >= 50 and files.left >= 0:
                break
        assert cuts > 40
        assert files.left >= 0
        assert here["best.pt"] == (run / "best.pt").read_bytes()
        assert here["metrics.jsonl"] == (run / "metrics.jsonl").read_bytes()
        assert here[newest] == (run / newest).read_bytes()
        assert sum(name.startswith("step_") for name in here) == 2
        assert not [p.name for p in far.rglob(".*")]


def test_a_part_is_continued_and_a_wrong_one_is_replaced(run: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    content = (run / "step_1.pt").read_bytes()
    part = far / part_name("step_1.pt", hashlib.sha256(content).hexdigest())
    part.write_bytes(content[:4000])
    sent: list[int] = []
    mirror = mirror_of(run, far)
    passed = mirror._passed
    mirror._passed = lambda count: (sent.append(count), passed(count))[1]  # type: ignore[method-assign]
    assert "step_1.pt" in mirror.copy()
    assert len(content) - 4000 in sent
    assert len(content) not in sent
    shutil.rmtree(far)
    far.mkdir()
    part.write_bytes(b"x" * 4000)
    with pytest.raises(UnreachableError, match=r"step_1\.pt is not there what it is here"):
        mirror_of(run, far).copy()
    assert "step_1.pt" not in final_names(far)
    mirror_of(run, far).copy()
    assert final_names(far)["step_1.pt"] == content


@pytest.mark.parametrize("damage", ["flip", "truncate", "no digest"])
def test_damage_at_the_far_end_is_found_and_repaired(
    run: Path, tmp_path: Path, damage: str
) -> None:
    far = tmp_path / "far"
    mirror = mirror_of(run, far)
    mirror.copy()
    assert mirror.copy() == []
    path = far / "step_1.pt"
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + b"x")
    elif damage == "truncate":
        path.write_bytes(content[:100])
    else:
        storage.digest_path(path).unlink()
    again = mirror_of(run, far) if damage != "truncate" else mirror  # by the listing alone
    assert again.copy() == ["step_1.pt"]
    assert final_names(far)["step_1.pt"] == content


def test_a_damaged_checkpoint_here_is_not_sent(run: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    (run / "step_1.pt").write_bytes(b"damaged")
    assert "step_1.pt" not in mirror_of(run, far).copy()
    assert "step_1.pt" not in final_names(far)


def test_the_last_steps_are_kept_and_newer_ones_left_alone(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, logged: list[str]
) -> None:
    far = tmp_path / "far"
    for step in range(1, 6):
        save(run, f"step_{step}.pt", b"%d" % step)
        mirror_of(run, far, keep_last_n=2).copy()
    steps = {name for name in final_names(far) if name.startswith("step")}
    assert steps == {"step_4.pt", "step_5.pt"}
    storage.remove_verified(run / "step_5.pt")
    mirror = mirror_of(run, far, keep_last_n=1)
    assert mirror.copy() == []
    mirror.copy()
    assert sum("has step_5.pt, newer than this run's" in line for line in logged) == 1
    assert (far / "step_5.pt").exists()


def test_pull_takes_the_newest_that_verifies(run: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    for step in (1, 20, 100):
        save(run, f"step_{step}.pt", b"%d" % step)
        mirror_of(run, far).copy()
    (far / "step_100.pt").write_bytes(b"damaged")
    back = tmp_path / "back"
    back.mkdir()
    pulled = pull(open_far_folder(str(far)), back)
    assert pulled.checkpoint == back / "step_20.pt"
    for name in ("step_20.pt", "latest.pt", "best.pt"):
        storage.verify(back / name)
    assert (back / "latest.pt").read_bytes() == b"20"
    assert (back / "tokenizer" / "tokens.txt").read_text() == "a\n"
    assert not list(back.glob("step_100*"))
    pulled.undo()
    assert not [path for path in back.rglob("*") if path.is_file()]


def test_nothing_that_verifies_is_an_error(run: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    mirror_of(run, far).copy()
    (far / "step_1.pt").write_bytes(b"damaged")
    with pytest.raises(FarEndError, match=r"step_1\.pt is not what its digest says"):
        pull(open_far_folder(str(far)), tmp_path)
    (far / "step_1.pt").unlink()
    with pytest.raises(FarEndError, match=r"holds no step_N\.pt"):
        pull(open_far_folder(str(far)), tmp_path)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Lines that training logs, which do not reach the root logger."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("voxformer.training")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_far_end_that_comes_back_was_warned_of_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    far = tmp_path / "unmounted" / "far"
    failures: list[int] = []

    def comes_back_after_three(count: int) -> float:
        failures.append(count)
        if count == 3:
            far.parent.mkdir()
        return 0.0

    monkeypatch.setattr(mirroring, "pause_s", comes_back_after_three)
    with mirror_of(run, far) as mirror:
        pass
    assert failures == [1, 2, 3]
    assert sum("is it mounted?; training goes on" in line for line in logged) == 1
    assert sum("up to date again after 3 failures" in line for line in logged) == 1
    assert final_names(far).keys() >= {"step_1.pt", "best.pt", "config.yaml"}
    state = json.loads((run / "mirror.json").read_text())
    assert (state["status"], state["step"], state["pending_bytes"]) == ("finished", 1, 0)
    assert "is it mounted?" in state["last_error"]
    metrics = mirror.metrics()
    assert metrics["mirror_step"] == 1
    assert metrics["mirror_age_s"] >= 0
    assert metrics["mirror_error"] is None


def test_the_wait_at_the_end_is_bounded(run: Path, tmp_path: Path, logged: list[str]) -> None:
    with mirror_of(run, tmp_path / "unmounted" / "far", final_minutes=0.0001):
        pass
    assert any("not up to date (it has no checkpoint): " in line for line in logged)


def test_pauses_double_up_to_five_minutes() -> None:
    for failures, middle in ((1, 2.0), (2, 4.0), (5, 32.0), (50, 300.0)):
        for _ in range(20):
            assert 0.5 * middle <= pause_s(failures) <= 1.5 * middle


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_at_the_far_end_leaves_what_verifies(run: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        mirror_of(run, disk / "far").copy()
        before = final_names(disk / "far")
        save(run, "step_2.pt", os.urandom(400_000))
        with pytest.raises(UnreachableError, match="No space left"):
            mirror_of(run, disk / "far").copy()
        assert final_names(disk / "far") == before
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        assert "step_2.pt" in mirror_of(run, disk / "far").copy()
        assert final_names(disk / "far")["step_2.pt"] == (run / "step_2.pt").read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SECRETS = [
    ("sftp://me:pa55word@host/run", "should hold no password"),
    ("s3://key:pa55word@bucket/run", "should hold no password"),
    ("https://host/run?token=pa55word", "should have no query"),
    ("sftp://me:pa55/word@host/run", "is not a URL"),
]


@pytest.mark.parametrize(("url", "expected"), SECRETS)
@pytest.mark.parametrize("key", ["mirror.url", "training.resume_from"])
def test_a_url_with_a_secret_is_refused_and_not_shown(
    tmp_path: Path, url: str, expected: str, key: str
) -> None:
    path = tmp_path / "c.yaml"
    section, name = key.split(".")
    path.write_text(f"{section}:\n  {name}: {url}\n")
    for overrides in ([], [f"{key}={url}"]):
        with pytest.raises(ConfigError, match=expected) as error:
            load_config(path, overrides)
        assert "pa55" not in str(error.value)


def test_the_command_line_refuses_secrets_too(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for places in (
        ["mirror", str(run), "sftp://me:pa55word@host/run"],
        ["pull", "sftp://me:pa55word@host/run", str(run)],
    ):
        assert main(["checkpoints", *places]) == 2
        error = capsys.readouterr().err
        assert "should hold no password" in error
        assert "pa55word" not in error


def test_a_place_that_is_empty_is_not_this_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for places in (["mirror", str(tmp_path / run), ""], ["pull", "", "new"]):
        assert main(["checkpoints", *places]) == 2
        assert "the place of the mirror is empty; name a folder" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_mirror_and_pull_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far, back = tmp_path / "far", tmp_path / "back"
    assert main(["checkpoints", "mirror", str(run), str(far)]) == 0
    assert "step_1.pt: sent, verified there" in capsys.readouterr().out
    assert main(["checkpoints", "pull", str(far), str(back)]) == 0
    assert "latest.pt: fetched, verified" in capsys.readouterr().out
    storage.verify(back / "latest.pt")
    assert main(["checkpoints", "pull", str(far), str(back)]) == 2
    assert "already holds checkpoints" in capsys.readouterr().err
    assert main(["checkpoints", "pull", str(far)]) == 2
    assert "pull takes URL DIR" in capsys.readouterr().err
    assert main(["checkpoints", "mirror", str(run), str(run / "below")]) == 2
    assert "a mirror is elsewhere" in capsys.readouterr().err
