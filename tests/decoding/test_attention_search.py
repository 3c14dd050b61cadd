"""The autoregressive search against exhaustive enumeration with a toy decoder."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import AttentionBeamSearch, AttentionOptions, attention_decode

from .oracles import TableModel, enumerate_hypotheses

VOCAB = 5
BLANK = 0
END = 4


def run(model, options, max_tokens):
    """Drive one search by hand, with the parents as the only way to a hypothesis' history."""
    search = AttentionBeamSearch(END, BLANK, options, max_tokens)
    histories = [(END,)]
    assert search.tokens.tolist() == [END]
    while not search.done:
        assert search.tokens.tolist() == [history[-1] for history in histories]
        log_probs = np.stack([model.next_log_probs(history) for history in histories])
        parents = search.advance(log_probs)
        histories = [
            (*histories[parent], int(token))
            for parent, token in zip(parents, search.tokens, strict=True)
        ]
    return search.finish()


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    max_tokens=st.integers(0, 4),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.7, 0.6]),
    no_repeat_ngram=st.sampled_from([0, 0, 1, 2]),
    length_bonus=st.sampled_from([0.0, 0.8, -0.8, 3.0]),
    length_penalty=st.sampled_from([0.0, 1.0, 0.6, 2.0, -0.5]),
)
def test_equals_enumeration_when_the_beam_holds_every_hypothesis(
    seed, max_tokens, repetition_penalty, no_repeat_ngram, length_bonus, length_penalty
):
    model = TableModel(seed, VOCAB)
    penalties = {
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram": no_repeat_ngram,
        "length_bonus": length_bonus,
        "length_penalty": length_penalty,
    }
    expected = enumerate_hypotheses(model, END, BLANK, max_tokens, **penalties)[:5]
    found = run(model, AttentionOptions(beam_size=1000, n_best=5, **penalties), max_tokens)
    assert [h.token_ids for h in found] == [e.token_ids for e in expected]
    assert [h.score for h in found] == pytest.approx([e.score for e in expected])
    assert [h.attention_score for h in found] == pytest.approx([e.attention for e in expected])
    assert all(h.ctc_score is None and h.timesteps == () for h in found)


@pytest.mark.parametrize("seed", range(20))
def test_beam_of_one_is_greedy(seed):
    model = TableModel(seed, VOCAB)
    history = (END,)
    score = 0.0
    probabilities = []
    while len(history) <= 12:
        log_probs = model.next_log_probs(history).astype(float)
        log_probs[BLANK] = -np.inf
        token = int(log_probs.argmax()) if len(history) <= 11 else END
        score += log_probs[token]
        if token == END:
            break
        probabilities.append(math.exp(log_probs[token]))
        history = (*history, token)
    (found,) = run(model, AttentionOptions(beam_size=1), max_tokens=11)
    assert found.token_ids == history[1:]
    assert found.attention_score == pytest.approx(score)
    assert found.token_confidences == pytest.approx(probabilities)
    expected = math.prod(probabilities) ** (1 / len(probabilities)) if probabilities else None
    assert expected is None or found.confidence == pytest.approx(expected)


def reference_beam(model, beam_size, max_tokens):
    """The beam_size best continuations of each step, endings leave; run to the cap."""
    beam = [(0.0, ())]
    finished = []
    for length in range(max_tokens + 1):
        grown = []
        for score, token_ids in beam:
            log_probs = model.next_log_probs((END, *token_ids))
            choices = range(1, END) if length < max_tokens else []
            grown.append((score + float(log_probs[END]), token_ids, True))
            grown += [(score + float(log_probs[i]), (*token_ids, i), False) for i in choices]
        grown.sort(key=lambda item: (-item[0], item[1]))
        finished += [(s, ids) for s, ids, ends in grown[:beam_size] if ends]
        beam = [(s, ids) for s, ids, ends in grown[:beam_size] if not ends]
    return sorted(finished, key=lambda item: (-item[0], item[1]))


@pytest.mark.parametrize("beam_size", [2, 3, 5])
def test_stopping_early_loses_nothing_of_the_n_best(beam_size):
    for seed in range(60):
        model = TableModel(seed, VOCAB)
        expected = reference_beam(model, beam_size, max_tokens=8)[:2]
        found = run(model, AttentionOptions(beam_size=beam_size, n_best=2), max_tokens=8)
        assert [h.token_ids for h in found] == [ids for _, ids in expected]
        assert [h.score for h in found] == pytest.approx([s for s, _ in expected])


class LoopingModel:
    """Says token 1 for ever: what an undertrained decoder does."""

    def __init__(self, end=0.01):
        self.row = np.log(np.array([0.01, 0.95, 0.02, 0.02 - end + 1e-9, end + 1e-9]))

    def next_log_probs(self, history):
        return self.row.astype(np.float32)


@pytest.mark.parametrize("max_tokens", [0, 1, 7, 30])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_no_hypothesis_is_longer_than_the_cap(max_tokens, beam_size):
    options = AttentionOptions(beam_size=beam_size, n_best=beam_size, length_penalty=2.0)
    found = run(LoopingModel(), options, max_tokens)
    assert found
    assert max(len(h.token_ids) for h in found) == max_tokens
    for hypothesis in found:
        assert len(hypothesis.token_ids) <= max_tokens
        assert hypothesis.truncated == (len(hypothesis.token_ids) == max_tokens)


def test_a_hypothesis_that_ends_at_the_cap_of_its_own_accord_is_not_truncated():
    rows = np.log(np.array([[0.01, 0.97, 0.01, 0.005, 0.005], [0.01, 0.01, 0.01, 0.01, 0.96]]))
    search = AttentionBeamSearch(END, BLANK, AttentionOptions(beam_size=1), max_tokens=1)
    assert search.advance(rows[:1]).tolist() == [0]
    assert search.advance(rows[1:]).tolist() == []
    assert [(h.token_ids, h.truncated) for h in search.finish()] == [((1,), False)]


