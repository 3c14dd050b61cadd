"""Tables in the pages say what the result files say."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from voxformer.evaluation.evaluate import Evaluation, ModeResult, UtteranceResult
from voxformer.evaluation.wer import ErrorCounts, align_words

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "render_results.py"

PAGE = "# Results\n\n<!-- table: {names} -->\nold\n<!-- end -->\nThe rest.\n"


@pytest.fixture(scope="module")
def renderer():
    spec = importlib.util.spec_from_file_location("render_results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("No tables here.\n")
    return tmp_path


def evaluation(engine="torch (cpu)"):
    """What `voxformer evaluate --json` writes, from the class that writes it."""
    [words] = align_words(["one two three four"], ["one too three four five"])
    row = UtteranceResult(
        id="u1",
        reference="one two three four",
        hypothesis="one too three four five",
        words=words,
        characters=ErrorCounts(1, 0, 5, 17),
        capped=True,
        reordered=True,
        oracle=ErrorCounts(0, 0, 1, 4),
    )
    result = ModeResult(
        mode="rescoring",
        utterances=(row,),
        words=words.counts,
        characters=row.characters,
        interval=(0.25, 0.75),
        repeated=None,
        oracle=row.oracle,
        seconds=0.5,
        audio_seconds=2.0,
    )
    return Evaluation(engine, 2, {"rescoring": result}, 2.0).to_json()


CELLS = (
    "rescoring | 50.00% | 25.00% - 75.00% | 1 / 0 / 1 | 4 | 33.33% | 25.00% | 1 | 1 | 0.2500 | 4.0"
)


def write(root, names, **files):
    (root / "docs" / "results.md").write_text(PAGE.format(names=names))
    for name, values in files.items():
        path = root / "benchmarks" / "results" / f"{name}.json"
        path.write_text(json.dumps(values))


def page(root):
    return (root / "docs" / "results.md").read_text()


def test_evaluation_becomes_a_row_for_each_mode(renderer, root):
    write(root, "an4", an4=evaluation())
    assert renderer.main([], root) == 0
    assert f"| torch (cpu), 2 threads | {CELLS} |\n" in page(root)
    assert "old" not in page(root)
    assert page(root).endswith("<!-- end -->\nThe rest.\n")


def test_passes_of_rtf_are_rows_and_the_machine_is_named(renderer, root):
    gpu = {"name": "Some GPU", "power_limit_w": 700.0, "driver": "580.1"}
    row = {
        "engine": "torch (cuda)",
        "threads": 2,
        "precision": "fp32",
        "batch_size": 1,
        "mode": "rescoring",
        "wer": 0.05,
        "rtfx": 123.44,
        "rtfx_pipelined": 150.0,
        "shares": {"encoder": 0.5, "search": 0.25, "rescoring": 0.2, "other": 0.05},
        "latency_s": {"p50": 0.01, "p90": 0.02, "p99": 0.03},
    }
    values = {
        "machine": {"cpu": "Some CPU", "cores": 2, "load_at_end": 0.25, "gpus": [gpu]},
        "versions": {"voxformer": "0.1.0", "torch": "2.13.0"},
        "commit": "abc",
        "utterances": 7,
        "audio_seconds": 21.4,
        "rounds": 3,
        "decoding": {"beam_size": 10, "n_best": 4},
        "models": [{"random_weights": False}],
        "passes": [row],
    }
    write(root, "rtf", rtf=values)
    assert renderer.main([], root) == 0
    assert (
        "| torch (cuda), 2 threads | fp32 | 1 | rescoring | 5.00% | 123.4 | 150.0 "
        "| 50% / 25% / 20% / 5% | 10 / 20 / 30 |\n"
    ) in page(root)
    assert "7 utterances, 21 s; beam 10, n-best 4; medians of 3 rounds" in page(root)
    assert "Some GPU, 700 W, driver 580.1. Some CPU, 2 cores; voxformer 0.1.0" in page(root)


def test_results_of_the_quickstart_name_test_set_and_engine(renderer, root):
    sets = {"test_voices": {"torch": evaluation("torch"), "onnxruntime": evaluation("ort")}}
    write(root, "quickstart", quickstart={"bundle": "b", "sets": sets})
    assert renderer.main([], root) == 0
    assert f"| test_voices | ort, 2 threads | {CELLS} |\n" in page(root)


def test_training_times_are_listed_with_their_sum(renderer, root):
    values = {"seconds": {"stage1": 90.2, "stage2": 60.0}, "total_seconds": 150.2}
    write(root, "times", times=values)
    assert renderer.main([], root) == 0
    assert "| stage1 | 90 | 1.5 |\n| stage2 | 60 | 1.0 |\n| all | 150 | 2.5 |\n" in page(root)


def test_several_files_make_one_table_and_missing_ones_are_named(renderer, root):
    plain = {"columns": ["steps", "WER"], "rows": [[10, "5 %"]], "note": "Measured once."}
    write(root, "a b c", a=plain, b={**plain, "rows": [[20, "4 %"]]})
    assert renderer.main([], root) == 0
    assert "| run | steps | WER |\n| --- | --- | --- |\n" in page(root)
    assert "| `a` | 10 | 5 % |\n| `b` | 20 | 4 % |\n" in page(root)
    assert page(root).count("Measured once.") == 1
    assert "Not measured yet: `benchmarks/results/c.json`." in page(root)


def test_check_writes_nothing_and_fails_until_rendered(renderer, root, capsys):
    write(root, "an4", an4=evaluation())
    before = page(root)
    assert renderer.main(["--check"], root) == 1
    assert page(root) == before
    assert "stale: results.md" in capsys.readouterr().err
    assert renderer.main([], root) == 0
    assert renderer.main(["--check"], root) == 0


def decoder_run():
    """What benchmarks/decoder.py writes, of two cells."""
    figures = {"status": "ok", "cpu_s": 0.001, "wall_s": 0.002, "lost_nats": 0.25}
    cell = {
        "kind": "peaky",
        "vocab": 29,
        "seconds": 4.0,
        "beam": 10,
        "threads": 1,
        "extra": "none",
        "decoders": {"ours": figures, "peer": {"status": "skipped: too slow (9.0 s at a cell)"}},
    }
    threads = {**cell, "threads": 2, "decoders": {"ours": {**figures, "speed_up": 1.9}}}
    held = {"claim": "peer / ours", "aim": 2.0, "least": 1.5, "pass": False}
    return {
        "machine": {"cpu": "Some CPU", "cores": 2},
        "versions": {"voxformer": "0.1.0"},
        "configurations": {"ours": "exact", "peer": "defaults"},
        "claims": [{**held, "cell": "peaky, 29", "cells": 4}],
        "cells": [cell, threads],
    }


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("decoder", "| peer / ours | 2 | 1.50 | no | peaky, 29 | 4 |"),
        ("decoder:cells", "| peaky | 29 | 4 | 10 | 1 |  | 1 ms, 0.25 | too slow |"),
        ("decoder:threads", "| peaky | 29 | 4 | 10 | 2 |  | 2 ms, 0.25, 1.90x | - |"),
    ],
)
def test_parts_of_a_decoder_run_are_tables_of_their_own(renderer, root, part, row):
    write(root, part, decoder=decoder_run())
    assert renderer.main([], root) == 0
    assert f"\n{row}\n" in page(root)


def test_unknown_part_is_an_error_that_names_it(renderer, root, capsys):
    write(root, "decoder:all", decoder=decoder_run())
    assert renderer.main([], root) == 2
    assert "decoder.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modes": {"rescoring": {}}}, "a.json: not a result of a known shape"),
        ([1, 2], "a.json: not a result of a known shape"),
        ({"columns": ["x"], "rows": [["1"]]}, "a.json has other columns than b.json"),
    ],
)
def test_unusable_files_are_named_and_nothing_is_written(renderer, root, capsys, values, message):
    write(root, "b a", b=evaluation(), a=values)
    before = page(root)
    assert renderer.main([], root) == 2
    assert message in capsys.readouterr().err
    assert page(root) == before


def test_marker_without_end_is_an_error(renderer, tmp_path):
    text = "<!-- table: a -->\n<!-- table: b -->\n<!-- end -->\n"
    with pytest.raises(renderer.ResultError, match="no `<!-- end -->`"):
        renderer.render(text, tmp_path)


def test_pages_of_the_project_are_up_to_date(renderer):
    assert renderer.main(["--check"]) == 0
