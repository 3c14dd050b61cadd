"""Language model, word bonus and hotwords in the CTC search, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import (
    BeamOptions,
    CtcBeamDecoder,
    FusionOptions,
    NgramLanguageModel,
)

from .oracles import Ids, brute_force, log_softmax, occurrences, ranked, reference_beam

# A blank, a space of its own, words in one piece and in two, and a piece that goes on.
TOKENS = ["<blank>", "▁", "▁a", "b", "▁ab", "a", "c"]
HOTWORDS = {"ab": 1.5, "a b": 2.5, "ab a": 3.0, "ba": 0.7}
ARPA = """\\data\\
ngram 1=7
ngram 2=6
ngram 3=3

\\1-grams:
-99 <s> -0.4
-1.1 </s>
-1.9 <unk> -0.1
-0.7 a -0.3
-0.9 ab -0.25
-1.3 b -0.1
-1.0 ba -0.2

\\2-grams:
-0.5 <s> a -0.15
-0.8 a ab -0.2
-0.6 ab a
-0.9 ab </s>
-0.4 a a -0.05
-0.7 <s> ab -0.3

\\3-grams:
-0.2 <s> a ab
-0.3 a ab a
-0.25 <s> ab a

\\end\\
"""
TOKEN_ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-99 <s> -0.4
-1.1 </s>
-0.7 ▁a -0.3
-0.9 b -0.25
-1.3 ▁ -0.1
-1.0 c -0.2

\\2-grams:
-0.5 <s> ▁a
-0.2 ▁a b

\\end\\
"""


@pytest.fixture(scope="module")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> NgramLanguageModel:
    return load(tmp_path_factory, ARPA)


@pytest.fixture(scope="module")
def token_model(tmp_path_factory: pytest.TempPathFactory) -> NgramLanguageModel:
    return load(tmp_path_factory, TOKEN_ARPA)


def load(factory: pytest.TempPathFactory, arpa: str) -> NgramLanguageModel:
    path: Path = factory.mktemp("lm") / "model.arpa"
    path.write_text(arpa, encoding="utf-8")
    return NgramLanguageModel.load(path)


@dataclass
class Fusion:
    """What prefixes earn, from whole texts and by the definitions in the documentation."""

    model: NgramLanguageModel | None
    options: FusionOptions
    hotwords: Mapping[str, float]

    def text(self, prefix: Ids) -> str:
        return " " + "".join(TOKENS[i] for i in prefix).replace("▁", " ")

    def lm_score(self, words: list[str], end: bool) -> float:
        if self.model is None:
            return 0.0
        scores = self.model.full_scores(words, eos=end)
        bonus = self.options.unknown_word_bonus
        return sum(min(0.0, s.log_prob + (bonus if s.oov else 0.0)) for s in scores)

    def lent(self, text: str) -> float:
        shares = [
            boost * k / len(phrase)
            for phrase, boost in self.hotwords.items()
            for k in range(1, len(phrase) + 1)
            if text.endswith(f" {phrase[:k]}")
        ]
        return max(shares, default=0.0)

    def parts(self, prefix: Ids) -> tuple[float, float]:
        """lm_score and bonus_score of an utterance that ends."""
        text = self.text(prefix) + " "
        words = text.split()
        units = [TOKENS[i] for i in prefix] if self.options.lm_unit == "token" else words
        bonus = self.options.word_bonus * len(words) + occurrences(self.hotwords, text)
        return self.lm_score(units, end=True), bonus

    def earned(self, prefix: Ids) -> float:
        """While the search runs: complete words, and what is lent to hotwords."""
        text = self.text(prefix)
        complete = text.split() if text.endswith(" ") else text.split()[:-1]
        units = [TOKENS[i] for i in prefix] if self.options.lm_unit == "token" else complete
        lm = self.lm_score(units, end=False)
        return (
            self.options.lm_weight * lm * (self.model is not None)
            + self.options.word_bonus * len(complete)
            + occurrences(self.hotwords, text)
            + self.lent(text)
        )

    def state(self, prefix: Ids) -> tuple[object, ...]:
        """All that what follows can depend on: the last token, the word so far, and of the words
        before it and of the hotwords begun no more than the models have."""
        text = self.text(prefix)
        *complete, word = text.split(" ")
        token_lm = self.options.lm_unit == "token"
        units = [TOKENS[i] for i in prefix] if token_lm else [w for w in complete if w]
        context: tuple[str, ...] = ()
        if self.model is not None:
            contexts = contexts_of(TOKEN_ARPA if token_lm else ARPA)
            known = ("<s>", *(u if (u,) in contexts.words else "<unk>" for u in units))
            context = next((known[-n:] for n in (2, 1) if known[-n:] in contexts.told), ())
        begun = max(
            (
                text[-k:]
                for phrase in self.hotwords
                for k in range(1, len(phrase) + 3)
                if text.endswith(f" {phrase} "[:k])
            ),
            key=len,
            default="",
        )
        return prefix[-1:], word, context, begun

    def score(self, prefix: Ids, ctc_score: float) -> float:
        lm, bonus = self.parts(prefix)
        return ctc_score + self.options.lm_weight * lm + bonus


