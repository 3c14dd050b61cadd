"""Invariant 6 as the kernel sees it: what a loss of power leaves depends on this order alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from order_of_writes import Call, TraceError, short, traced_saves


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    try:
        return traced_saves(Path(tmp_path_factory.mktemp("traced")))
    except TraceError as error:
        pytest.skip(f"{error}; Debian: apt-get install strace")


def small_file(name: str) -> list[tuple[str, str, str]]:
    temporary = f".{name}.*.tmp"
    return [
        ("open to write", temporary, ""),
        ("write", temporary, ""),
        ("fsync", temporary, ""),
        ("rename", temporary, name),
        ("fsync", ".", ""),
    ]


def test_the_order_is_write_fsync_digest_rename_fsync_of_the_folder(calls: list[Call]) -> None:
    def step(name: str) -> list[tuple[str, str, str]]:
        temporary = f".{name}.*.tmp"
        return [
            ("open to write", temporary, ""),
            ("write", temporary, ""),
            ("fsync", temporary, ""),
            ("open to read", temporary, ""),
            *small_file(f"{name}.sha256"),
            ("rename", temporary, name),
            ("fsync", ".", ""),
        ]

    def latest(name: str) -> list[tuple[str, str, str]]:
        return [
            ("link", name, ".latest.pt.*.tmp"),
            *small_file("latest.pt.sha256"),
            ("rename", ".latest.pt.*.tmp", "latest.pt"),
            ("fsync", ".", ""),
        ]

    reads = {
        ("open to read", f"{name}.sha256", "") for name in ("step_1.pt", "step_2.pt", "latest.pt")
    }
    assert [row for row in short(calls) if row not in reads] == [
        *step("step_1.pt"),
        *latest("step_1.pt"),
        *step("step_2.pt"),
        *latest("step_2.pt"),
        *small_file("latest.pt.sha256"),  # it named both digests until here
        ("unlink", "step_1.pt", ""),
        ("unlink", "step_1.pt.sha256", ""),
    ]


def test_nothing_gets_its_name_before_all_of_it_is_on_disk(calls: list[Call]) -> None:
    unsynced: set[str] = set()
    renamed = 0
    for call in calls:
        if call.name == "write":
            unsynced.add(call.on)
        elif call.name == "fsync":
            unsynced.discard(call.on)
        elif call.name in ("rename", "link"):
            assert call.on not in unsynced
            renamed += 1
    assert not unsynced
    assert renamed == 11


def test_older_ones_go_only_after_the_newer_names_are_on_disk(calls: list[Call]) -> None:
    first_unlink = [call.name for call in calls].index("unlink")
    before = calls[:first_unlink]
    assert Call("rename", ".latest.pt.*.tmp", "latest.pt") in before
    assert before[-1] == Call("fsync", ".")
    assert [call.on for call in calls[first_unlink:]] == ["step_1.pt", "step_1.pt.sha256"]
