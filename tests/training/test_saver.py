"""Saving in the background: what is written is a snapshot, and no save is lost."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from voxformer.training import saver as saving
from voxformer.training import storage
from voxformer.training.checkpoint import CheckpointFolder, load_checkpoint
from voxformer.training.saver import CheckpointSaver
from voxformer.training.snapshot import Snapshot


def state(value: float) -> dict[str, Any]:
    model = {"w": torch.full((1000,), float(value))}
    return {"stage": "ctc", "step": int(value), "config": {"model": {}}, "model": model}


def value(path: Path) -> float:
    return float(load_checkpoint(path)["model"]["w"].mean())


class Disk:
    """Stands between the saver and the disk: holds writes back, or has them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.error: Exception | None = None
        write = storage._HashingWriter.write

        def held(writer: storage._HashingWriter, data: bytes) -> int:
            self.reached.set()
            assert self.open.wait(30)
            if self.error is not None:
                raise self.error
            return write(writer, data)

        monkeypatch.setattr(storage._HashingWriter, "write", held)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


MakeSaver = Callable[..., CheckpointSaver]


@pytest.fixture
def make_saver(tmp_path: Path, disk: Disk) -> Iterator[MakeSaver]:
    made: list[CheckpointSaver] = []

    def make(minutes: float = 60.0) -> CheckpointSaver:
        saver = CheckpointSaver(CheckpointFolder(tmp_path, 2, 1), minutes)
        made.append(saver)
        return saver.__enter__()

    yield make
    disk.open.set()
    for saver in made:
        saver.__exit__(SystemExit, SystemExit(), None)
        assert not saver._thread.is_alive()


def never() -> bool:
    return False


def at_once() -> bool:
    return True


def test_what_training_does_after_the_copy_is_not_in_the_file(
    make_saver: MakeSaver, disk: Disk, tmp_path: Path
) -> None:
    parameter = torch.nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    expected = {"w": parameter.detach().clone()}
    average = optimizer.state[parameter]["exp_avg"].clone()
    saver = make_saver()
    disk.open.clear()
    saver.save_step(1, {**state(1), "model": {"w": parameter}, "optimizer": optimizer.state_dict()})
    assert disk.reached.wait(30)
    optimizer.step()
    assert not torch.equal(parameter, expected["w"])
    disk.open.set()
    assert saver.finish(never)
    saved = load_checkpoint(tmp_path / "latest.pt")
    assert torch.equal(saved["model"]["w"], expected["w"])
    assert torch.equal(saved["optimizer"]["state"][0]["exp_avg"], average)


def test_a_second_snapshot_shares_memory_as_its_state_does_and_reuses_the_first() -> None:
    weight = torch.arange(6.0).view(2, 3)
    source = {"model": {"tied": weight, "again": weight, "rows": weight.T}, "betas": (0.9, 0.98)}
    snapshot = Snapshot()
    first = snapshot.take(source)
    assert first["model"]["tied"] is first["model"]["again"]
    assert torch.equal(first["model"]["rows"], weight.T)
    assert first["betas"] == (0.9, 0.98)
    address = first["model"]["tied"].data_ptr()
    assert address != weight.data_ptr()
    weight += 1
    assert first["model"]["tied"][0, 0] == 0
    assert snapshot.take(source)["model"]["tied"].data_ptr() == address


@pytest.mark.parametrize("tensors", [1, 300])
def test_the_size_that_is_coming_is_known_before_the_write(tmp_path: Path, tensors: int) -> None:
    snapshot = Snapshot()
    model = {f"encoder.blocks.layers.{i}.weight": torch.rand(257) for i in range(tensors)}
    copied = snapshot.take({**state(1), "model": model})
    CheckpointFolder(tmp_path, 1, 1).save_step(1, copied)
    size = (tmp_path / "step_1.pt").stat().st_size
    assert size <= snapshot.file_bytes <= size + 64 * 1024 + 512 * tensors