@dataclass(frozen=True)
class Contexts:
    """Of an ARPA file: its words, and the n-grams with a back-off weight other than 1."""

    words: frozenset[tuple[str, ...]]
    told: frozenset[tuple[str, ...]]


@cache
def contexts_of(arpa: str) -> Contexts:
    lines = [line.split() for line in arpa.splitlines() if line[:1] == "-"]
    ngrams = [(tuple(f for f in fields[1:] if f[:1] != "-"), fields[-1]) for fields in lines]
    told = frozenset(ngram for ngram, last in ngrams if last[:1] == "-" and float(last) != 0.0)
    return Contexts(frozenset(ngram for ngram, _ in ngrams if len(ngram) == 1), told)


def random_log_probs(seed: int, frames: int, sharpness: float) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, len(TOKENS))) * sharpness
    return log_softmax(logits)


def decoder_of(fusion: Fusion, **options: float) -> CtcBeamDecoder:
    return CtcBeamDecoder(
        TOKENS,
        BeamOptions(**options),  # type: ignore[arg-type]
        language_model=fusion.model,
        hotwords=fusion.hotwords,
        fusion=fusion.options,
    )


Choose = Callable[[str], NgramLanguageModel | None]


@pytest.fixture(scope="module")
def choose(word_model: NgramLanguageModel, token_model: NgramLanguageModel) -> Choose:
    return {"word": word_model, "token": token_model, "none": None}.get  # type: ignore[return-value]


setups = st.fixed_dictionaries(
    {
        "unit": st.sampled_from(["word", "token", "none"]),
        "lm_weight": st.sampled_from([0.0, 0.5, 2.0]),
        "word_bonus": st.sampled_from([0.0, 1.2, -0.7]),
        "unknown_word_bonus": st.sampled_from([0.0, -3.0, 2.0, -300.0]),
        "hotwords": st.sampled_from([{}, {"ab": 2.0}, HOTWORDS, {"a": 60.0}]),
    }
)


def fusion_of(setup: dict[str, object], choose: Choose) -> Fusion:
    unit = str(setup["unit"])
    options = FusionOptions(
        lm_weight=setup["lm_weight"],  # type: ignore[arg-type]
        word_bonus=setup["word_bonus"],  # type: ignore[arg-type]
        unknown_word_bonus=setup["unknown_word_bonus"],  # type: ignore[arg-type]
        lm_unit="token" if unit == "token" else "word",
    )
    return Fusion(choose(unit), options, setup["hotwords"])  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), setup=setups, frames=st.integers(1, 4))
