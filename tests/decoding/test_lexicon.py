"""A pronunciation lexicon in the CTC search, against its definition."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from voxformer.decoding import (
    BeamOptions,
    CtcBeamDecoder,
    FusionOptions,
    Hypothesis,
    Lexicon,
    NgramLanguageModel,
    ctc_greedy,
)

from .arpa_models import WORDS, ArpaModel, random_model
from .oracles import (
    Ids,
    LogProbs,
    Pronounced,
    brute_force,
    final_score,
    log_softmax,
    reference_beam,
)

# A blank, a mark of its own, words' beginnings by either mark, and pieces that go on.
TOKENS = ["<blank>", "▁", "▁a", "b", " b", "a", "▁ba"]
MOST_HISTORIES = 8  # choices among homophones that a prefix keeps: kMostHistories


class Model:
    """The same model for the search and for the oracle."""

    def __init__(self, path: Path, arpa: ArpaModel) -> None:
        self.arpa = arpa
        self.loaded = load(path, arpa.text())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Trigrams over some of WORDS, with and without an <unk> that the file lists."""
    folder = tmp_path_factory.mktemp("lm")
    return [
        Model(folder / f"{n}.arpa", random_model(n, order=3, ngrams=150, with_unknown=n != 5))
        for n in range(6)
    ]


def load(path: Path, arpa: str) -> NgramLanguageModel:
    path.write_text(arpa, encoding="utf-8")
    return NgramLanguageModel.load(path, cache=False)


def random_lexicon(seed: int) -> list[tuple[str, str]]:
    """Homophones in pairs, words with several spellings, and words that no model has."""
    rng = random.Random(seed)
    letters = ["".join(way) for n in (1, 2, 3) for way in itertools.product("ab", repeat=n)]
    words = [*WORDS, "missing", "absent"]
    entries = [
        (word, spelling)
        for spelling in rng.sample(letters, rng.randint(1, 9))
        for word in rng.sample(words, rng.choice([1, 2, 2]))
    ]
    rng.shuffle(entries)
    return entries


@dataclass
class Setup:
    """One lexicon, model and set of weights, drawn by a seed."""

    seed: int
    with_model: bool
    models: list[Model]
    # The oracle's language model is by definition, too, and not rounded as the search's is.
    exact: bool = True

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.lexicon = Lexicon(random_lexicon(self.seed))
        self.model = rng.choice(self.models) if self.with_model else None
        self.fusion = FusionOptions(
            lm_weight=rng.choice([0.0, 0.5, 2.0]),
            word_bonus=rng.choice([0.0, 1.2, -0.7]),
            unknown_word_bonus=rng.choice([0.0, 0.0, -3.0, 2.0]),
        )
        self.hotwords = self.random_hotwords(rng)
        self.oracle = Pronounced(
            TOKENS,
            self.lexicon.entries,
            None if self.model is None else cache(self.word_log_probs),
            self.fusion.lm_weight,
            self.fusion.word_bonus,
            self.hotwords,
        )

    def random_hotwords(self, rng: random.Random) -> dict[str, float]:
        words = [word for word, _ in self.lexicon.entries if word.split() == [word]]
        if not words or rng.random() < 0.5:
            return {}
        word, other = rng.choice(words), rng.choice(words)
        return rng.choice([{word: 2.0}, {word: 1.5, f"{word} {other}": 3.0}])

    def word_log_probs(self, words: tuple[str, ...], whole: bool) -> list[float]:
        assert self.model is not None
        model = self.model.arpa if self.exact else self.model.loaded
        scores = model.full_scores(words, whole, whole)
        bonus = self.fusion.unknown_word_bonus
        return [min(0.0, log_prob + bonus * unknown) for log_prob, _, unknown in scores]

    def decoder(self, num_threads: int = 1, **options: float) -> CtcBeamDecoder:
        return CtcBeamDecoder(
            TOKENS,
            BeamOptions(**options),  # type: ignore[arg-type]
            num_threads,
            language_model=None if self.model is None else self.model.loaded,
            hotwords=self.hotwords,
            fusion=self.fusion,
            lexicon=self.lexicon,
        )

    def check(self, hypothesis: Hypothesis, length_bonus: float, length_penalty: float) -> None:
        """All but ctc_score, given the ids."""
        ids = hypothesis.token_ids
        assert self.oracle.allows(ids)
        lm_score, bonus_score = self.oracle.lm_score(ids), self.oracle.bonus_score(ids)
        assert hypothesis.lm_score == pytest.approx(lm_score, abs=1e-4, rel=1e-6)
        assert hypothesis.bonus_score == pytest.approx(bonus_score, abs=1e-9)
        assert hypothesis.ctc_score is not None
        acoustic = hypothesis.ctc_score + self.fusion.lm_weight * lm_score + bonus_score
        score = final_score(acoustic, len(ids), length_bonus, length_penalty)
        assert hypothesis.score == pytest.approx(score, abs=2e-4, rel=1e-6)
        assert hypothesis.words is not None
        assert self.oracle.reads(ids, hypothesis.words)
        assert hypothesis.text == " ".join(hypothesis.words)


