"""The CTC search against brute force, a textbook beam search and a vector worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import BeamOptions, CtcBeamDecoder, RescoringOptions

from .oracles import (
    all_alignments,
    brute_force,
    final_score,
    log_softmax,
    ranked,
    reference_beam,
)

HOLDS_ALL = 4096


def random_log_probs(seed, frames, vocab, sharpness=2.0):
    return log_softmax(np.random.default_rng(seed).normal(size=(frames, vocab)) * sharpness)


def decode_one(log_probs, **options):
    return CtcBeamDecoder(None, BeamOptions(**options)).decode(log_probs[None])[0]


def test_scores_of_two_frames_worked_out_by_hand():
    # p(a) = .4, p(b) = .1, p(blank) = .5 at both frames:
    # "a" = a·a + a·blank + blank·a = .16 + .2 + .2, "" = .25, "b" = .01 + .05 + .05,
    # "ab" = "ba" = .04; "aa" needs a blank between and has no room.
    log_probs = np.log(np.array([[0.5, 0.4, 0.1]] * 2, dtype=np.float32))
    found = decode_one(log_probs, beam_size=10, n_best=10, blank_id=0)
    assert [h.token_ids for h in found] == [(1,), (), (2,), (1, 2), (2, 1)]
    expected = np.log([0.56, 0.25, 0.11, 0.04, 0.04])
    np.testing.assert_allclose([h.ctc_score for h in found], expected, rtol=1e-6)
    assert [h.score for h in found] == [h.ctc_score for h in found]
    assert all(h.attention_score is None and h.lm_score == 0.0 for h in found)


@pytest.mark.parametrize(
    ("frames", "vocab"), [(1, 1), (1, 4), (2, 3), (4, 3), (6, 3), (8, 2), (5, 4)]
)
@pytest.mark.parametrize("blank_id", [0, -1])
def test_equals_sum_over_alignments_when_the_beam_holds_every_prefix(frames, vocab, blank_id):
    blank_id %= vocab
    log_probs = random_log_probs(frames * 10 + vocab, frames, vocab)
    expected = brute_force(log_probs, blank_id)
    found = decode_one(log_probs, beam_size=HOLDS_ALL, n_best=HOLDS_ALL, blank_id=blank_id)
    assert [h.token_ids for h in found] == ranked(expected)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(expected[hypothesis.token_ids], abs=1e-9)
    assert log_sum_exp([h.ctc_score for h in found]) == pytest.approx(0.0, abs=1e-5)


def log_sum_exp(values):
    return float(np.logaddexp.reduce(values))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 5),
    vocab=st.integers(2, 4),
    zeros=st.floats(0.0, 0.6),
    length_bonus=st.floats(-2.0, 2.0),
    length_penalty=st.floats(-1.0, 2.0),
    data=st.data(),
)
def test_scores_and_order_equal_brute_force(
    seed, frames, vocab, zeros, length_bonus, length_penalty, data
):
    blank_id = data.draw(st.integers(0, vocab - 1))
    log_probs = random_log_probs(seed, frames, vocab)
    log_probs[np.random.default_rng(seed + 1).random(log_probs.shape) < zeros] = -np.inf
    masses = brute_force(log_probs, blank_id)
    expected = {
        token_ids: final_score(mass, len(token_ids), length_bonus, length_penalty)
        for token_ids, mass in masses.items()
    }
    found = decode_one(
        log_probs,
        beam_size=HOLDS_ALL,
        n_best=HOLDS_ALL,
        blank_id=blank_id,
        length_bonus=length_bonus,
        length_penalty=length_penalty,
    )
    if not expected:
        assert [(h.token_ids, h.score) for h in found] == [((), -math.inf)]
        return
    assert {h.token_ids for h in found} == set(expected)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(masses[hypothesis.token_ids], abs=1e-8)
        assert hypothesis.score == pytest.approx(expected[hypothesis.token_ids], abs=1e-8)
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 25),
    vocab=st.integers(2, 8),
    beam_size=st.integers(1, 12),
    length_bonus=st.sampled_from([0.0, 0.0, 1.0, -0.7, 3.0]),
    # The last two have log-probs of -100 and of -10,000: no double holds such probabilities.
    sharpness=st.sampled_from([0.3, 1.0, 3.0, 40.0, 4000.0]),
)
def test_equals_textbook_beam_search_when_prefixes_are_pruned(
    seed, frames, vocab, beam_size, length_bonus, sharpness
):
    blank_id = seed % vocab
    log_probs = random_log_probs(seed, frames, vocab, sharpness)
    expected = reference_beam(log_probs, beam_size, blank_id, length_bonus)
    found = decode_one(
        log_probs,
        beam_size=beam_size,
        n_best=beam_size,
        blank_id=blank_id,
        length_bonus=length_bonus,
    )
    rank = {ids: score + length_bonus * len(ids) for ids, score in expected.items()}
    assert [h.token_ids for h in found] == ranked(rank)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(
            expected[hypothesis.token_ids], rel=1e-12, abs=1e-8
        )
        assert hypothesis.score == pytest.approx(rank[hypothesis.token_ids], rel=1e-12, abs=1e-8)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 25),
    vocab=st.integers(2, 12),
    beam_size=st.integers(1, 12),
    length_bonus=st.sampled_from([0.0, 0.0, 1.0, -0.7]),
    sharpness=st.sampled_from([0.3, 1.0, 3.0, 40.0, 4000.0]),
    beam_threshold=st.sampled_from([0.5, 3.0, 10.0, 900.0, math.inf]),
    token_min_log_prob=st.sampled_from([-0.5, -2.0, -5.0, -300.0, -math.inf]),
)
def test_equals_textbook_beam_search_with_thresholds(
    seed, frames, vocab, beam_size, length_bonus, sharpness, beam_threshold, token_min_log_prob
):
    log_probs = random_log_probs(seed, frames, vocab, sharpness)
    thresholds = {"beam_threshold": beam_threshold, "token_min_log_prob": token_min_log_prob}
    expected = reference_beam(log_probs, beam_size, 0, length_bonus, **thresholds)
    found = decode_one(
        log_probs, beam_size=beam_size, n_best=beam_size, length_bonus=length_bonus, **thresholds
    )
    rank = {ids: score + length_bonus * len(ids) for ids, score in expected.items()}
    assert [h.token_ids for h in found] == ranked(rank)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(
            expected[hypothesis.token_ids], rel=1e-12, abs=1e-8
        )


def test_thresholds_out_of_range_are_refused():
    for name, value in (("beam_threshold", 0.0), ("token_min_log_prob", 0.5)):
        for bad in (value, math.nan):
            with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
                BeamOptions(**{name: bad})


@pytest.mark.parametrize("value", ["10", None, 10.0, 2**63])
def test_an_option_that_is_no_number_of_its_kind_is_named(value):
    with pytest.raises(TypeError, match=f"^beam_size is {value!r}; it must be a whole number"):
        BeamOptions(beam_size=value)
    with pytest.raises(TypeError, match=r"^ctc_weight is '1'; it must be a number$"):
        RescoringOptions(ctc_weight="1")
    assert BeamOptions(beam_size=np.int16(4), length_bonus=1).length_bonus == 1


@pytest.mark.parametrize("beam_size", [1, 4, 16])
@pytest.mark.parametrize("length_bonus", [0.0, 2.0])
def test_equals_textbook_beam_search_over_a_large_vocabulary(beam_size, length_bonus):
    log_probs = random_log_probs(3, 40, 300, sharpness=3.0)
    expected = reference_beam(log_probs, beam_size, 0, length_bonus)
    rank = {ids: score + length_bonus * len(ids) for ids, score in expected.items()}
    found = decode_one(log_probs, beam_size=beam_size, n_best=beam_size, length_bonus=length_bonus)
    assert [h.token_ids for h in found] == ranked(rank)
    np.testing.assert_allclose([h.score for h in found], sorted(rank.values(), reverse=True))


def test_a_pruned_prefix_that_comes_back_merges_with_what_hangs_below_it():
    # Few tokens, flat probabilities and a narrow beam drop and find prefixes again all the time.
    # A search that gave such a prefix a second identity would list its extensions twice.
    for seed in range(200):
        log_probs = random_log_probs(seed, 30, 3, sharpness=0.7)
        found = decode_one(log_probs, beam_size=4, n_best=4)
        assert [h.token_ids for h in found] == ranked(reference_beam(log_probs, 4, 0))


def test_length_bonus_acts_inside_the_search():
    # A beam of one drops "a" at the first frame, unless the bonus acts before the frame is pruned.
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]], dtype=np.float32))
    assert decode_one(log_probs, beam_size=1, length_bonus=0.0)[0].token_ids == ()
    assert decode_one(log_probs, beam_size=1, length_bonus=5.0)[0].token_ids == (1, 1)
    wide = decode_one(log_probs, beam_size=8, length_bonus=5.0)[0]
    assert wide.token_ids == (1, 1)
    # The only alignment of "aa" is a, blank, a.
    assert wide.ctc_score == pytest.approx(math.log(0.4 * 0.6 * 0.4), rel=1e-6)
    assert wide.score == pytest.approx(wide.ctc_score + 10.0)


def test_length_penalty_only_ranks_what_the_search_returns():
    log_probs = random_log_probs(11, 12, 5)
    plain = decode_one(log_probs, beam_size=6, n_best=6)
    normed = decode_one(log_probs, beam_size=6, n_best=6, length_penalty=1.5)
    assert {(h.token_ids, h.ctc_score) for h in plain} == {
        (h.token_ids, h.ctc_score) for h in normed
    }
    for h in normed:
        assert h.score == pytest.approx(h.ctc_score / ((5 + len(h.token_ids)) / 6) ** 1.5)
    # The best by score come first, also when fewer than the beam are asked for.
    best = decode_one(log_probs, beam_size=6, n_best=2, length_penalty=1.5)
    assert best == normed[:2]


def test_ties_are_in_order_of_ids():
    log_probs = np.full((2, 4), np.log(0.25), dtype=np.float32)
    found = decode_one(log_probs, beam_size=32, n_best=32)
    single = [h.token_ids for h in found if len(h.token_ids) == 1]
    double = [h.token_ids for h in found if len(h.token_ids) == 2]
    assert single == [(1,), (2,), (3,)]
    assert double == sorted(double)
    # "", then the pairs: all have one alignment.
    assert [h.token_ids for h in found] == [*single, (), *double]
    # A beam that cuts through the tie keeps the lower ids.
    assert [h.token_ids for h in decode_one(log_probs[:1], beam_size=2, n_best=2)] == [(), (1,)]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), beam_size=st.integers(1, 8))
def test_permuting_the_vocabulary_permutes_the_result(seed, beam_size):
    vocab, frames = 6, 15
    log_probs = random_log_probs(seed, frames, vocab)
    order = np.random.default_rng(seed).permutation(vocab)
    place = np.argsort(order)
    plain = decode_one(log_probs, beam_size=beam_size, n_best=beam_size, blank_id=0)
    moved = decode_one(
        np.ascontiguousarray(log_probs[:, order]),
        beam_size=beam_size,
        n_best=beam_size,
        blank_id=int(place[0]),
    )
    assert [tuple(int(place[i]) for i in h.token_ids) for h in plain] == [
        h.token_ids for h in moved
    ]
    assert [h.score for h in plain] == [h.score for h in moved]
    assert [h.timesteps for h in plain] == [h.timesteps for h in moved]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 6), vocab=st.integers(2, 4))
def test_times_are_those_of_the_best_alignment(seed, frames, vocab):
    log_probs = random_log_probs(seed, frames, vocab)
    alignments = all_alignments(log_probs, blank_id=0)
    for hypothesis in decode_one(log_probs, beam_size=HOLDS_ALL, n_best=HOLDS_ALL):
        _, path = max(alignments[hypothesis.token_ids])
        runs = []
        for t, token in enumerate(path):
            if token == 0:
                continue
            if t > 0 and path[t - 1] == token:
                runs[-1].append(t)
            else:
                runs.append([t])
        peaks = [
            max(run, key=lambda t, i=i: log_probs[t, i])
            for run, i in zip(runs, hypothesis.token_ids, strict=True)
        ]
        assert hypothesis.timesteps == tuple(peaks)
        assert hypothesis.token_starts == tuple(run[0] for run in runs)
        assert hypothesis.token_ends == tuple(run[-1] + 1 for run in runs)
        probabilities = [
            math.exp(log_probs[t, i]) for t, i in zip(peaks, hypothesis.token_ids, strict=True)
        ]
        assert hypothesis.token_confidences == pytest.approx(probabilities, rel=1e-6)
        if probabilities:
            expected = math.prod(probabilities) ** (1 / len(probabilities))
        else:
            expected = math.exp(float(log_probs[:, 0].mean()))
        assert hypothesis.confidence == pytest.approx(expected, rel=1e-5)


def test_scores_stay_in_order_far_below_the_best():
    # Hundreds of nats apart: float32 or linear-domain sums would lose the order of the last ones.
    log_probs = np.array([[0.0, -300.0, -600.0, -601.0]] * 3, dtype=np.float32)
    found = decode_one(log_probs, beam_size=HOLDS_ALL, n_best=HOLDS_ALL)
    expected = brute_force(log_probs, 0)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(expected[hypothesis.token_ids], abs=1e-9)
    assert found[-1].score < -1500


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_mass_that_faded_in_a_silence_comes_back_when_blank_is_impossible(beam_size):
    # "a" held through 60 silent frames is e^-1200 of what says "a" once, and no double; after 60
    # frames that take e^-30 off each blank it is all that is left.
    token = np.array([-9.0, -1e-4, -11.0])
    silence = np.array([-1e-6, -20.0, -25.0])
    no_blank = np.array([-30.0, -1e-6, -33.0])
    frames = [token] + [silence] * 60 + [no_blank] * 60
    log_probs = np.array(frames, dtype=np.float32)
    expected = reference_beam(log_probs, beam_size, 0)
    found = decode_one(log_probs, beam_size=beam_size, n_best=beam_size)
    assert [h.token_ids for h in found] == ranked(expected)
    for hypothesis in found:
        assert hypothesis.ctc_score == pytest.approx(expected[hypothesis.token_ids], abs=1e-8)
