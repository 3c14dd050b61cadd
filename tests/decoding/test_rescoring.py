"""Attention rescoring against NumPy and a result worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import BeamOptions, CtcBeamDecoder, Hypothesis, RescoringOptions

from .oracles import log_softmax, penalised

DECODER = CtcBeamDecoder(None, BeamOptions(beam_size=8, n_best=8))


def hypotheses_of(token_ids, ctc_scores, lm_scores=None):
    lm_scores = lm_scores or [0.0] * len(token_ids)
    return [
        Hypothesis(tuple(ids), "", ctc, ctc_score=ctc, lm_score=lm)
        for ids, ctc, lm in zip(token_ids, ctc_scores, lm_scores, strict=True)
    ]


def test_result_worked_out_by_hand():
    found = DECODER.rescore(
        hypotheses_of([(1, 2), (1, 1, 1)], [-2.0, -1.0]),
        np.array([[-0.5, -0.5, -1.0, math.nan], [-0.5, -0.25, -0.25, -1.0]], dtype=np.float32),
        ctc_weight=0.25,
        repetition_penalty=2.0,
        length_bonus=0.5,
        length_penalty=1.0,
    )
    # (1, 2): attention -2; (.25·-2 + .75·-2 + .5·2) / (7/6) = -6/7
    # (1, 1, 1): attention -.5 - .5 - .5 - 1 = -2.5; (-.25 - 1.875 + 1.5) / (8/6) = -.46875
    assert [h.token_ids for h in found] == [(1, 1, 1), (1, 2)]
    assert [h.attention_score for h in found] == [-2.5, -2.0]
    assert [h.score for h in found] == pytest.approx([-0.46875, -6 / 7])
    assert [h.ctc_score for h in found] == [-1.0, -2.0]


@settings(deadline=None, max_examples=80)
@given(
    token_ids=st.lists(st.lists(st.integers(1, 5), max_size=8).map(tuple), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    ctc_weight=st.floats(0, 1),
    lm_weight=st.floats(0, 2),
    length_bonus=st.floats(-2, 2),
    length_penalty=st.floats(-1, 2),
    repetition_penalty=st.floats(0.25, 4),
    padding=st.integers(0, 3),
)
def test_scores_equal_the_definition(
    token_ids,
    seed,
    ctc_weight,
    lm_weight,
    length_bonus,
    length_penalty,
    repetition_penalty,
    padding,
):
    generator = np.random.default_rng(seed)
    width = max(map(len, token_ids)) + 1 + padding
    token_log_probs = -generator.exponential(size=(len(token_ids), width)).astype(np.float32)
    ctc_scores = (-generator.exponential(size=len(token_ids)) * 9).tolist()
    lm_scores = (-generator.exponential(size=len(token_ids)) * 9).tolist()
    options = RescoringOptions(
        ctc_weight, lm_weight, length_bonus, length_penalty, repetition_penalty
    )
    found = DECODER.rescore(
        hypotheses_of(token_ids, ctc_scores, lm_scores), token_log_probs, options
    )
    expected = []
    for i, ids in enumerate(token_ids):
        attention = penalised(token_log_probs[i], ids, repetition_penalty)
        total = (
            ctc_weight * ctc_scores[i]
            + (1 - ctc_weight) * attention
            + lm_weight * lm_scores[i]
            + length_bonus * len(ids)
        ) / ((5 + len(ids)) / 6) ** length_penalty
        expected.append((total, ids, attention))
    expected.sort(key=lambda item: (-item[0], item[1]))
    assert [h.score for h in found] == pytest.approx([e[0] for e in expected], abs=1e-9)
    assert sorted(h.attention_score for h in found) == pytest.approx(
        sorted(e[2] for e in expected), abs=1e-9
    )
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_weight_one_keeps_the_ctc_order_and_zero_takes_the_attention_order():
    batch = log_softmax(np.random.default_rng(0).normal(size=(1, 12, 5)))
    first_pass = DECODER.decode(batch)[0]
    token_log_probs = -np.random.default_rng(1).exponential(size=(8, 20)).astype(np.float32)
    by_ctc = DECODER.rescore(first_pass, token_log_probs, ctc_weight=1.0)
    assert [h.token_ids for h in by_ctc] == [h.token_ids for h in first_pass]
    by_attention = DECODER.rescore(first_pass, token_log_probs, ctc_weight=0.0)
    assert [h.score for h in by_attention] == [h.attention_score for h in by_attention]
    assert {h.timesteps for h in by_attention} == {h.timesteps for h in first_pass}


def test_bonus_and_length_penalty_are_the_decoders_own_unless_given():
    decoder = CtcBeamDecoder(None, BeamOptions(length_bonus=0.5, length_penalty=1.0))
    hypotheses = hypotheses_of([(1, 2)], [-2.0])
    row = np.full((1, 3), -1.0, dtype=np.float32)
    assert decoder.rescore(hypotheses, row)[0].score == pytest.approx((-2.5 + 1.0) / (7 / 6))
    assert decoder.rescore(hypotheses, row, length_penalty=0.0)[0].score == pytest.approx(-1.5)
    assert decoder.rescore(hypotheses, row, RescoringOptions())[0].score == pytest.approx(-2.5)


def test_impossible_scores_rank_last_and_are_silenced_by_weight_zero():
    hypotheses = hypotheses_of([(1,), (2,)], [-math.inf, -3.0])
    rows = np.array([[-1.0, -1.0], [-np.inf, -1.0]], dtype=np.float32)
    assert [h.token_ids for h in DECODER.rescore(hypotheses, rows, ctc_weight=0.0)] == [(1,), (2,)]
    by_ctc = DECODER.rescore(hypotheses, rows, ctc_weight=1.0)
    assert [(h.token_ids, h.score) for h in by_ctc] == [((2,), -3.0), ((1,), -math.inf)]


def test_ties_are_in_order_of_ids():
    hypotheses = hypotheses_of([(2,), (1, 3), (1,)], [-1.0] * 3)
    rows = np.array([[-1, -1, 0], [-1, 0, -1], [-1, -1, 0]], dtype=np.float32)
    assert [h.token_ids for h in DECODER.rescore(hypotheses, rows)] == [(1,), (1, 3), (2,)]


def test_nothing_to_rescore():
    assert DECODER.rescore([], np.zeros((0, 1), dtype=np.float32)) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((1, 3)), "1 rows for 2 hypotheses"),
        (np.zeros((2, 2)), "hypothesis 1 has 2 tokens and needs 3 values"),
        (np.zeros(3), "expected"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "hypothesis 1, position 1: .* NaN"),
        (np.array([[0, np.inf, 0], [0, 0, 0]]), r"hypothesis 0, position 1: .* \+inf"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        DECODER.rescore(hypotheses_of([(1,), (2, 3)], [-1.0, -1.0]), rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ctc_weight": 1.5}, "ctc_weight is 1.5"),
        ({"ctc_weight": math.nan}, "ctc_weight is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"lm_weight": math.inf}, "lm_weight is inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RescoringOptions(**options)
    with pytest.raises(ValueError, match=message):
        DECODER.rescore(hypotheses_of([(1,)], [-1.0]), np.zeros((1, 2)), **options)


def test_a_hypothesis_without_a_ctc_score_needs_weight_zero():
    hypotheses = [Hypothesis((1,), "", -1.0, attention_score=-1.0)]
    with pytest.raises(ValueError, match="hypothesis 0 has no ctc_score"):
        DECODER.rescore(hypotheses, np.zeros((1, 2)))
    assert DECODER.rescore(hypotheses, np.zeros((1, 2)), ctc_weight=0.0)[0].score == 0.0