def random_log_probs(seed: int, frames: int, sharpness: float) -> LogProbs:
    logits = np.random.default_rng(seed).normal(size=(frames, len(TOKENS))) * sharpness
    return log_softmax(logits)


seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=120)
@given(
    seed=seeds,
    with_model=st.sampled_from([True, True, False]),
    frames=st.integers(1, 4),
    length_bonus=st.sampled_from([0.0, 0.8]),
    length_penalty=st.sampled_from([0.0, 1.0]),
)
def test_a_beam_that_holds_every_prefix_equals_brute_force(
    models: list[Model],
    seed: int,
    with_model: bool,
    frames: int,
    length_bonus: float,
    length_penalty: float,
) -> None:
    setup = Setup(seed, with_model, models)
    log_probs = random_log_probs(seed, frames, 1.0)
    ctc_scores = {i: ctc for i, ctc in brute_force(log_probs, 0).items() if setup.oracle.allows(i)}
    room = len(ctc_scores) + 1
    lengths = {"length_bonus": length_bonus, "length_penalty": length_penalty}
    found = setup.decoder(beam_size=room, n_best=room, **lengths).decode(log_probs[None])[0]
    assert sorted(h.token_ids for h in found) == sorted(ctc_scores)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(ctc_scores[hypothesis.token_ids], abs=1e-6)
        setup.check(hypothesis, length_bonus, length_penalty)
    # Different texts of equal score may stand in either order once they are rounded.
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@settings(deadline=None, max_examples=300)
@given(
    seed=seeds,
    with_model=st.sampled_from([True, True, False]),
    beam_size=st.sampled_from([1, 2, 3, 3, 8]),
    frames=st.integers(1, 12),
    sharpness=st.sampled_from([1.0, 4.0, 60.0, 2000.0]),
    length_bonus=st.sampled_from([0.0, 0.8]),
    beam_threshold=st.sampled_from([math.inf, math.inf, 10.0]),
    token_min_log_prob=st.sampled_from([-math.inf, -math.inf, -5.0]),
    per_state=st.sampled_from([0, 1, 2]),
)
def test_a_narrow_search_equals_a_plain_one(
    models: list[Model],
    seed: int,
    with_model: bool,
    beam_size: int,
    frames: int,
    sharpness: float,
    length_bonus: float,
    beam_threshold: float,
    token_min_log_prob: float,
    per_state: int,
) -> None:
    setup = Setup(seed, with_model, models, exact=False)
    log_probs = random_log_probs(seed, frames, sharpness)
    cuts = {"beam_threshold": beam_threshold, "token_min_log_prob": token_min_log_prob}
    # With a language model or hotwords a state is more than the word that is being spelled:
    # test_fusion.py has these.
    if setup.model is not None or setup.hotwords:
        per_state = 0
    kept = reference_beam(
        log_probs,
        beam_size,
        0,
        length_bonus,
        setup.oracle.earned,
        **cuts,
        state=lambda ids: (ids[-1:], setup.oracle.closed_and_last(ids)[1]),
        per_state=per_state,
    )
    decoder = setup.decoder(
        beam_size=beam_size,
        n_best=beam_size,
        length_bonus=length_bonus,
        prefixes_per_state=per_state,
        **cuts,
    )
    found = decoder.decode(log_probs[None])[0]
    assert {h.token_ids for h in found} == set(kept)
    for hypothesis in found:
        expected = kept[hypothesis.token_ids]
        tolerance = 1e-9 * max(1.0, abs(expected)) + 1e-6
        assert hypothesis.ctc_score == pytest.approx(expected, abs=tolerance)
        setup.check(hypothesis, length_bonus, 0.0)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, with_model=st.booleans(), frames=st.integers(2, 4))
