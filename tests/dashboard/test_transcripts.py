"""Word differences: both texts can be read off them, with as few edits as there are."""

from __future__ import annotations

import jiwer
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.dashboard.transcripts import differences

texts = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8).map(" ".join)


@settings(deadline=None)
@given(texts, texts)
def test_differences_hold_both_texts(reference: str, hypothesis: str) -> None:
    found = differences(reference, hypothesis)
    assert " ".join(text for kind, text in found if kind != "extra") == reference
    assert " ".join(text for kind, text in found if kind != "missing") == hypothesis


@settings(deadline=None)
@given(texts.filter(bool), texts)
def test_differences_agree_with_jiwer_on_the_words_that_stay(
    reference: str, hypothesis: str
) -> None:
    kept = sum(len(t.split()) for kind, t in differences(reference, hypothesis) if kind == "same")
    missing = sum(
        len(t.split()) for kind, t in differences(reference, hypothesis) if kind == "missing"
    )
    counts = jiwer.process_words(reference, hypothesis)
    edits = counts.substitutions + counts.deletions + counts.insertions
    assert kept + missing == len(reference.split())
    # Between alignments of equally many edits, a substitution may stand for a pair of others.
    extra = len(hypothesis.split()) - kept
    assert max(missing, extra) <= edits <= missing + extra


def test_substitution_is_what_is_missing_then_what_came_instead() -> None:
    assert differences("switch on the light", "switch the the light now") == [
        ("same", "switch"),
        ("missing", "on"),
        ("extra", "the"),
        ("same", "the light"),
        ("extra", "now"),
    ]
