"""What benchmarks/long_recording.py builds and counts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from long_recording_check import (
    AtSeams,
    Placed,
    RecordingError,
    SpokenWord,
    compose,
    count_at,
    errors_by_kind,
    spell,
    trimmed,
)

from voxformer.config import RunConfig
from voxformer.data import read_manifest
from voxformer.export import export_bundle

from ..tones import write_corpus

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "long_recording.py"


def spoken(*words):
    return [SpokenWord(text, at) for text, at in words]


def test_words_at_seams_by_hand():
    said = spoken(("a", 1.0), ("b", 9.5), ("c", 10.5), ("d", 20.0), ("e", 30.0))
    heard = spoken(("a", 1.0), ("b", 9.5), ("b", 10.0), ("d", 20.0), ("x", 29.5), ("e", 30.0))
    assert count_at([10.0], said, heard) == AtSeams(words=2)  # `b` for `c`: neither lost nor added
    heard = spoken(("a", 1.0), ("b", 9.5), ("b", 10.0), ("c", 10.5), ("d", 20.0), ("e", 30.0))
    assert count_at([10.0], said, heard) == AtSeams(words=2, added=1, doubled=1)
    heard = spoken(("a", 1.0), ("b", 9.5), ("d", 20.0), ("e", 30.0), ("x", 30.5))
    assert count_at([10.0], said, heard) == AtSeams(words=2, lost=1)
    assert count_at([30.1], said, heard) == AtSeams(words=1, added=1)
    assert count_at([15.0], said, heard) == AtSeams()


def test_errors_belong_to_the_stretch_that_a_word_is_said_in():
    placed = [Placed(0, 100, "a b", "pauses"), Placed(100, 200, "c", "unbroken")]
    heard = spoken(("a", 0.2), ("c", 1.4), ("d", 1.6))
    found = errors_by_kind(placed, heard, 100)
    assert (found["pauses"].deletions, found["pauses"].insertions) == (1, 0)
    assert (found["unbroken"].deletions, found["unbroken"].insertions) == (0, 1)


def test_spelling_takes_the_fewest_tokens():
    tokens = ["<blank>", "\u2581", "\u2581the", "t", "h", "e", "y", "\u2581th", "ey", "<sos/eos>"]
    assert spell("they the", tokens) == (7, 8, 2)
    assert spell("tax", tokens) == ()


def test_silence_at_the_ends_is_trimmed():
    noise = np.random.default_rng(0).normal(0, 1e-4, 48000).astype(np.float32)
    noise[16000:32000] += np.sin(np.arange(16000) / 5).astype(np.float32)
    assert len(trimmed(noise, 16000)) == pytest.approx(16000 + 2 * 480, abs=480)


def test_a_recording_holds_its_utterances_where_it_says(tmp_path):
    write_corpus(tmp_path)
    utterances = read_manifest(tmp_path / "train.jsonl")
    placed = compose(tmp_path / "long.flac", utterances, 10.0, 16000, ("unbroken",))
    samples, rate = soundfile.read(tmp_path / "long.flac", dtype="float32")
    assert rate == 16000
    assert len(samples) == placed[-1].end >= 160_000
    assert [p.text for p in placed] == [u.text for u in utterances[: len(placed)]]
    assert all(a.end == b.start for a, b in itertools.pairwise(placed))
    original, _ = soundfile.read(utterances[1].audio_path, dtype="float32")
    own = samples[placed[1].start : placed[1].end]
    np.testing.assert_array_equal(own, trimmed(original, 16000))
    with pytest.raises(RecordingError, match=r"speech for 0\.\d minutes"):
        compose(tmp_path / "long.flac", utterances, 600.0, 16000)


@pytest.mark.slow
def test_three_minutes_with_a_model_that_knows_nothing(model, vocabulary, tmp_path):
    """The command to its end; a random model shows nothing but that times are in order."""
    write_corpus(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    many = [{**row, "id": f"{row['id']}-{n}", "text": "h h"} for n in range(24) for row in rows]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    bundle = export_bundle(
        model, vocabulary.tokens, RunConfig(model=model.config), tmp_path / "b", exporter="trace"
    )
    command = [sys.executable, str(SCRIPT), "--model", str(bundle), "--minutes", "3"]
    command += ["--manifest", str(tmp_path / "many.jsonl"), "--modes", "ctc_beam", "rescoring"]
    result = subprocess.run(
        [*command, "--threads", "1", "--max-seconds", "5", "--json", str(tmp_path / "r.json")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "r.json").read_text("utf-8"))
    # A minute, and the whole and the windows in two lengths of pieces, in two modes.
    assert len(values["rows"]) == 2 * (1 + 2 * 2)
    whole, _, windows, _ = values["runs"][:4]
    lengths = [run["cutting"]["max_seconds"] for run in values["runs"]]
    assert lengths == 2 * [30.0, 5.0, 30.0, 5.0]
    assert whole["audio_seconds"] >= 180
    assert whole["pieces"] > 20
    assert windows["audio_seconds"] >= 180
    assert all(run["in_order"] for run in values["runs"])