def test_a_save_waits_for_the_one_that_is_being_written_and_both_get_there(
    make_saver: MakeSaver, disk: Disk, tmp_path: Path
) -> None:
    saver = make_saver()
    disk.open.clear()
    saver.save_step(1, state(1))
    assert disk.reached.wait(30)
    second = threading.Thread(target=saver.save_step, args=(2, state(2)))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    disk.open.set()
    second.join(30)
    assert saver.time_stalled_s >= 0.2
    assert saver.finish(never)
    assert (value(tmp_path / "step_1.pt"), value(tmp_path / "step_2.pt")) == (1, 2)
    assert value(tmp_path / "latest.pt") == 2
    assert saver.saved_step == 2


def test_best_and_step_do_not_wait_for_each_other_and_are_written_in_order(
    make_saver: MakeSaver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    place = storage.place_verified

    def noting(temporary: Path, path: Path, digest: str) -> None:
        order.append(path.name)
        place(temporary, path, digest)

    monkeypatch.setattr(storage, "place_verified", noting)
    saver = make_saver()
    disk.open.clear()
    saver.save_step(1, state(1), epoch=1)
    saver.save_best(1, state(1))
    disk.open.set()
    assert saver.finish(never)
    saver.save_best(2, state(2))
    saver.save_step(2, state(2))
    assert saver.finish(never)
    first = ["step_1.pt", "latest.pt", "epoch_1.pt", "best.pt"]
    assert order == [*first, "best.pt", "step_2.pt", "latest.pt"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error;"),
        (ValueError("a bug"), "ValueError: a bug;"),
        (MemoryError(), "MemoryError: ;"),
    ],
    ids=["disk", "bug", "memory"],
)
def test_an_error_in_the_thread_is_reported_and_the_save_tried_again(
    make_saver: MakeSaver,
    disk: Disk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    said: str,
) -> None:
    monkeypatch.setattr(saving, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(saving.logger, "propagate", True)
    caplog.set_level("INFO", saving.logger.name)
    saver = make_saver()
    disk.error = error
    saver.save_step(1, state(1))
    while saver.metrics()["unsaved_s"] == 0:
        assert disk.reached.wait(30)
    disk.error = None
    assert saver.finish(never)
    assert value(tmp_path / "latest.pt") == 1
    assert f"step_1.pt not saved: {said} nothing is saved, the next attempt is in" in caplog.text
    assert "step_1.pt is saved, after " in caplog.text
    assert saver.metrics()["unsaved_s"] == 0


def test_a_save_replaces_one_that_failed_since_it_is_further(
    make_saver: MakeSaver, disk: Disk, tmp_path: Path
) -> None:
    saver = make_saver()
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    saver.save_best(1, state(1))  # nothing to resume is there yet, so it has to wait
    saver.save_step(1, state(1))
    saver.save_step(2, state(2))
    assert not saver.finish(at_once)
    assert not list(tmp_path.iterdir())
    disk.error = None
    assert saver.finish(at_once)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "best.pt",
        "latest.pt",
        "step_2.pt",
    ]


def test_a_run_is_overdue_once_saving_has_failed_for_too_long(
    make_saver: MakeSaver, disk: Disk
) -> None:
    saver = make_saver(minutes=0.0)
    assert not saver.overdue
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    saver.save_step(1, state(1))
    assert not saver.finish(never)
    assert saver.overdue
    disk.error = None
    assert saver.finish(never)
    assert not saver.overdue


def test_leaving_at_once_abandons_the_write_and_leaves_no_part(
    make_saver: MakeSaver, disk: Disk, tmp_path: Path
) -> None:
    saver = make_saver()
    disk.open.clear()
    saver.save_step(1, state(1))
    assert disk.reached.wait(30)
    release = threading.Timer(0.2, disk.open.set)
    release.start()
    saver.__exit__(SystemExit, SystemExit(143), None)
    assert not saver._thread.is_alive()
    assert not list(tmp_path.iterdir())
