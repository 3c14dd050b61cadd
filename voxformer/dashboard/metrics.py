"""`metrics.jsonl`, read as it grows: each byte once, into columns that charts are cut from.

A million rows take seconds to parse. Until they are read, charts show rows sampled evenly from the
file, so that a page opens at once; then they show the extremes of every stretch of steps.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
SAMPLED_ROWS = 1000
LONGEST_ROW = 1 << 20
MOST_COLUMNS = 64
MOST_KINDS = 8
RECENT_ROWS = 50
FINDINGS = "watch"
MOST_FINDINGS = 50

Series = dict[str, list[Any]]


def decimate(values: NDArray[np.float64], buckets: int) -> NDArray[np.int64]:
    """Indices of at most 2·buckets + 2 values: both ends, each bucket's least and its greatest.

    NaN takes no part, but a bucket of nothing else keeps one, so that a gap stays a gap.
    """
    n = len(values)
    if n <= 2 * buckets:
        return np.arange(n)
    edges = np.linspace(0, n, buckets + 1).astype(np.int64)
    low = np.where(np.isnan(values), np.inf, values)
    high = np.where(np.isnan(values), -np.inf, values)
    kept = [0, n - 1]
    for start, stop in itertools.pairwise(edges.tolist()):
        kept += [start + low[start:stop].argmin(), start + high[start:stop].argmax()]
    return np.unique(np.array(kept, dtype=np.int64))


@dataclass
class _Table:
    """Rows of one kind, by column; steps only grow."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    def cut(self, length: int) -> None:
        del self.steps[length:], self.times[length:]
        for column in self.columns.values():
            del column[length:]

    def append(self, step: int, row: dict[str, Any]) -> None:
        before = len(self.steps)
        self.steps.append(step)
        self.times.append(number(row.get("time")))
        for key, value in row.items():
            if isinstance(value, (str, dict, list)) or key in ("step", "time"):
                continue
            column = self.columns.get(key)
            if column is None:
                if len(self.columns) >= MOST_COLUMNS:
                    continue
                column = self.columns[key] = array("d", [math.nan]) * before
            column.append(number(value))
        for column in self.columns.values():
            if len(column) <= before:
                column.append(math.nan)
        self.last = row


@dataclass
class _Tables:
    """Every kind of row. A run that was resumed goes over the steps after its checkpoint again."""

    by_kind: dict[str, _Table] = field(default_factory=dict)
    findings: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_FINDINGS))
    bad_lines: int = 0
    newest: int = -1

    def add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            kind, step = row["type"], row["step"]
            if type(kind) is not str or type(step) is not int or not 0 <= step < 2**62:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            self.bad_lines += bool(line.strip())
            return
        table = self.by_kind.get(kind)
        if table is None:
            if len(self.by_kind) >= MOST_KINDS:
                return
            table = self.by_kind[kind] = _Table()
        # A step may have several findings of the watch, but one row of any other kind.
        again = kind != FINDINGS and table.steps and step == table.steps[-1]
        if step < self.newest or again:
            for other in self.by_kind.values():
                # An evaluation comes after the training row of its step.
                keep_same = other is not table and kind != "train"
                cut = bisect_right if keep_same else bisect_left
                other.cut(cut(other.steps, step))
            kept = step if kind == "train" else step + 1
            while self.findings and self.findings[-1]["step"] >= kept:
                self.findings.pop()
        table.append(step, row)
        if kind == FINDINGS:
            self.findings.append(row)
        self.newest = step


