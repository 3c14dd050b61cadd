"""How a benchmark ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise DataError('m.jsonl:3: not JSON')", 2, "-c: m.jsonl:3: not JSON\n"),
        ("raise OSError(errno.EACCES, 'denied', 'x')", 2, "-c: [Errno 13] denied: 'x'\n"),
        ("raise OSError(errno.ENOSPC, 'full', 'x')", 3, "-c: [Errno 28] full: 'x'\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("print('a line')", 141, ""),
    ],
)
def test_users_errors_are_lines_with_an_exit_code(statement: str, code: int, said: str) -> None:
    script = f"""
import errno
from one_line import leave
from voxformer.data import DataError
def main():
    {statement}
leave(main)
"""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_bug_keeps_its_traceback() -> None:
    script = "from one_line import leave; leave(lambda: [][1:] or int('x'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