def test_without_an_end_the_active_hypotheses_are_returned_truncated():
    row = np.array([[-1.0, -0.5, -1.5, -2.5, -np.inf]])
    search = AttentionBeamSearch(END, BLANK, AttentionOptions(beam_size=2, n_best=2), max_tokens=3)
    while not search.done:
        search.advance(np.repeat(row, len(search.tokens), axis=0))
    found = search.finish()
    assert [(h.token_ids, h.score) for h in found] == [((1, 1, 1), -1.5), ((1, 1, 2), -2.5)]
    assert all(h.truncated for h in found)
    # The caller may stop early too.
    search = AttentionBeamSearch(END, BLANK, AttentionOptions(beam_size=2, n_best=2), max_tokens=9)
    search.advance(row)
    assert [(h.token_ids, h.truncated) for h in search.finish()] == [((1,), True), ((2,), True)]
    # And where nothing at all is possible, the search ends with what it has.
    search.advance(np.full((2, VOCAB), -np.inf))
    assert search.done
    assert [h.token_ids for h in search.finish()] == [(1,), (2,)]


def test_repetition_penalty_discourages_once_per_token_and_leaves_the_end_alone():
    options = AttentionOptions(beam_size=1, repetition_penalty=3.0)
    row = np.log(np.array([[0.05, 0.45, 0.3, 0.15, 0.05]], dtype=np.float32))
    search = AttentionBeamSearch(END, BLANK, options, max_tokens=20)
    tokens = []
    while not search.done:
        search.advance(row)
        tokens += search.tokens.tolist()
    # ln p: 1 -.80 then -2.40, 2 -1.20 then -3.61, 3 -1.90 then -5.69, </s> -3.00. After 1, 2 and 3
    # the best is 1 again: held three times or once, it costs -2.40.
    assert tokens[:6] == [1, 2, 3, 1, 1, 1]


def test_no_repeat_ngram_breaks_the_loop():
    (found,) = run(LoopingModel(), AttentionOptions(beam_size=1, no_repeat_ngram=2), 40)
    bigrams = list(zip(found.token_ids, found.token_ids[1:], strict=False))
    assert len(bigrams) == len(set(bigrams)) == 3


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_driver_equals_searches_run_alone(length_penalty):
    models = [TableModel(seed, VOCAB) for seed in range(6)]
    caps = [3, 0, 9, 1, 6, 2]
    options = AttentionOptions(beam_size=3, n_best=2, length_penalty=length_penalty)
    alone = [run(m, options, cap) for m, cap in zip(models, caps, strict=True)]
    histories = []

    def step(tokens, parents, utterance, position):
        nonlocal histories
        past = [histories[p] for p in parents] if position else [()] * len(parents)
        histories = [(*h, int(t)) for h, t in zip(past, tokens, strict=True)]
        assert all(len(h) == position + 1 for h in histories)
        assert utterance.dtype == parents.dtype == tokens.dtype == np.int64
        rows = zip(utterance, histories, strict=True)
        return np.stack([models[u].next_log_probs(h) for u, h in rows])

    searches = [AttentionBeamSearch(END, BLANK, options, cap) for cap in caps]
    found = attention_decode(step, searches, tokens=["<blank>", "▁a", "▁b", "c", "</s>"])
    assert [[h.token_ids for h in n_best] for n_best in found] == [
        [h.token_ids for h in n_best] for n_best in alone
    ]
    assert [[h.score for h in n_best] for n_best in found] == [
        [h.score for h in n_best] for n_best in alone
    ]
    assert all(h.text or not h.token_ids for n_best in found for h in n_best)
    assert attention_decode(step, []) == []


def test_driver_names_the_utterance_of_an_error():
    searches = [AttentionBeamSearch(END, BLANK, max_tokens=5) for _ in range(2)]
    bad = np.zeros((2, VOCAB))
    bad[1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"utterance 1: hypothesis 0, position 0: .*NaN for token 2"
    ):
        attention_decode(lambda *_: bad, searches)
    with pytest.raises(ValueError, match="for 2 rows"):
        attention_decode(
            lambda *_: np.zeros((3, VOCAB)),
            [AttentionBeamSearch(END, BLANK, max_tokens=5) for _ in range(2)],
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 5), "sos_eos_id is -1"),
        ((4, -2, 5), "blank_id is -2"),
        ((4, 4, 5), "must differ"),
        ((4, 0, -1), "max_tokens is -1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    sos_eos_id, blank_id, max_tokens = arguments
    with pytest.raises(ValueError, match=message):
        AttentionBeamSearch(sos_eos_id, blank_id, AttentionOptions(), max_tokens)


def test_log_probs_that_do_not_fit_are_refused():
    search = AttentionBeamSearch(END, BLANK, AttentionOptions(), max_tokens=5)
    with pytest.raises(ValueError, match="2 rows for 1 active"):
        search.advance(np.zeros((2, VOCAB)))
    with pytest.raises(ValueError, match="does not include sos_eos_id 4"):
        search.advance(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"position 0: .*\+inf for token 1"):
        search.advance(np.array([[0, np.inf, 0, 0, 0]]))
    with pytest.raises(ValueError, match="dimensions"):
        search.advance(np.zeros(VOCAB))
    search.advance(np.zeros((1, VOCAB)))  # a refused step leaves the search as it was
    assert not search.done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1"),
        ({"beam_size": 2, "n_best": 3}, "n_best is 3"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionOptions(**options)
