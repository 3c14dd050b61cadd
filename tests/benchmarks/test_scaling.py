"""WER over hours and sizes: which speech a point has, and that the command can be stopped."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from voxformer.data.manifest import Utterance, read_manifest
from voxformer.recipe import StageFailed

from ..tones import write_speech

SETS = ("librispeech-train", "commonvoice-train", "ljspeech-train", "speechocean-train")
HOURS = (0.004, 0.012)
SIZES = ("16x1", "32x1")


@pytest.fixture(scope="module")
def scaling(script):
    return script("scaling")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Tones under the names of the recipe's sets, a minute in all."""
    folder = tmp_path_factory.mktemp("speech")
    return write_speech(folder, SETS, ("librispeech-dev", "librispeech-other"))


def command(speech: Path, folder: Path, *more: str) -> list[str]:
    arguments = ["--speech", str(speech), "--out", str(folder / "runs"), "--scale", "small"]
    arguments += ["--hours", *map(str, HOURS), "--sizes", *SIZES, "--audio-hours", "0.03"]
    arguments += ["--set", "model.vocab_size=18", "--set", "training.num_threads=1"]
    return [*arguments, "--json", str(folder / "scaling.json"), *more]


@pytest.fixture(scope="module")
def measured(scaling, speech, tmp_path_factory):
    """The folder of a command that has run to its end."""
    folder = tmp_path_factory.mktemp("scaling")
    assert scaling.main(command(speech, folder, "--svg", str(folder / "plot"))) == 0
    return folder


def points_of(folder: Path) -> list[dict]:
    return json.loads((folder / "scaling.json").read_text())["points"]


def test_parts_are_nested_and_spread_over_sets_and_speakers(scaling) -> None:
    """Of speakers one after the other, as manifests have them."""

    def speaker(name: str, seconds: float) -> list[Utterance]:
        return [Utterance(f"{name}{i}", Path("x"), seconds, speaker=name) for i in range(40)]

    sets = {
        "a": [u for n in range(10) for u in speaker(f"a{n}", 9.0)],
        "b": [u for n in range(5) for u in speaker(f"b{n}", 3.6)],
    }  # 1 h and 0.2 h
    wanted = [0.1, 0.24, 0.3, 0.7, 1.2]
    parts = scaling.subsets(sets, wanted)
    assert sorted(parts) == wanted
    inner: dict[str, set[str]] = {"a": set(), "b": set()}
    for hours in wanted:
        seconds = {n: sum(u.duration for u in parts[hours][n]) for n in sets}
        assert sum(seconds.values()) / 3600 == pytest.approx(hours, rel=0.02)
        assert seconds["a"] / seconds["b"] == pytest.approx(5, rel=0.1)
        for name, utterances in parts[hours].items():
            ids = {u.id for u in utterances}
            assert inner[name] <= ids
            inner[name] = ids
            counts = [
                sum(u.speaker == s for u in utterances) for s in {u.speaker for u in sets[name]}
            ]
            assert max(counts) - min(counts) <= 3
    with pytest.raises(scaling.ScalingError, match=r"1\.3 h were asked .* hold 1\.2 h"):
        scaling.subsets(sets, [1.3])


def test_every_point_hears_as_much_of_its_own_part(measured) -> None:
    points = points_of(measured)
    assert [(p["size"], p["asked_hours"]) for p in points] == [
        (size, hours) for size in SIZES for hours in sorted(HOURS, reverse=True)
    ]
    for point in points:
        assert point["hours"] == pytest.approx(point["asked_hours"], rel=0.15)
        assert point["audio_hours"] == pytest.approx(0.03, rel=0.02)
        assert set(point["modes"]) == {"ctc_beam"}
        assert point["search"].startswith(", lexicon, LM ")
        data = measured / "runs" / "data" / f"{point['asked_hours']:g}h"
        assert sum(
            u.duration for name in SETS for u in read_manifest(data / f"{name}.jsonl")
        ) / 3600 == pytest.approx(point["hours"])
    small, large = points[0]["parameters"], points[2]["parameters"]
    assert points[1]["parameters"] == small < large == points[3]["parameters"]


def test_table_and_plots_show_every_point_with_its_interval(measured, script) -> None:
    found = script("render_results").table(["scaling"], measured)
    assert found.count("| 16x1 | ") == found.count("| 32x1 | ") == 2  # two parts
    assert "stage2 of configs/librispeech, 0.03 h each" in found
    assert "error rates mean nothing" in found
    for name in ("plot-hours.svg", "plot-parameters.svg"):
        assert name in found
        root = ElementTree.fromstring((measured / name).read_text())
        drawn = [path for path in root.iter() if path.get("class") == "interval"]
        assert len(drawn) == 4
        lines = [x.get("points") for x in root.iter() if x.tag.endswith("polyline")]
        assert [len(str(line).split()) for line in lines] == [2, 2]