def test_a_beam_that_holds_every_prefix_equals_brute_force(
    choose: Choose, seed: int, setup: dict[str, object], frames: int
) -> None:
    fusion = fusion_of(setup, choose)
    log_probs = random_log_probs(seed, frames, 1.0)
    ctc_scores = brute_force(log_probs, 0)
    scores = {ids: fusion.score(ids, ctc) for ids, ctc in ctc_scores.items()}
    beam_size = len(scores)
    found = decoder_of(fusion, beam_size=beam_size, n_best=beam_size).decode(log_probs[None])[0]
    assert len(found) == beam_size
    for hypothesis in found:
        lm_score, bonus_score = fusion.parts(hypothesis.token_ids)
        assert hypothesis.ctc_score == pytest.approx(ctc_scores[hypothesis.token_ids], abs=1e-9)
        assert hypothesis.lm_score == pytest.approx(lm_score, abs=1e-5)
        assert hypothesis.bonus_score == pytest.approx(bonus_score, abs=1e-9)
        assert hypothesis.score == pytest.approx(scores[hypothesis.token_ids], abs=2e-5)
    # Different texts of equal score may stand in either order once they are rounded.
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert found[0].score == pytest.approx(max(scores.values()), abs=2e-5)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    setup=setups,
    beam_size=st.integers(1, 8),
    frames=st.integers(1, 24),
    sharpness=st.sampled_from([1.0, 4.0, 60.0, 2000.0]),
    length_bonus=st.sampled_from([0.0, 0.8]),
    beam_threshold=st.sampled_from([math.inf, math.inf, 10.0, 1.0]),
    token_min_log_prob=st.sampled_from([-math.inf, -math.inf, -5.0, -1.0]),
    per_state=st.sampled_from([0, 0, 1, 2]),
)
def test_the_search_equals_a_plain_one(
    choose: Choose,
    seed: int,
    setup: dict[str, object],
    beam_size: int,
    frames: int,
    sharpness: float,
    length_bonus: float,
    beam_threshold: float,
    token_min_log_prob: float,
    per_state: int,
) -> None:
    fusion = fusion_of(setup, choose)
    log_probs = random_log_probs(seed, frames, sharpness)
    thresholds = {"beam_threshold": beam_threshold, "token_min_log_prob": token_min_log_prob}
    # Without anything that earns, the option does nothing.
    earns = bool(fusion.model or fusion.hotwords or setup["word_bonus"])
    kept = reference_beam(
        log_probs,
        beam_size,
        0,
        length_bonus,
        fusion.earned,
        **thresholds,
        state=fusion.state,
        per_state=per_state if earns else 0,
    )
    scores = {ids: fusion.score(ids, ctc) + length_bonus * len(ids) for ids, ctc in kept.items()}
    found = decoder_of(
        fusion,
        beam_size=beam_size,
        n_best=beam_size,
        length_bonus=length_bonus,
        prefixes_per_state=per_state,
        **thresholds,
    ).decode(log_probs[None])[0]
    assert {h.token_ids for h in found} == set(kept)
    for hypothesis in found:
        expected = kept[hypothesis.token_ids]
        tolerance = 1e-9 * max(1.0, abs(expected)) + 1e-6
        assert hypothesis.ctc_score == pytest.approx(expected, abs=tolerance)
        assert hypothesis.score == pytest.approx(scores[hypothesis.token_ids], abs=2e-4)
    assert found[0].score == pytest.approx(scores[ranked(scores)[0]], abs=2e-4)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), setup=setups, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_any_chunking_and_any_number_of_threads_give_the_same(
    choose: Choose, seed: int, setup: dict[str, object], cuts: list[int]
) -> None:
    fusion = fusion_of(setup, choose)
    batch = np.stack([random_log_probs(seed + i, 30, 3.0) for i in range(5)])
    decoder = decoder_of(fusion, beam_size=6, n_best=3)
    expected = decoder.decode(batch)
    decoder.num_threads = 3
    assert decoder.decode(batch) == expected
    assert [decoder.decode(batch[i : i + 1])[0] for i in range(5)] == expected
    stream = decoder.stream()
    start = 0
    for end in [*sorted(cuts), 30]:
        stream.feed(batch[0, start:end])
        assert stream.partial() == decoder.decode(batch[:1, :end])[0]
        start = end
    assert stream.finish() == expected[0]


def test_a_hotword_turns_the_balance_and_what_is_lent_comes_back() -> None:
    tokens = ["<blank>", "▁new", "▁york", "shire", "▁your"]
    log_probs = np.log(
        np.array(
            [
                [0.02, 0.95, 0.01, 0.01, 0.01],
                [0.96, 0.01, 0.01, 0.01, 0.01],
                [0.02, 0.01, 0.30, 0.01, 0.66],
                [0.96, 0.01, 0.01, 0.01, 0.01],
            ]
        )
    )
    plain = CtcBeamDecoder(tokens).decode(log_probs[None])[0][0]
    assert plain.text == "new your"
    decoder = CtcBeamDecoder(tokens, hotwords={"new york": 3.0})
    boosted = decoder.decode(log_probs[None])[0][0]
    assert (boosted.text, boosted.bonus_score) == ("new york", 3.0)
    assert boosted.score == pytest.approx(boosted.ctc_score + 3.0)

    longer = np.concatenate([log_probs, np.log([[0.01, 0.01, 0.01, 0.96, 0.01]])])
    best = CtcBeamDecoder(tokens, BeamOptions(n_best=5), hotwords={"new york": 3.0}).decode(
        longer[None]
    )[0]
    [yorkshire] = [h for h in best if h.text == "new yorkshire"]
    assert yorkshire.bonus_score == 0.0
    assert yorkshire.score == pytest.approx(yorkshire.ctc_score)


def test_hotwords_over_ids_need_no_texts() -> None:
    log_probs = np.log(np.array([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4]]))
    assert CtcBeamDecoder().decode(log_probs[None])[0][0].token_ids == (1,)
    favoured = CtcBeamDecoder(hotwords={(2, 1): 2.0}).decode(log_probs[None])[0][0]
    assert favoured.token_ids == (2, 1)
    assert favoured.bonus_score == 2.0
    assert favoured.ctc_score == pytest.approx(math.log(0.2))


