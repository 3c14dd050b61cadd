"""Kneser-Ney n-grams against the definition, written out over the raw text."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.cli import main
from voxformer.decoding import NgramLanguageModel
from voxformer.text.ngrams import NgramError, train_ngrams

sentences_of = st.lists(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=30,
)


class Definition:
    """p(word | context) of Chen and Goodman, recursively, counting anew for every question."""

    def __init__(self, sentences: list[str], order: int) -> None:
        self.lines = [["<s>", *s.split(), "</s>"] for s in sentences]
        self.order = order
        self.words = {w for line in self.lines for w in line} - {"<s>"} | {"<unk>"}

    def occurrences(self, n: int) -> list[tuple[str, ...]]:
        return [tuple(line[i : i + n]) for line in self.lines for i in range(len(line) - n + 1)]

    def counts(self, n: int) -> dict[tuple[str, ...], int]:
        found = Counter(self.occurrences(n))
        if n < self.order:
            longer = set(self.occurrences(n + 1))
            for ngram in list(found):
                if ngram[0] != "<s>":
                    found[ngram] = len({other[0] for other in longer if other[1:] == ngram})
        found.pop(("<s>",), None)
        return found

    def discount(self, n: int, count: int) -> float:
        of = Counter(self.counts(n).values())
        if not all(of[i] for i in (1, 2, 3, 4)):
            return (0.0, 0.5, 1.0, 1.5)[min(count, 3)]
        y = of[1] / (of[1] + 2 * of[2])
        k = min(count, 3)
        value = k - (k + 1) * y * of[k + 1] / of[k] if k else 0.0
        return min(max(value, 0.0), float(k))

    def probability(self, word: str, context: tuple[str, ...]) -> float:
        n = len(context) + 1
        counts = self.counts(n)
        after = {ngram[-1]: c for ngram, c in counts.items() if ngram[:-1] == context}
        if not after:
            return self.probability(word, context[1:])
        total = sum(after.values())
        left = sum(self.discount(n, c) for c in after.values()) / total
        lower = self.probability(word, context[1:]) if context else 1.0 / len(self.words)
        count = after.get(word, 0)
        return (count - self.discount(n, count)) / total + left * lower


def load(folder: Path, sentences: list[str], order: int) -> NgramLanguageModel:
    path = folder / "lm.arpa"
    path.write_text("".join(train_ngrams(sentences, order, decimals=7)), encoding="utf-8")
    return NgramLanguageModel.load(path, cache=False)


@settings(deadline=None, max_examples=40)
@given(sentences=sentences_of, order=st.integers(1, 4), asked=sentences_of)
def test_probabilities_are_those_of_the_definition(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[str], order: int, asked: list[str]
) -> None:
    model = load(tmp_path_factory.mktemp("lm"), sentences, order)
    definition = Definition(sentences, order)
    for sentence in [*asked[:3], "a zebra b"]:
        history = ["<s>"]
        for word, score in zip(
            [*sentence.split(), "</s>"], model.full_scores(sentence), strict=True
        ):
            known = word if word in definition.words else "<unk>"
            context = tuple(history[max(0, len(history) - order + 1) :]) if order > 1 else ()
            expected = definition.probability(known, context)
            if expected == 0.0:  # a text so small that its discounts leave nothing for others
                assert score.log_prob < math.log(10.0) * -98.0
            else:
                assert score.log_prob == pytest.approx(math.log(expected), abs=1e-4)
            history.append(known)


@settings(deadline=None, max_examples=40)
@given(sentences=sentences_of, order=st.integers(1, 4), context=st.lists(st.sampled_from("abcdz")))
def test_what_follows_any_context_adds_up_to_one(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[str], order: int, context: list[str]
) -> None:
    model = load(tmp_path_factory.mktemp("lm"), sentences, order)
    words = sorted({w for s in sentences for w in s.split()} | {"never seen"})
    total = sum(math.exp(model.full_scores([*context, w], eos=False)[-1].log_prob) for w in words)
    total += math.exp(model.full_scores(context)[-1].log_prob)
    assert total == pytest.approx(1.0, abs=1e-4)


def test_logarithms_have_two_decimals_unless_more_are_asked_for() -> None:
    sentences = ["a b c", "a b", "b c a b"]
    lines = zip(train_ngrams(sentences, 3), train_ngrams(sentences, 3, decimals=7), strict=True)
    columns = 0
    for short, long in lines:
        for rounded, exact in zip(short.split(), long.split(), strict=True):
            if "." not in exact:
                assert rounded == exact
                continue
            assert len(rounded.partition(".")[2]) <= 2
            assert float(rounded) == pytest.approx(float(exact), abs=5.1e-3)
            columns += 1
    assert columns > 20


@settings(deadline=None, max_examples=40)
@given(sentences=sentences_of, order=st.integers(2, 4), prune=st.integers(1, 2), asked=sentences_of)
def test_pruned_ngrams_leave_their_share_to_the_shorter_ones(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[str],
    order: int,
    prune: int,
    asked: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("lm")
    path = folder / "pruned.arpa"
    path.write_text("".join(train_ngrams(sentences, order, prune, decimals=7)), encoding="utf-8")
    pruned = NgramLanguageModel.load(path, cache=False)
    whole = load(folder, sentences, order)
    counts = Definition(sentences, order).counts(order)
    words = sorted({w for s in sentences for w in s.split()} | {"never seen"})
    for sentence in asked[:3]:
        history = ["<s>"]
        of_both = zip(pruned.full_scores(sentence), whole.full_scores(sentence), strict=True)
        for word, (now, before) in zip([*sentence.split(), "</s>"], of_both, strict=True):
            ngram = (*history[max(0, len(history) - order + 1) :], word)
            if counts.get(ngram, 0) > prune:
                # It has gained what its context now gives to all, by way of the shorter n-grams.
                assert now.log_prob >= before.log_prob - 1e-4
                assert now.ngram_length == order
            else:
                assert now.ngram_length < order
            history.append(word)
        context = sentence.split()
        total = sum(
            math.exp(pruned.full_scores([*context, w], eos=False)[-1].log_prob) for w in words
        )
        total += math.exp(pruned.full_scores(context)[-1].log_prob)
        assert total == pytest.approx(1.0, abs=1e-4)


def test_bigrams_worked_out_by_hand(tmp_path: Path) -> None:
    model = load(tmp_path, ["a b", "a"], 2)
    # Discounts 0.5, 1, 1.5. Before a, b and </s> stand 1, 1 and 2 words, so that of 4 discounts
    # leave 2, of which each of a, b, </s> and <unk> has a quarter:
    # p(a) = .5/4 + .5·.25 = .25, p(</s>) = 1/4 + .5·.25 = .375.
    # After a come b and </s>, once each: p(b|a) = .5/2 + .5·p(b) = .375.
    # After <s> comes a, twice: p(a|<s>) = 1/2 + .5·.25 = .625.
    scores = [math.exp(s.log_prob) for s in model.full_scores("a b")]
    assert scores == pytest.approx([0.625, 0.375, 0.5 + 0.5 * 0.375], abs=1e-6)
    assert math.exp(model.score("zebra", bos=False, eos=False)) == pytest.approx(0.125)


def test_a_pruned_bigram_worked_out_by_hand(tmp_path: Path) -> None:
    # As above, but b and </s> after a, once each, are gone, and with them all that a's context
    # kept for itself: p(b|a) = p(b) = 1/4.
    path = tmp_path / "lm.arpa"
    path.write_text("".join(train_ngrams(["a b", "a"], 2, prune=1, decimals=7)), encoding="utf-8")
    model = NgramLanguageModel.load(path, cache=False)
    scores = [math.exp(s.log_prob) for s in model.full_scores("a b")]
    assert scores == pytest.approx([0.625, 0.25, 0.375], abs=1e-6)
    with pytest.raises(NgramError, match="prune is 1; it must be at least 0, and 0 where the"):
        train_ngrams(["a"], 1, prune=1)


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [
        ([], 3, "no words"),
        (["  ", ""], 3, "no words"),
        (["a <s> b"], 3, "sentence 1: <s> is not a word"),
        (["a"], 0, "order is 0; it must be from 1 to 6"),
        (["a"], 7, "order is 7"),
    ],
)
def test_what_makes_no_model_is_refused(sentences: list[str], order: int, message: str) -> None:
    with pytest.raises(NgramError, match=message):
        train_ngrams(sentences, order)


def test_the_command_tells_the_perplexity_worked_out_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("a b\na\n", "utf-8")
    rows = [{"id": str(i), "audio_filepath": "x.wav", "duration": 1.0} for i in range(2)]
    spoken = zip(rows, ("A, b!", "zebra"), strict=True)
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({**row, "text": text}) + "\n" for row, text in spoken), "utf-8"
    )
    command = ["lm", "--text", str(tmp_path / "text"), "--order", "2"]
    command += ["--test", str(tmp_path / "test.jsonl"), "--out", str(tmp_path / "lm.arpa")]
    assert main(command) == 0
    # As above: a, b and </s>; then zebra, of which nothing is known after <s> but that it is
    # unknown (half of a quarter, half of which is left for it), and </s> after it: .375.
    # The file has two decimals of the logarithms, of words and of what they back off by.
    factors = (10 ** round(math.log10(p), 2) for p in (0.625, 0.375, 0.6875, 0.5, 0.125, 0.375))
    perplexity = math.prod(factors) ** (-1 / 5)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(f"perplexity {perplexity:.1f}, 20.00% of 5 unknown")


def test_listed_words_stand_in_for_the_uniform_distribution(tmp_path: Path) -> None:
    """Words that the text lacks share, by their frequency, what its words' discounts leave."""
    texts = ["a b a c", "b a", "c d a b"]
    path = tmp_path / "lm.arpa"
    path.write_text(
        "".join(train_ngrams(texts, 1, decimals=9, frequencies={"a": 6.0, "x": 3.0, "y": 1.0}))
    )
    model = NgramLanguageModel.load(path, cache=False)
    plain = tmp_path / "plain.arpa"
    plain.write_text("".join(train_ngrams(texts, 1, decimals=9)))
    uniform = NgramLanguageModel.load(plain, cache=False)

    def probability(ngrams: NgramLanguageModel, word: str) -> float:
        return math.exp(ngrams.full_scores([word], bos=False, eos=False)[0].log_prob)

    end = math.exp(model.score([], bos=False))
    names = ["a", "b", "c", "d", "x", "y", "<unk>"]
    assert sum(probability(model, word) for word in names) + end == pytest.approx(1.0)
    # <unk> and the words that are not listed count as y does: 1 of 6 + 3 + 1 and five more.
    assert probability(model, "x") == pytest.approx(3 * probability(model, "y"))
    assert probability(model, "unheard-of") == pytest.approx(probability(model, "y"))
    # What is left after discounts is the same, and so is what a word has for its own count.
    left = probability(uniform, "<unk>") * 6  # a, b, c, d, </s> and <unk>
    assert probability(model, "y") == pytest.approx(left / 15)
    difference = probability(model, "b") - probability(uniform, "b")
    assert difference == pytest.approx(left / 15 - left / 6)


@pytest.mark.parametrize(("word", "frequency"), [("a", 0.0), ("a", -1.0), ("<unk>", 1.0)])
def test_frequencies_that_are_none_are_refused(word: str, frequency: float) -> None:
    with pytest.raises(NgramError, match=word):
        list(train_ngrams(["a b"], 2, frequencies={word: frequency}))