def test_what_a_beam_of_three_returns_is_scored_as_it_should(
    models: list[Model], seed: int, with_model: bool, frames: int
) -> None:
    setup = Setup(seed, with_model, models)
    log_probs = random_log_probs(seed, frames, 2.0)
    ctc_scores = brute_force(log_probs, 0)
    for hypothesis in setup.decoder(beam_size=3, n_best=3).decode(log_probs[None])[0]:
        assert hypothesis.ctc_score is not None
        # The beam may have lost alignments, and has no others.
        assert hypothesis.ctc_score <= ctc_scores[hypothesis.token_ids] + 1e-6
        setup.check(hypothesis, 0.0, 0.0)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, with_model=st.booleans(), sharpness=st.sampled_from([1.0, 3.0, 40.0]))
def test_words_but_the_last_are_all_spelled_out(
    models: list[Model], seed: int, with_model: bool, sharpness: float
) -> None:
    setup = Setup(seed, with_model, models)
    log_probs = random_log_probs(seed, 40, sharpness)
    for found in setup.decoder(beam_size=8, n_best=8).decode(log_probs[None])[0]:
        assert found.words is not None
        groups = setup.oracle.groups(found.token_ids)
        for place, (group, word) in enumerate(zip(groups, found.words, strict=True)):
            spellings = setup.lexicon.spellings(word)
            last = place == len(groups) - 1
            assert group in spellings or (last and any(s.startswith(group) for s in spellings))


@settings(deadline=None, max_examples=25)
@given(
    seed=seeds, with_model=st.booleans(), cuts=st.lists(st.integers(0, 30), max_size=4).map(sorted)
)
def test_any_chunking_and_any_number_of_threads_give_the_same(
    models: list[Model], seed: int, with_model: bool, cuts: list[int]
) -> None:
    setup = Setup(seed, with_model, models)
    batch = np.stack([random_log_probs(seed + i, 30, 3.0) for i in range(5)])
    decoder = setup.decoder(beam_size=6, n_best=6)
    expected = decoder.decode(batch)
    assert setup.decoder(num_threads=2, beam_size=6, n_best=6).decode(batch) == expected
    assert [decoder.decode(batch[i : i + 1])[0] for i in range(5)] == expected
    stream = decoder.stream()
    for start, end in itertools.pairwise([0, *cuts, 30]):
        stream.feed(batch[0, start:end])
        assert stream.partial() == decoder.decode(batch[:1, :end])[0]
    assert stream.finish() == expected[0]


@settings(deadline=None, max_examples=30)
@given(seed=seeds, with_model=st.booleans(), k=st.integers(1, len(TOKENS) - 1))
def test_the_best_tokens_of_frames_give_what_all_give_without_the_others(
    models: list[Model], seed: int, with_model: bool, k: int
) -> None:
    setup = Setup(seed, with_model, models)
    batch = np.stack([random_log_probs(seed + i, 8, 2.0) for i in range(2)])
    ids = 1 + np.argsort(-batch[:, :, 1:], axis=-1)[:, :, :k]
    named = np.take_along_axis(batch, ids, axis=-1)
    left = np.full_like(batch, -np.inf)
    np.put_along_axis(left, ids, named, axis=-1)
    left[:, :, 0] = batch[:, :, 0]
    decoder = setup.decoder(beam_size=5, n_best=5)
    assert decoder.decode_top_k(ids, named, batch[:, :, 0]) == decoder.decode(left)


@settings(deadline=None, max_examples=100)
@given(
    seed=seeds,
    with_model=st.booleans(),
    ids=st.lists(st.integers(1, len(TOKENS) - 1), max_size=7).map(tuple),
)
def test_any_ids_are_read(models: list[Model], seed: int, with_model: bool, ids: Ids) -> None:
    setup = Setup(seed, with_model, models)
    *closed, _ = setup.oracle.groups(ids) or [""]
    assume(all(map(setup.oracle.is_word_or_nothing, closed)))
    given_one = Hypothesis(ids, text="as before", score=-1.5, attention_score=-2.0)
    read = setup.decoder().read(given_one)
    assert read.words is not None
    assert setup.oracle.reads(ids, read.words)
    assert read.text == " ".join(read.words)
    assert (read.token_ids, read.score, read.attention_score) == (ids, -1.5, -2.0)


PHONES = ["<blank>", "▁t", "u", "▁f", "o", "r"]
NUMBERS = [("to", "tu"), ("two", "tu"), ("for", "for"), ("four", "for"), ("four", "fo")]
NUMBERS_ARPA = """\\data\\
ngram 1=7
ngram 2=4

\\1-grams:
-99 <s> 0
-1 </s>
-3 <unk>
-1 to 0
-2 two 0
-1 for 0
-2 four 0

\\2-grams:
-0.5 <s> for
-0.1 two four
-0.1 four two
-0.1 for </s>

\\end\\
"""
LN_10 = math.log(10.0)


