"""Error counts against an edit distance written out here, intervals against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.evaluation import (
    ErrorCounts,
    align_words,
    band,
    character_errors,
    confidence_interval,
    oracle_errors,
)

words = st.lists(st.sampled_from(["a", "b", "cc", "dé"]), max_size=8)


def edit_distance(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != heard))
            diagonal, row[j] = row[j], best
    return row[-1]


@settings(max_examples=200)
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_counts_are_a_minimum_edit_distance(pairs):
    references = [" ".join(reference) for reference, _ in pairs]
    hypotheses = [" ".join(hypothesis) for _, hypothesis in pairs]
    alignments = align_words(references, hypotheses)
    for (reference, hypothesis), alignment in zip(pairs, alignments, strict=True):
        counts = alignment.counts
        assert counts.errors == edit_distance(reference, hypothesis)
        assert counts.reference_words == len(reference)
        assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis)
        assert [w for c in alignment.chunks for w in c.reference] == reference
        assert [w for c in alignment.chunks for w in c.hypothesis] == hypothesis


@settings(max_examples=50)
@given(reference=words, hypothesis=words)
def test_character_errors_are_an_edit_distance_of_the_texts(reference, hypothesis):
    left, right = " ".join(reference), " ".join(hypothesis)
    [counts] = character_errors([left], [right])
    assert counts.errors == edit_distance(left, right)
    assert counts.reference_words == len(left)


def test_wer_can_exceed_one():
    [alignment] = align_words(["yes"], ["oh yes yes"])
    assert alignment.counts == ErrorCounts(insertions=2, hits=1)
    assert alignment.counts.wer == 2.0


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 references for 1 hypotheses"):
        align_words(["a", "b"], ["a"])


def test_oracle_is_the_best_of_the_n_best():
    n_best = ["a x c", "a b c d", "a b", "x y z"]
    counts = oracle_errors("a b c", n_best)
    assert counts.errors == min(edit_distance(["a", "b", "c"], h.split()) for h in n_best) == 1
    assert counts.substitutions == 1  # the first of equals


def test_interval_holds_the_rate_and_narrows_with_data():
    random = np.random.default_rng(2)
    errors = random.binomial(10, 0.2, size=1600)
    counts = [ErrorCounts(substitutions=int(e), hits=10 - int(e)) for e in errors]
    few, many = confidence_interval(counts[:100]), confidence_interval(counts)
    for (low, high), sample in ((few, errors[:100]), (many, errors)):
        rate = sample.sum() / (10 * len(sample))
        assert low < rate < high
        # A ratio of sums over independent utterances of equal length: its standard error is known.
        deviation = sample.std(ddof=1) / 10 / np.sqrt(len(sample))
        assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_interval_depends_on_the_seed_alone():
    counts = [ErrorCounts(substitutions=i % 7, hits=i % 11) for i in range(400)]
    assert confidence_interval(counts) == confidence_interval(counts)
    assert confidence_interval(counts, seed=2) != confidence_interval(counts, seed=3)


def test_interval_of_references_without_words_is_refused():
    with pytest.raises(ValueError, match="no word"):
        confidence_interval([ErrorCounts(insertions=1)])


@pytest.mark.parametrize(
    ("wer", "label"),
    [
        (1.36, "critical"),
        (1.0, "high"),
        (0.5, "high"),
        (0.4999, "moderate"),
        (0.25, "moderate"),
        (0.2, "good"),
        (0.15, "good"),
        (0.1499, "target"),
        (0.0, "target"),
    ],
)
def test_bands(wer, label):
    assert band(wer) == label
