"""`metrics.jsonl` as a run, a crash, a rotation and a resume leave it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.dashboard.metrics import MetricsFile, decimate


def row(step: int, kind: str = "train", **values: object) -> str:
    return json.dumps({"type": kind, "step": step, "time": float(step), **values}) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def read(metrics: MetricsFile) -> dict[str, dict[str, list[object]]]:
    metrics.poll(60.0)
    return metrics.series(400)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 20), st.floats(0, 1))
def test_decimation_keeps_extremes_and_both_ends_in_order(
    seed: int, count: int, buckets: int, missing: float
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=count)
    values[generator.random(count) < missing] = np.nan
    index = decimate(values, buckets)
    assert len(index) <= 2 * buckets + 2
    assert (np.diff(index) > 0).all()
    assert index[0] == 0
    assert index[-1] == count - 1
    if not np.isnan(values).all():
        assert np.nanmin(values[index]) == np.nanmin(values)
        assert np.nanmax(values[index]) == np.nanmax(values)


def test_stretch_without_a_number_stays_a_gap() -> None:
    values = np.ones(1000)
    values[300:700] = np.nan
    assert np.isnan(values[decimate(values, 20)]).any()


def test_partial_last_line_waits_for_its_end(path: Path) -> None:
    metrics = MetricsFile(path)
    path.write_text(row(1, loss=3.0) + row(2, loss=2.0)[:20])
    assert read(metrics)["train.loss"] == {"x": [1], "y": [3.0]}
    with path.open("a") as file:
        file.write(row(2, loss=2.0)[20:])
    assert read(metrics)["train.loss"] == {"x": [1, 2], "y": [3.0, 2.0]}
    assert metrics.facts()["bad_lines"] == 0


def test_each_byte_is_read_once(path: Path) -> None:
    metrics = MetricsFile(path)
    path.write_text(row(1, loss=3.0))
    assert metrics.poll()
    assert not metrics.poll()
    before = metrics.revision
    with path.open("a") as file:
        file.write(row(2, loss=2.0))
    assert metrics.poll()
    assert metrics.revision == before + 1
    assert metrics.facts()["rows"] == 2


def test_unreadable_rows_are_counted_and_passed_over(path: Path) -> None:
    bad = ["torn {", "[]", "3", '{"type": "train"}', '{"type": "train", "step": "x"}', "[" * 100000]
    bad += ['{"type": [], "step": 1}', '{"type": "train", "step": true}', "\udcff"]
    text = row(1, loss=1.0) + "\n".join(bad) + "\n\n" + row(2, loss=2.0)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    metrics = MetricsFile(path)
    assert read(metrics)["train.loss"]["y"] == [1.0, 2.0]
    assert metrics.facts()["bad_lines"] == len(bad)


def test_values_that_are_no_numbers_are_gaps_and_valid_json(path: Path) -> None:
    path.write_text(
        row(1, loss=math.nan, band="good")
        + row(2, loss=math.inf)
        + row(3, loss=None)
        + row(4, loss=10**400)
        + row(5, loss=1.5, ce=2.0)
    )
    metrics = MetricsFile(path)
    series = read(metrics)
    assert series["train.loss"] == {"x": [1, 2, 3, 4, 5], "y": [None] * 4 + [1.5]}
    assert series["train.ce"]["y"] == [None] * 4 + [2.0]
    assert "train.band" not in series
    json.dumps(series, allow_nan=False)
    json.dumps(metrics.last("train"), allow_nan=False)


def test_resumed_run_replaces_the_steps_that_it_goes_over_again(path: Path) -> None:
    first = row(10, loss=1.0) + row(10, "valid", ctc=9.0) + row(20, loss=2.0)
    first += row(20, "valid", ctc=8.0) + row(30, loss=3.0)
    path.write_text(first + row(20, loss=2.5) + row(20, "valid", ctc=7.0) + row(30, loss=3.5))
    series = read(MetricsFile(path))
    assert series["train.loss"] == {"x": [10, 20, 30], "y": [1.0, 2.5, 3.5]}
    assert series["valid.ctc"] == {"x": [10, 20], "y": [9.0, 7.0]}


def test_findings_of_a_step_stay_together_and_go_when_it_is_gone_over_again(path: Path) -> None:
    metrics = MetricsFile(path)
    found = [row(20, "watch", name=name) for name in ("loop", "critical")]
    rows = [row(10), row(20), row(20, "valid"), *found, row(30), row(30, "watch", name="stale")]
    path.write_text("".join(rows))
    metrics.poll(60.0)
    named = [(finding["step"], finding["name"]) for finding in metrics.findings()]
    assert named == [(20, "loop"), (20, "critical"), (30, "stale")]
    with path.open("a") as file:
        file.write(row(20) + row(20, "valid") + row(20, "watch", name="blank"))
    metrics.poll(60.0)
    assert [finding["name"] for finding in metrics.findings()] == ["blank"]


def test_newest_step_is_that_of_any_row_after_a_resume_too(path: Path) -> None:
    path.write_text(row(10, loss=1.0) + row(15, "valid", ctc=9.0))
    metrics = MetricsFile(path)
    metrics.poll()
    assert metrics.newest_step() == 15
    with path.open("a") as file:
        file.write(row(12, loss=1.0))
    metrics.poll()
    assert metrics.newest_step() == 12


@pytest.mark.parametrize("way", ["replaced", "cut", "gone"])
def test_rotated_file_is_read_anew(path: Path, way: str) -> None:
    path.write_text("".join(row(step, loss=1.0) for step in range(1, 50)))
    metrics = MetricsFile(path)
    metrics.poll()
    if way == "gone":
        path.unlink()
    elif way == "cut":
        path.write_text(row(7, loss=2.0))
    else:
        other = path.with_name("other")
        other.write_text("".join(row(step, loss=2.0) for step in range(7, 90)))
        other.replace(path)
    series = read(metrics)
    assert not series if way == "gone" else series["train.loss"]["x"][0] == 7


def test_history_that_is_not_read_yet_is_sampled(path: Path) -> None:
    count = 20000
    path.write_text("".join(row(step, loss=float(step), ce=1.0) for step in range(count)))
    metrics = MetricsFile(path)
    metrics.poll(0.0)
    assert metrics.reading
    sampled = metrics.series(400)["train.loss"]["x"]
    assert sampled[0] == 0
    assert sampled[-1] == count - 1
    assert max(np.diff(sampled)) < count / 50
    assert metrics.last("train")["step"] == count - 1
    while metrics.reading:
        metrics.poll(0.0)
    assert metrics.facts()["rows"] == count
    assert max(metrics.series(400)["train.loss"]["y"]) == count - 1


def test_range_of_steps_is_cut_out(path: Path) -> None:
    path.write_text("".join(row(step, loss=float(step)) for step in range(10, 1000, 10)))
    metrics = MetricsFile(path)
    metrics.poll()
    assert metrics.series(400, 95, 125)["train.loss"]["x"] == [100, 110, 120]


def test_pace_passes_over_the_pause_before_a_resume(path: Path) -> None:
    rows = [json.loads(row(step)) for step in range(1, 41)]
    for later in rows[20:]:
        later["time"] += 86400.0
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = MetricsFile(path)
    metrics.poll()
    assert metrics.seconds_per_step() == 1.0
