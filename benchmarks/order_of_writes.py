"""The system calls of two saves, in the order in which they came back, from strace.

    python benchmarks/order_of_writes.py --json benchmarks/results/order_of_writes.json

A kill shows what is on disk in the kernel's memory; what survives a loss of power depends on the
order of write, fsync and rename, which only the calls themselves show.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json

COLUMNS = ("call", "on", "becomes")
CALLS = "openat,write,fsync,rename,renameat,renameat2,link,linkat,unlink,unlinkat"
SAVES = """
import sys
from pathlib import Path
import torch
from voxformer.training.checkpoint import CheckpointFolder
from voxformer.training.saver import CheckpointSaver
state = {"stage": "ctc", "config": {"model": {}}, "model": {"w": torch.zeros(100_000)}}
with CheckpointSaver(CheckpointFolder(Path(sys.argv[1]), 1, 1), 60.0) as saver:
    for step in (1, 2):
        saver.save_step(step, {**state, "step": step})
        assert saver.finish(lambda: True)
"""
WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
BEGUN = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")


class TraceError(RuntimeError):
    """There is nothing to look at; the message says why."""


@dataclass(frozen=True)
class Call:
    """A system call that succeeded, on files of the run folder.

    Attributes:
        name: `open to write`, `open to read`, `write`, `fsync`, `rename`, `link`, `unlink`.
        on: the file, `.` for the folder itself; process and random numbers in names are `*`.
        becomes: the new name, of `rename` and `link`.
    """

    name: str
    on: str
    becomes: str = ""


def main() -> int:
    """Trace, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            calls = traced_saves(Path(name))
    except TraceError as error:
        print(f"order_of_writes.py: {error}", file=sys.stderr)
        return 2
    rows = [(call, f"`{on}`", to and f"`{to}`") for call, on, to in short(calls)]
    for row in (COLUMNS, *rows):
        print(f"{row[0]:14} {row[1]:36} {row[2]}")
    if args.json:
        write_json(args.json, {"columns": COLUMNS, "rows": rows, **circumstances()})
    return 0


def traced_saves(place: Path) -> list[Call]:
    """What saving steps 1 and 2, of which one is kept, asks of the file system.

    Args:
        place: an empty folder.

    Raises:
        TraceError: no strace, or it may not trace here.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise TraceError("strace is not installed")
    folder, trace = place / "run", place / "trace"
    folder.mkdir()
    command = [strace, "-f", "--seccomp-bpf", "-y", "-s", "0", "-o", str(trace)]
    command += ["-e", f"trace={CALLS}", sys.executable, "-c", SAVES, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise TraceError(f"strace did not work here: {result.stderr.strip()[-500:]}")
    return list(_calls(trace.read_text(errors="replace").splitlines(), folder))


def short(calls: Iterable[Call]) -> list[tuple[str, str, str]]:
    """Rows under `COLUMNS`, writes in a row as one."""
    rows: list[tuple[str, str, str]] = []
    for call in calls:
        row = (call.name, call.on, call.becomes)
        if not (call.name == "write" and rows and rows[-1] == row):
            rows.append(row)
    return rows


def _calls(lines: Iterable[str], folder: Path) -> Iterable[Call]:
    """Calls in the order of their return; a line may come in two parts, with others between."""
    begun: dict[str, str] = {}
    inside = re.compile(rf"{re.escape(str(folder))}(?:/([^\"<>]*))?[\">]")
    for line in lines:
        if match := BEGUN.match(line):
            begun[match[1]] = match[2]
            continue
        if match := RESUMED.match(line):
            line = f"{match[1]} {begun.pop(match[1])}{match[2]}"
        match = WHOLE.match(line)
        if match is None or int(match[4]) < 0:
            continue
        files = [_plain(name or ".") for name in inside.findall(match[3])]
        if not files or files[0].startswith((".probe.", ".link.")):  # whether there are hard links
            continue
        name = match[2].removesuffix("2").removesuffix("at")
        if name == "open":
            if files[0] == ".":
                continue
            name = "open to write" if "O_CREAT" in match[3] else "open to read"
        yield Call(name, files[0], files[1] if name in ("rename", "link") else "")


def _plain(name: str) -> str:
    return re.sub(r"^(\..*\.(?:pt|sha256))\.\w+\.tmp$", r"\1.*.tmp", name)


if __name__ == "__main__":
    sys.exit(main())