def test_what_does_not_differ_is_not_plotted(measured, scaling, speech, tmp_path: Path) -> None:
    """The points of one size, from a JSON that has nothing left to train."""
    values = json.loads((measured / "scaling.json").read_text())
    values["points"] = [point for point in values["points"] if point["size"] == SIZES[0]]
    (tmp_path / "scaling.json").write_text(json.dumps(values))
    more = ("--sizes", SIZES[0], "--svg", str(tmp_path / "plot"))
    assert scaling.main(command(speech, tmp_path, *more)) == 0
    assert [path.name for path in tmp_path.glob("*.svg")] == ["plot-hours.svg"]
    assert "parameters.svg" not in (tmp_path / "scaling.json").read_text()


def test_places_in_a_plot_are_those_of_the_numbers(script) -> None:
    report = script("scaling_report")

    def point(hours: float, wer: float, *more: str) -> dict:
        found = {"wer": wer, "wer_interval_95": [wer - 0.02, wer + 0.02]}
        return {
            "size": "256x3",
            "parameters": 15_500_000,
            "asked_hours": hours,
            "hours": hours,
            "sets": ["librispeech-train", *more],
            "seed": 1,
            "audio_hours": 38.0,
            "seconds": 1200.0,
            "modes": {"ctc_beam": found},
        }

    points = [point(2, 0.5), point(4, 0.3), point(8, 0.2)]
    root = ElementTree.fromstring(report.plot(points, "hours", "ctc_beam", "a & b"))
    circles = [x for x in root.iter() if x.tag.endswith("circle")]
    xs = [float(str(c.get("cx"))) for c in circles]
    ys = [float(str(c.get("cy"))) for c in circles]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)  # hours double
    assert (ys[2] - ys[1]) / (ys[1] - ys[0]) == pytest.approx(0.5, abs=0.01)
    bars = [x.get("d") for x in root.iter() if x.get("class") == "interval"]
    low, high = (float(v) for v in str(bars[0]).split(" ")[1].split("V"))
    assert (low + high) / 2 == pytest.approx(ys[0], abs=0.1)
    assert (low - high) / (ys[1] - ys[0]) == pytest.approx(0.04 / 0.2, abs=0.01)

    # Speech of another kind is told apart.
    points = [*points, point(10, 0.1, "synthetic-train")]
    assert [row[1] for row in report.rows_of(points)] == ["2", "4", "8", "10 with synthetic-train"]
    svg = report.plot(points, "hours", "ctc_beam", "a & b")
    assert "256x3, 15.5 M with synthetic-train" in svg
    lines = [x for x in ElementTree.fromstring(svg).iter() if x.tag.endswith("polyline")]
    assert [len(str(line.get("points")).split()) for line in lines] == [3, 1]


def test_points_that_are_done_are_kept_and_what_was_stopped_goes_on(
    scaling, speech, measured, monkeypatch, capsys
) -> None:
    table = measured / "scaling.json"
    values = json.loads(table.read_text())
    trained: list[str] = []

    def stopped(config, name: str) -> float:
        trained.append(name)
        raise StageFailed(name, 143)

    with monkeypatch.context() as patch:
        patch.setattr(scaling, "train_stage", stopped)
        assert scaling.main(command(speech, measured)) == 0
        assert trained == []
        assert points_of(measured) == values["points"]
        # One point is not there yet: alone it is trained, and the others stay when it is stopped.
        table.write_text(json.dumps({**values, "points": values["points"][:-1]}))
        assert scaling.main(command(speech, measured)) == 143
        assert trained == ["32x1-0.004h-seed1"]
        assert points_of(measured) == values["points"][:-1]
        assert "the same command goes on" in capsys.readouterr().err
    assert scaling.main(command(speech, measured)) == 0  # its run is complete: only evaluated
    assert points_of(measured) == values["points"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--utterances", "3"], "holds points with utterances None, not 3; name another --json"),
        (["--set", "model.dropout=0.2"], "holds points with overrides"),
        (["--hours", "7"], "7 h were asked for, and the sets hold"),
    ],
)
def test_points_of_other_settings_are_not_mixed(scaling, speech, measured, more, message) -> None:
    with pytest.raises(scaling.ScalingError, match=message):
        scaling.main(command(speech, measured, *more))


def test_runs_of_other_settings_are_not_gone_on_with(scaling, speech, measured, tmp_path) -> None:
    other = command(speech, measured, "--json", str(tmp_path / "new.json"), "--stage", "stage4")
    with pytest.raises(scaling.ScalingError, match="stage stage2, not stage4; name another --out"):
        scaling.main(other)
    table = tmp_path / "a.json"
    table.write_text("{}")
    with pytest.raises(scaling.ScalingError, match="was not written by scaling"):
        scaling.main(command(speech, measured, "--json", str(table)))


@pytest.mark.parametrize("size", ["256", "0x3", "256x", "axb"])
def test_a_wrong_size_is_said_to_be_one(scaling, speech, tmp_path, size, capsys) -> None:
    with pytest.raises(SystemExit):
        scaling.main(command(speech, tmp_path, "--sizes", size))
    assert "is not WIDTHxLAYERS" in capsys.readouterr().err