def spelled(*ids: int) -> LogProbs:
    """Frames [1, time, vocab] that are nearly sure of their tokens."""
    rows = np.full((len(ids), len(PHONES)), 1e-6)
    rows[np.arange(len(ids)), ids] = 0.9
    return np.log(rows).astype(np.float32)[None]


TU, FOR, TU_FOR = (1, 2), (3, 4, 5), (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> NgramLanguageModel:
    return load(tmp_path_factory.mktemp("numbers") / "lm.arpa", NUMBERS_ARPA)


def test_the_words_around_tell_homophones_apart(numbers: NgramLanguageModel) -> None:
    decoder = CtcBeamDecoder(PHONES, language_model=numbers, lexicon=Lexicon(NUMBERS))
    [to] = decoder.decode(spelled(*TU))[0]
    assert (to.words, to.text, to.token_ids) == (("to",), "to", TU)
    assert to.lm_score == pytest.approx(-2 * LN_10)
    # to for </s>: 1 + 1 + 0.1; two four </s>: 2 + 0.1 + 1; the others more
    [to_for] = decoder.decode(spelled(*TU_FOR))[0]
    assert (to_for.words, to_for.lm_score) == (("to", "for"), pytest.approx(-2.1 * LN_10))
    # for to for </s>: 0.5 + 1 + 1 + 0.1; for two four </s>: 0.5 + 2 + 0.1 + 1
    # four two four </s>: 2 + 0.1 + 0.1 + 1
    assert decoder.decode(spelled(*FOR, *TU_FOR))[0][0].words == ("for", "to", "for")
    longer = spelled(*(FOR + TU) * 3)
    # What is chosen at the start is known at the end.
    assert decoder.decode(longer)[0][0].words == ("four", "two", "four", "two", "four", "two")
    first = CtcBeamDecoder(PHONES, lexicon=Lexicon(NUMBERS)).decode(longer)[0][0]
    assert first.words == ("for", "to", "for", "to", "for", "to")


def test_what_no_word_begins_with_is_not_written() -> None:
    decoder = CtcBeamDecoder(PHONES, BeamOptions(n_best=10), lexicon=Lexicon(NUMBERS))
    assert (3, 2) not in {h.token_ids for h in decoder.decode(spelled(3, 2))[0]}
    # "▁t" begins "tu" and is no word, so that no word follows it.
    found = decoder.decode(spelled(1, 3))[0]
    assert (1, 3) not in {h.token_ids for h in found}
    assert {h.token_ids: h.words for h in found}[1,] == ("to",)


def test_a_word_that_is_begun_is_unknown_and_read_as_the_most_probable(
    numbers: NgramLanguageModel,
) -> None:
    entries = [*NUMBERS, ("tour", "tur"), ("two", "t")]
    decoder = CtcBeamDecoder(PHONES, language_model=numbers, lexicon=Lexicon(entries))
    # <unk> </s>: 3 + 1. What is a word by itself is no other word's beginning: 2 + 1.
    for token, word, score in [(3, "for", -4 * LN_10), (1, "two", -3 * LN_10)]:
        [found] = decoder.decode(spelled(token))[0]
        assert (found.words, found.lm_score) == ((word,), pytest.approx(score))


def arpa_of_all(words: list[str], order: int, seed: int) -> ArpaModel:
    """All n-grams of `words` up to `order`, at random."""
    rng = random.Random(seed)
    model = ArpaModel(order)
    for word in ["<s>", "</s>", "<unk>", *words]:
        model.ngrams[word,] = (-round(rng.uniform(1, 3), 3), -round(rng.random(), 3))
    for n in range(2, order + 1):
        for context in itertools.product(["<s>", *words], *[words] * (n - 2)):
            for word in words:
                backoff = None if n == order else -round(rng.random(), 3)
                model.ngrams[(*context, word)] = (-round(rng.uniform(0.1, 3), 3), backoff)
    return model


@pytest.mark.parametrize(("order", "num_words"), [(2, MOST_HISTORIES), (3, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_many_homophones_are_scored_as_they_are_read(
    tmp_path: Path, order: int, num_words: int, seed: int
) -> None:
    words = [f"w{i}" for i in range(num_words)]
    arpa = arpa_of_all(words, order, seed)
    lexicon = Lexicon((word, "a") for word in words)
    model = load(tmp_path / "lm.arpa", arpa.text())
    log_probs = np.full((1, 7, len(TOKENS)), -12.0, dtype=np.float32)
    log_probs[:, ::2, 2] = log_probs[:, 1::2, 0] = -0.001
    [found] = CtcBeamDecoder(TOKENS, language_model=model, lexicon=lexicon).decode(log_probs)[0]
    assert found.token_ids == (2,) * 4
    assert found.words is not None

    @cache
    def log_prob(sentence: tuple[str, ...]) -> float:
        return sum(p for p, _, _ in arpa.full_scores(sentence))

    assert found.lm_score == pytest.approx(log_prob(found.words), abs=1e-4)
    best = max(map(log_prob, itertools.product(words, repeat=4)))
    assert found.lm_score <= best + 1e-4
    if order == 2:  # where a prefix keeps as many contexts as there are
        assert found.lm_score == pytest.approx(best, abs=1e-4)


def test_a_hotword_is_boosted_however_it_is_spelled() -> None:
    options = BeamOptions(beam_size=50, n_best=50)
    plain = CtcBeamDecoder(PHONES, options, lexicon=Lexicon(NUMBERS))
    boosted = CtcBeamDecoder(PHONES, options, hotwords={"four": 2.0}, lexicon=Lexicon(NUMBERS))
    log_probs = log_softmax(np.random.default_rng(3).normal(size=(4, 6)))[None]
    before = {h.token_ids: h for h in plain.decode(log_probs)[0]}
    after = {h.token_ids: h for h in boosted.decode(log_probs)[0]}
    assert {FOR, (3, 4), TU} <= set(after) == set(before)
    for ids, hypothesis in after.items():
        times = sum(g in ("for", "fo") for g in Pronounced(PHONES, NUMBERS).groups(ids))
        assert hypothesis.bonus_score == 2.0 * times
        assert hypothesis.score == pytest.approx(before[ids].score + 2.0 * times)
    both = CtcBeamDecoder(PHONES, options, hotwords={"two four": 3.0}, lexicon=Lexicon(NUMBERS))
    found = {h.token_ids: h.bonus_score for h in both.decode(spelled(*TU_FOR))[0]}
    assert (found[TU_FOR], found[1, 2, 3, 4], found[TU]) == (3.0, 3.0, 0.0)


def test_a_hotword_that_the_lexicon_cannot_spell_is_refused() -> None:
    lexicon = Lexicon([*NUMBERS, *[("many", f"t{'u' * i}") for i in range(1, 12)]])

    def decoder(hotword: str | tuple[int, ...]) -> CtcBeamDecoder:
        return CtcBeamDecoder(PHONES, hotwords={hotword: 1.0}, lexicon=lexicon)

    with pytest.raises(ValueError, match="hotword 'four five': the lexicon lacks 'five'"):
        decoder("four five")
    with pytest.raises(ValueError, match=r"hotword 'many many': .* more than 100 ways"):
        decoder("many many")
    with pytest.raises(ValueError, match=r"hotword \(1, 2\): with a lexicon, hotwords are texts"):
        decoder((1, 2))
    with pytest.raises(ValueError, match="hotword '' is empty"):
        decoder(" ")


def test_reading_what_another_search_found(numbers: NgramLanguageModel) -> None:
    decoder = CtcBeamDecoder(PHONES, language_model=numbers, lexicon=Lexicon(NUMBERS))
    log_probs = spelled(*TU_FOR)
    [greedy] = ctc_greedy(log_probs, tokens=PHONES)
    assert (greedy.text, greedy.words) == ("tu for", None)
    read = decoder.read(greedy)
    assert (read.text, read.words) == ("to for", ("to", "for"))
    assert (read.token_ids, read.timesteps) == (greedy.token_ids, greedy.timesteps)
    # What the lexicon lacks counts as unknown and stays.
    other = decoder.read(Hypothesis((2, 2, *TU, 3, 2, 1, 5), text="", score=0.0))
    assert other.words == ("uu", "to", "fu", "tr")
    assert decoder.read(Hypothesis((), text="x", score=0.0)).words == ()
    for no_id in (6, -1):
        with pytest.raises(ValueError, match=f"id {no_id} is not in the vocabulary"):
            decoder.read(Hypothesis((1, no_id), text="", score=0.0))
    without = CtcBeamDecoder(PHONES, language_model=numbers)
    assert without.read(greedy) is greedy
    assert without.decode(log_probs)[0][0].words is None


def test_what_only_begins_a_word_and_is_not_the_last_stays_as_it_is_spelled() -> None:
    decoder = CtcBeamDecoder(PHONES, lexicon=Lexicon(NUMBERS))
    assert decoder.read(Hypothesis((1, *FOR), text="", score=0.0)).words == ("t", "for")


def test_words_stay_with_a_hypothesis(numbers: NgramLanguageModel) -> None:
    options = BeamOptions(n_best=2)
    decoder = CtcBeamDecoder(PHONES, options, language_model=numbers, lexicon=Lexicon(NUMBERS))
    log_probs = spelled(*TU_FOR)
    # Before and after its fields have been asked for.
    unread = pickle.loads(pickle.dumps(decoder.decode(log_probs)[0]))
    hypotheses = decoder.decode(log_probs)[0]
    assert hypotheses[0].words == ("to", "for")
    assert pickle.loads(pickle.dumps(hypotheses)) == hypotheses == unread
    assert [h.words for h in unread] == [h.words for h in hypotheses]
    rescored = decoder.rescore(hypotheses, np.full((2, 8), -0.5, dtype=np.float32))
    assert {h.token_ids: h.words for h in rescored} == {h.token_ids: h.words for h in hypotheses}


def test_frames_that_spell_nothing_have_no_words(numbers: NgramLanguageModel) -> None:
    decoder = CtcBeamDecoder(PHONES, language_model=numbers, lexicon=Lexicon(NUMBERS))
    for [empty] in (decoder.decode(np.zeros((1, 0, 6)))[0], decoder.stream().finish()):
        assert (empty.token_ids, empty.words, empty.text) == ((), (), "")
        assert (empty.score, empty.lm_score) == (0.0, 0.0)
    only_u = np.full((1, 1, 6), -np.inf, dtype=np.float32)
    only_u[0, 0, 2] = 0.0
    assert [(h.token_ids, h.score) for h in decoder.decode(only_u)[0]] == [((), -math.inf)]


def test_what_a_lexicon_cannot_be_used_with_is_refused(numbers: NgramLanguageModel) -> None:
    lexicon = Lexicon(NUMBERS)
    with pytest.raises(ValueError, match=r"a lexicon .* need the texts of the tokens"):
        CtcBeamDecoder(None, lexicon=lexicon)
    with pytest.raises(ValueError, match="a lexicon needs tokens that begin with a space"):
        CtcBeamDecoder(["<blank>", "t", "u"], lexicon=lexicon)
    with pytest.raises(ValueError, match=r"token 1 \('▁t▁u'\) is of more than one word"):
        CtcBeamDecoder(["<blank>", "▁t▁u"], lexicon=lexicon)
    over_tokens = FusionOptions(lm_unit="token")
    with pytest.raises(ValueError, match="a language model over words"):
        CtcBeamDecoder(PHONES, language_model=numbers, fusion=over_tokens, lexicon=lexicon)


def test_a_narrow_beam_is_not_spent_on_what_the_language_model_has_forgotten() -> None:
    """Four words that could be either of two, and then one whose beginning sounds more like that of
    another: the beam of a search that tells all sixteen beginnings apart has no room for it."""
    tokens = ["<blank>", "\u2581a", "\u2581b", "\u2581do", "\u2581go", "ne"]
    lexicon = Lexicon([("a", "a"), ("b", "b"), ("do", "do"), ("gone", "gone")])
    blank = [0.95, 0.01, 0.01, 0.01, 0.01, 0.01]
    either = [0.01, 0.49, 0.47, 0.01, 0.01, 0.01]
    frames = [*[either, blank] * 4, [0.01, 0.01, 0.01, 0.60, 0.36, 0.01]]
    frames += [[0.001, 0.001, 0.001, 0.001, 0.001, 0.995]]
    log_probs = np.log(np.array([frames], dtype=np.float32))

    def first(beam_size: int, per_state: int) -> Hypothesis:
        options = BeamOptions(beam_size=beam_size, prefixes_per_state=per_state)
        return CtcBeamDecoder(tokens, options, lexicon=lexicon).decode(log_probs)[0][0]

    assert first(1000, 0).text.endswith(" gone")
    assert not first(8, 0).text.endswith(" gone")
    assert first(8, 1).text.endswith(" gone")
    assert first(8, 1).score == pytest.approx(first(1000, 0).score, abs=0.1)
