"""A whole evaluation against the same numbers put together by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.audio import read_audio
from voxformer.data import DataError
from voxformer.evaluation import align_words, evaluate
from voxformer.evaluation.repeats import most_repeated
from voxformer.evaluation.report import error_report, summary
from voxformer.runtime import MODES, DecodingOptions, pad_batch, recognise_batch
from voxformer.text import normalise

OPTIONS = DecodingOptions(beam_size=4, n_best=3, max_tokens_per_second=5.0)


@pytest.fixture(scope="module")
def evaluation(engine, vocabulary, utterances):
    return evaluate(engine, vocabulary, utterances, MODES, OPTIONS, batch_size=4)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_equals_recognition_one_by_one(evaluation, engine, vocabulary, utterances, mode):
    rows = evaluation.modes[mode].utterances
    assert [row.id for row in rows] == [u.id for u in utterances]
    for row, utterance in zip(rows, utterances, strict=True):
        batch = pad_batch([read_audio(utterance.audio_path)])
        [n_best] = recognise_batch(engine, *batch, mode, OPTIONS, vocabulary)
        assert row.hypothesis == normalise(n_best[0].text)
        assert row.reference == normalise(utterance.text)
        texts = [normalise(h.text) for h in n_best]
        assert row.oracle.errors == min(
            a.counts.errors for a in align_words([row.reference] * len(texts), texts)
        )


def test_pooled_counts_are_the_sums_of_the_rows(evaluation):
    for result in evaluation.modes.values():
        assert result.words.errors == sum(row.words.counts.errors for row in result.utterances)
        assert result.words.reference_words == sum(
            len(row.reference.split()) for row in result.utterances
        )
        assert result.wer == result.words.errors / result.words.reference_words
        assert result.interval[0] <= result.wer <= result.interval[1]
        assert result.oracle.errors <= result.words.errors


def test_reordered_counts_where_rescoring_disagrees_with_the_search(evaluation):
    before = evaluation.modes["ctc_beam"].utterances
    after = evaluation.modes["rescoring"].utterances
    changed = sum(b.hypothesis != a.hypothesis for b, a in zip(before, after, strict=True))
    assert changed <= evaluation.modes["rescoring"].reordered <= len(after)


def test_no_hypothesis_is_longer_than_the_cap(evaluation, utterances):
    for row, utterance in zip(evaluation.modes["attention"].utterances, utterances, strict=True):
        assert len(row.hypothesis.replace(" ", "")) <= 4 * max(1, -(-5 * utterance.duration // 1))


def test_report_is_json_with_fractions_and_counts(evaluation):
    values = json.loads(json.dumps(evaluation.to_json()))
    for mode in MODES:
        result = values["modes"][mode]
        counts = result["words"]
        errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        assert result["wer"] == errors / counts["reference_words"]
        assert result["rtf"] * result["rtfx"] == pytest.approx(1.0)
        assert len(result["utterances"]) == values["utterances"] == 9
    assert "utterances" not in evaluation.to_json(utterances=False)["modes"]["attention"]


def test_shared_passes_count_in_every_mode_that_needs_them(evaluation):
    seconds = {mode: result.seconds for mode, result in evaluation.modes.items()}
    assert all(value > 0 for value in seconds.values())
    assert seconds["rescoring"] > seconds["ctc_beam"]


def test_unreadable_recording_is_skipped_by_id_or_refused(engine, vocabulary, utterances, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    mixed = [*utterances, dataclasses.replace(utterances[0], id="broken", audio_path=broken)]
    arguments = (engine, vocabulary, mixed, ["ctc_greedy"], OPTIONS)
    with pytest.raises(DataError, match=r"1 of 10 recordings cannot be read.*broken"):
        evaluate(*arguments)
    result = evaluate(*arguments, max_bad_fraction=0.2)
    assert [name for name, _ in result.skipped] == ["broken"]
    assert len(result.modes["ctc_greedy"].utterances) == 9


def test_references_without_words_are_refused(engine, vocabulary, utterances):
    silent = [dataclasses.replace(u, text=" . ") for u in utterances]
    with pytest.raises(DataError, match="no word"):
        evaluate(engine, vocabulary, silent, ["ctc_greedy"], OPTIONS)
    with pytest.raises(DataError, match="no utterances"):
        evaluate(engine, vocabulary, [], ["ctc_greedy"], OPTIONS)


def test_progress_ends_at_all(engine, vocabulary, utterances):
    seen = []
    evaluate(
        engine,
        vocabulary,
        utterances,
        ["ctc_greedy"],
        OPTIONS,
        batch_size=4,
        progress=lambda done, every: seen.append((done, every)),
    )
    assert seen == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize("batches", [1, 2, 9])
def test_warm_up_is_in_no_figure(evaluation, engine, vocabulary, utterances, batches):
    warm = evaluate(
        engine, vocabulary, utterances, ["ctc_beam"], OPTIONS, batch_size=4, warm_up=batches
    )
    assert warm.audio_seconds == evaluation.audio_seconds
    assert warm.modes["ctc_beam"].utterances == evaluation.modes["ctc_beam"].utterances


def test_text_reports_name_modes_and_align_errors(evaluation):
    table = summary(evaluation)
    assert all(mode in table for mode in MODES)
    report = error_report(evaluation.modes["ctc_beam"])
    for row in evaluation.modes["ctc_beam"].utterances:
        assert (f"{row.id}:" in report) == bool(row.words.counts.errors)
    reference_lines = [line for line in report.split("\n") if line.startswith("  REF:")]
    hypothesis_lines = [line for line in report.split("\n") if line.startswith("  HYP:")]
    for above, below in zip(reference_lines, hypothesis_lines, strict=True):
        assert len(above.split()) == len(below.split())


@given(
    before=st.lists(st.sampled_from("xyz"), max_size=3, unique=True),
    ngram=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    times=st.integers(2, 9),
)
def test_planted_repetition_is_found(before, ngram, times):
    text = " ".join([*before, *ngram * times])
    found = most_repeated([("clean", "a b c d"), ("loop", text)])
    assert (found.utterance_id, found.ngram, found.times) == ("loop", " ".join(ngram), times)


def test_nothing_repeated_is_none():
    assert most_repeated([("u", "a b a c"), ("v", "")]) is None