class MetricsFile:
    """One run's metrics.

    Attributes:
        revision: changes with every change of what `series` returns.
        reading: whether part of the file has not been read yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.revision = 0
        self.reading = False
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._tables = self._shown = _Tables()
        self._file_id: tuple[int, int] | None = None
        self._offset, self._size = 0, 0
        self._rest = b""
        self.revision += 1

    def poll(self, budget_s: float = 0.3) -> bool:
        """Read what is new for about `budget_s` seconds; True if anything changed.

        A file that was replaced or cut off is read anew; one that is gone is no rows.
        """
        with self._lock:
            before = self.revision
            try:
                with self.path.open("rb") as file:
                    self._poll(file, time.monotonic() + budget_s)
            except OSError:
                if self._file_id is not None:
                    self._forget()
                self.reading = False
            return self.revision != before

    def _poll(self, file: Any, deadline: float) -> None:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        if identity != self._file_id or status.st_size < self._offset:
            self._forget()
            self._file_id = identity
        self._size = status.st_size
        file.seek(self._offset)
        while chunk := file.read(CHUNK):
            self._offset += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._tables.add(line)
            if len(self._rest) > LONGEST_ROW:
                self._tables.bad_lines += 1
                self._rest = b""
            self.revision += bool(lines)
            if time.monotonic() > deadline:
                break
        self.reading = self._offset < self._size
        self._shown = _Tables() if self.reading else self._tables
        if self.reading:
            for line in _sampled_lines(file, self._size):
                self._shown.add(line)

    def facts(self) -> dict[str, Any]:
        """How much of the file there is and has been read."""
        with self._lock:
            rows = sum(len(table.steps) for table in self._tables.by_kind.values())
            return {
                "rows": rows,
                "bytes": self._size,
                "bad_lines": self._tables.bad_lines,
                "read": self._offset / self._size if self._size else 1.0,
                "reading": self.reading,
                "revision": self.revision,
            }

    def last(self, kind: str) -> dict[str, Any]:
        """The newest row of a kind, what is not finite as None; empty if there is none."""
        with self._lock:
            table = self._shown.by_kind.get(kind)
            return dict(finite(table.last)) if table else {}

    def findings(self) -> list[dict[str, Any]]:
        """The newest rows of the run's watch, the newest last."""
        with self._lock:
            return [dict(finite(row)) for row in self._shown.findings]

    def newest_step(self) -> int | None:
        """The step of the last row of any kind: between logged ones, that of an evaluation."""
        with self._lock:
            return self._shown.newest if self._shown.newest >= 0 else None

    def best(self, kind: str) -> dict[str, float]:
        """The least value of every WER column."""
        with self._lock:
            table = self._shown.by_kind.get(kind)
            found = {}
            for key, column in table.columns.items() if table else ():
                finite = [value for value in column if not math.isnan(value)]
                if key.startswith("wer_") and finite:
                    found[key] = min(finite)
            return found

    def seconds_per_step(self) -> float | None:
        """Median over the newest rows: pauses between a stop and a resume do not count."""
        with self._lock:
            table = self._shown.by_kind.get("train")
            if table is None or len(table.steps) < 2:
                return None
            steps = np.diff(np.array(table.steps[-RECENT_ROWS:], dtype=np.float64))
            rates = np.diff(np.array(table.times[-RECENT_ROWS:])) / steps
        rates = rates[np.isfinite(rates) & (rates > 0)]
        return float(np.median(rates)) if len(rates) else None

    def series(
        self, points: int, first: int | None = None, last: int | None = None
    ) -> dict[str, Series]:
        """Every column as `kind.key`: steps `x` and values `y`, None where there is no number.

        Args:
            points: buckets; a series has about two values for each.
            first, last: steps to show; all by default.
        """
        return dict(self._series(points, first, last))

    def _series(
        self, points: int, first: int | None, last: int | None
    ) -> Iterator[tuple[str, Series]]:
        with self._lock:
            copies = []
            for kind, table in self._shown.by_kind.items():
                start = 0 if first is None else bisect_left(table.steps, first)
                stop = len(table.steps) if last is None else bisect_right(table.steps, last)
                steps = np.array(table.steps[start:stop], dtype=np.int64)
                for key, column in table.columns.items():
                    values = np.array(column[start:stop], dtype=np.float64)
                    copies.append((f"{kind}.{key}", steps, values))
        for name, steps, values in copies:
            index = decimate(values, points)
            y = [None if math.isnan(v) else float(f"{v:.6g}") for v in values[index]]
            yield name, {"x": steps[index].tolist(), "y": y}


def _sampled_lines(file: Any, size: int) -> Iterator[bytes]:
    """Whole lines at evenly spaced places of a file, the last whole one among them."""
    for index in range(SAMPLED_ROWS):
        file.seek(index * max(0, size - 8192) // SAMPLED_ROWS)
        if index:
            file.readline(LONGEST_ROW)
        line = file.readline(LONGEST_ROW)
        if line.endswith(b"\n"):
            yield line
    file.seek(max(0, size - 8192))
    *lines, _ = file.read(8192).split(b"\n")
    yield from lines[1:]


def number(value: Any) -> float:
    """A finite number as it is, NaN for anything else."""
    try:
        found = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def finite(value: Any) -> Any:
    """The same, with None for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return value