def test_a_boost_beyond_what_a_probability_holds_is_found() -> None:
    log_probs = np.array([[np.log(0.5), np.log(0.5), -np.inf], [np.log(0.1), np.log(0.9), -101.0]])
    options = BeamOptions(beam_size=2, n_best=2)
    found = CtcBeamDecoder(None, options, hotwords={(2,): 101.5}).decode(log_probs[None])[0]
    # (1): .5·.9 + .5·(.9 + .1) = .95; (1, 2) and (2), a tie: .5·e^(101.5 - 101) = .82; (): .05
    assert [h.token_ids for h in found] == [(1,), (1, 2)]
    assert [h.score for h in found] == pytest.approx([math.log(0.95), math.log(0.5) + 0.5])


def test_an_utterance_without_frames_scores_nothing(word_model: NgramLanguageModel) -> None:
    fusion = Fusion(word_model, FusionOptions(lm_weight=0.8, word_bonus=0.3), {"ab": 1.0})
    decoder = decoder_of(fusion)
    decoded = decoder.decode(np.zeros((1, 0, len(TOKENS))))[0]
    for [empty] in (decoded, decoder.stream().partial()):
        assert (empty.token_ids, empty.score, empty.ctc_score) == ((), 0.0, 0.0)
        assert (empty.lm_score, empty.bonus_score) == (0.0, 0.0)


def test_rescoring_keeps_what_the_search_added(word_model: NgramLanguageModel) -> None:
    fusion = Fusion(word_model, FusionOptions(lm_weight=0.8, word_bonus=0.3), {"ab": 1.0})
    decoder = decoder_of(fusion, beam_size=5, n_best=5)
    hypotheses = decoder.decode(random_log_probs(3, 12, 3.0)[None])[0]
    attention = np.full((5, 13), -0.5, dtype=np.float32)
    for hypothesis in decoder.rescore(hypotheses, attention, ctc_weight=0.4):
        assert hypothesis.attention_score is not None
        assert hypothesis.ctc_score is not None
        assert hypothesis.score == pytest.approx(
            0.4 * hypothesis.ctc_score
            + 0.6 * hypothesis.attention_score
            + 0.8 * hypothesis.lm_score
            + hypothesis.bonus_score
        )


def test_what_cannot_be_fused_is_refused(word_model: NgramLanguageModel) -> None:
    with pytest.raises(ValueError, match="need the texts of the tokens"):
        CtcBeamDecoder(None, language_model=word_model)
    with pytest.raises(ValueError, match=r"hotword 'x': .* tuples of token ids"):
        CtcBeamDecoder(None, hotwords={"x": 1.0})
    with pytest.raises(ValueError, match="hotword '' is empty"):
        CtcBeamDecoder(TOKENS, hotwords={" ": 1.0})
    with pytest.raises(ValueError, match="hotword 'a' has boost -1"):
        CtcBeamDecoder(TOKENS, hotwords={"a": -1.0})
    with pytest.raises(ValueError, match="lm_weight is -1"):
        FusionOptions(lm_weight=-1.0)
    with pytest.raises(ValueError, match=r"word_bonus is 1e\+300; it must be from -1e\+09 to"):
        FusionOptions(word_bonus=1e300)
    with pytest.raises(ValueError, match="hotword 'A' has a character that no token has"):
        CtcBeamDecoder(TOKENS, hotwords={"A": 1.0})
    with pytest.raises(ValueError, match=r"hotword \(1, -2\) has id -2"):
        CtcBeamDecoder(None, hotwords={(1, -2): 1.0})
    with pytest.raises(ValueError, match=r"hotword \(1, 0\) has blank_id 0"):
        CtcBeamDecoder(None, hotwords={(1, 0): 1.0})
    decoder, frames = CtcBeamDecoder(None, hotwords={(1, 5): 1.0}), np.full((2, 5), -1.6, "f4")
    for search in (lambda: decoder.decode(frames[None]), lambda: decoder.stream().feed(frames)):
        with pytest.raises(ValueError, match="log_probs has 5 columns, but a hotword has id 5"):
            search()
    with pytest.raises(ValueError, match=r"token 1 .* more than one word"):
        CtcBeamDecoder(["<blank>", "▁of▁the"], language_model=word_model)
    with pytest.raises(ValueError, match="lm_unit"):
        FusionOptions(lm_unit="words")  # type: ignore[arg-type]
