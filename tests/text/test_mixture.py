"""Mixtures and pruned models against the definitions, with the decoder's own reader as oracle."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import NgramLanguageModel
from voxformer.text.mixture import BackoffModel, mix
from voxformer.text.ngrams import NgramError, train_ngrams
from voxformer.text.sphinx import packaged_model, read_sphinx

sentences_of = st.lists(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=20,
)
EXACT = 12
"""Decimals of the logarithms, so that files do not round."""


class Dictionary:
    """The definition of a back-off model, one question at a time."""

    def __init__(self, lines: list[str]) -> None:
        self.log10: dict[tuple[str, ...], float] = {}
        self.backoff: dict[tuple[str, ...], float] = {}
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if len(fields) > 1:
                ngram = tuple(fields[1].split(" "))
                self.log10[ngram] = float(fields[0])
                self.backoff[ngram] = float(fields[2]) if len(fields) > 2 else 0.0
        self.words = [ngram[0] for ngram in self.log10 if len(ngram) == 1]
        self.order = max(map(len, self.log10))

    def __call__(self, *ngram: str) -> float:
        if ngram in self.log10:
            return 10.0 ** self.log10[ngram]
        if len(ngram) == 1:
            return 0.0
        return 10.0 ** self.backoff.get(ngram[:-1], 0.0) * self(*ngram[1:])

    def contexts(self, length: int) -> list[tuple[str, ...]]:
        return [ngram for ngram in self.log10 if len(ngram) == length and ngram[-1] != "</s>"]


def trained(sentences: list[str], order: int) -> BackoffModel:
    return BackoffModel.read_arpa(train_ngrams(sentences, order, decimals=EXACT))


def exact(model: BackoffModel) -> list[str]:
    return list(model.arpa(EXACT))


@given(sentences_of, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_file_that_is_read_and_written_is_the_same(sentences: list[str], order: int) -> None:
    lines = list(train_ngrams(sentences, order, decimals=EXACT))
    assert exact(BackoffModel.read_arpa(lines)) == lines


@given(sentences_of, sentences_of, st.integers(1, 3), st.integers(1, 3), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_a_mixture_is_the_sum_wherever_either_has_seen_the_words(
    first: list[str], second: list[str], order: int, others: int, weight: float
) -> None:
    a, b = (trained(texts, n) for texts, n in ((first, order), (second, others)))
    both = Dictionary(exact(mix(a, b, weight)))
    of_a, of_b = Dictionary(exact(a)), Dictionary(exact(b))
    assert both.words == of_a.words
    # What the second would give to words that the first does not know is shared out.
    known = sum(
        (1 - weight) * of_a(word) + weight * of_b(word) for word in of_a.words if word != "<s>"
    )
    for ngram in both.log10:
        if ngram == ("<s>",):
            continue
        context, word = ngram[:-1], ngram[-1]
        expected = (1 - weight) * of_a(*ngram) + weight * of_b(*ngram)
        assert both(*ngram) == pytest.approx(expected / (1 if context else known))
        assert ngram in of_a.log10 or ngram in of_b.log10
        assert word in of_a.words
    for length in range(both.order):
        for context in both.contexts(length) if length else [()]:
            total = sum(both(*context, word) for word in both.words if word != "<s>")
            assert total == pytest.approx(1.0, abs=1e-6)


@given(sentences_of, st.integers(2, 3), st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_what_is_pruned_costs_less_than_the_threshold_and_the_rest_more(
    sentences: list[str], order: int, place: int
) -> None:
    model = trained(sentences, order)
    model.normalise()
    before = Dictionary(exact(model))
    longest = [ngram for ngram in before.log10 if len(ngram) == order]
    costs = {ngram: growth_without(before, ngram) for ngram in longest}
    ordered = sorted(set(costs.values()))
    threshold = ordered[place % len(ordered)] * (1 + 1e-6) + 1e-12
    model.prune(threshold)
    left = {ngram for ngram in Dictionary(exact(model)).log10 if len(ngram) == order}
    for ngram, cost in costs.items():
        if abs(cost - threshold) > 1e-7 * (1 + threshold):
            assert (ngram in left) == (cost >= threshold), (ngram, cost, threshold)


def growth_without(model: Dictionary, ngram: tuple[str, ...]) -> float:
    """How many times the perplexity grows without this n-gram: Stolcke 1998, by enumeration."""
    context, words = ngram[:-1], [word for word in model.words if word != "<s>"]
    after = {word: model(*context, word) for word in words}
    seen = {w for w in words if (*context, w) in model.log10} - {ngram[-1]}
    left = 1 - sum(after[w] for w in seen)
    shorter = {word: model(*context[1:], word) for word in words}
    factor = left / (1 - sum(shorter[w] for w in seen))
    without = {w: after[w] if w in seen else factor * shorter[w] for w in words}
    often = 1.0
    for length in range(1, len(context) + 1):
        # A sentence begins as often as one ends.
        part = ("</s>",) if context[:length] == ("<s>",) else context[:length]
        often *= model(*part)
    divergence = sum(p * math.log(p / without[w]) for w, p in after.items() if p > 0)
    return math.expm1(often * divergence)


@given(sentences_of, st.floats(1e-6, 1e-1))
@settings(max_examples=30, deadline=None)
def test_a_pruned_model_is_a_model_and_reads_as_one(sentences: list[str], threshold: float) -> None:
    model = trained(sentences, 3)
    model.prune(threshold)
    after = Dictionary(exact(model))
    for length in range(3):
        for context in after.contexts(length) if length else [()]:
            total = sum(after(*context, word) for word in after.words if word != "<s>")
            assert total == pytest.approx(1.0, abs=1e-6)
        assert all(ngram[:-1] in after.log10 for ngram in after.log10 if len(ngram) > 1)


def test_the_decoder_reads_of_a_mixture_what_was_written(tmp_path: Path) -> None:
    mixed = mix(trained(["a b c", "b c d"], 3), trained(["a b d", "c a b", "d d"], 2), 0.4)
    path = tmp_path / "mixed.arpa"
    path.write_text("".join(mixed.arpa(7)), encoding="utf-8")
    scores = NgramLanguageModel.load(path, cache=False).full_scores("a b c d d a")
    written = Dictionary(list(mixed.arpa(7)))
    line = ("<s>", *"abcdda", "</s>")
    expected = [math.log(written(*line[max(0, i - 2) : i + 1])) for i in range(1, len(line))]
    assert [score.log_prob for score in scores] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no n-grams"),
        (["\\1-grams:", "-1 a", "-x b"], "line 3: '-x b' is not of an ARPA file"),
        (["\\1-grams:", "-1\ta\t0", "\\2-grams:", "-1\ta b"], "unknown word"),
        (["\\1-grams:", "-1\ta\t0", "-1\ta\t0"], "there twice"),
        (
            ["\\1-grams:", "-1\ta\t0", "\\2-grams:", "\\3-grams:", "-1\ta a a"],
            "the beginning of 'a a a'",
        ),
    ],
)
def test_what_is_no_model_is_refused(lines: list[str], said: str) -> None:
    with pytest.raises(NgramError, match=said.replace("\\", "\\\\")):
        BackoffModel.read_arpa(lines)


def test_a_weight_out_of_range_is_refused() -> None:
    model = trained(["a b"], 2)
    with pytest.raises(NgramError, match=r"weight of the mixture is 1\.5"):
        mix(model, model, 1.5)


def test_the_packaged_model_says_what_its_own_library_says() -> None:
    pocketsphinx = pytest.importorskip("pocketsphinx")
    theirs = pocketsphinx.NGramModel(
        pocketsphinx.Config(), pocketsphinx.LogMath(1.0001), str(packaged_model())
    )
    ours = read_sphinx(packaged_model())
    number_of = {word: number for number, word in enumerate(ours.words)}
    text = "<s> it was the best of times it was the worst of times and whence comes a zyuganov </s>"
    ngrams = [
        words[i : i + n]
        for words in [text.split()]
        for n in (1, 2, 3)
        for i in range(len(words) - n + 1)
    ]
    for n, group in itertools.groupby(ngrams, key=len):
        asked = list(group)
        rows = np.asarray([[number_of[word] for word in ngram] for ngram in asked])
        found = ours.log10(rows) / math.log10(1.0001)
        # They want the last word first, and whole numbers.
        expected = [theirs.prob(ngram[::-1]) for ngram in asked]
        assert found == pytest.approx(expected, abs=2.0), n


def test_a_damaged_binary_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.lm.bin"
    path.write_bytes(b"\\data\\")
    with pytest.raises(NgramError, match=r"not a binary language model"):
        read_sphinx(path)
    path.write_bytes(b"Trie Language Model\x03" + bytes(40))
    with pytest.raises(NgramError, match=r"damaged or truncated"):
        read_sphinx(path)
