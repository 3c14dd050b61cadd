"""Batches, threads, edge cases, errors and text of the CTC decoder's Python face."""

import copy
import itertools
import math
import pickle
import threading
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from voxformer.decoding import (
    BeamOptions,
    CtcBeamDecoder,
    Hypothesis,
    ctc_align,
    ctc_greedy,
    load_tokens,
    text_of,
)

from .oracles import collapse, log_softmax


def random_batch(batch=5, frames=20, vocab=7, seed=0):
    return log_softmax(np.random.default_rng(seed).normal(size=(batch, frames, vocab)) * 2)


def decoder(num_threads=2, tokens=None, **options):
    return CtcBeamDecoder(tokens, BeamOptions(**options), num_threads=num_threads)


def test_batch_mates_padding_and_threads_do_not_change_a_result():
    batch = random_batch(batch=9)
    lengths = np.array([20, 1, 0, 7, 19, 20, 3, 12, 2])
    alone = [
        decoder(n_best=4).decode(batch[i : i + 1, :length])[0] for i, length in enumerate(lengths)
    ]
    garbage = batch.copy()
    for i, length in enumerate(lengths):
        garbage[i, length:] = np.nan
    for num_threads in (1, 2, 3, 16):
        assert decoder(num_threads, n_best=4).decode(garbage, lengths) == alone


def test_one_decoder_serves_several_threads():
    batch = random_batch(batch=4, frames=60)
    shared = decoder(2, n_best=3)
    expected = shared.decode(batch)
    results = [None] * 6

    def work(i):
        for _ in range(10):
            results[i] = shared.decode(batch)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * len(results)


@pytest.mark.parametrize("decode", [decoder().decode, ctc_greedy])
def test_other_layouts_and_number_types_are_converted(decode):
    batch = random_batch()
    expected = decode(batch)
    assert decode(np.asfortranarray(batch)) == expected
    assert decode(batch.astype(np.float64)) == expected
    assert decode(np.repeat(batch, 2, axis=1)[:, ::2]) == expected
    assert decode(batch, np.full(5, 20, dtype=np.int32)) == expected
    assert decode(batch, [20] * 5) == expected


def test_length_zero_is_one_empty_hypothesis_with_score_zero():
    options = {"n_best": 3, "length_bonus": 1.0, "length_penalty": 1.0}
    first, second = decoder(**options).decode(random_batch(batch=2), [0, 20])
    assert first == [Hypothesis((), "", 0.0, ctc_score=0.0, confidence=1.0)]
    assert len(second) == 3
    assert ctc_greedy(random_batch(batch=1), [0]) == [
        Hypothesis((), "", 0.0, ctc_score=0.0, confidence=1.0)
    ]
    assert (
        decoder().decode(np.zeros((2, 0, 4), dtype=np.float32))
        == [[Hypothesis((), "", 0.0, ctc_score=0.0, confidence=1.0)]] * 2
    )


def test_empty_batch_gives_no_utterances():
    assert decoder().decode(np.zeros((0, 5, 4), dtype=np.float32)) == []
    assert decoder().decode(np.zeros((0, 5, 4), dtype=np.float32), []) == []


def test_one_frame():
    log_probs = np.log(np.array([[[0.2, 0.5, 0.3]]], dtype=np.float32))
    found = decoder(n_best=5).decode(log_probs)[0]
    assert [h.token_ids for h in found] == [(1,), (2,), ()]
    assert [h.timesteps for h in found] == [(0,), (0,), ()]


def test_all_blank_is_empty_and_certain():
    log_probs = np.full((1, 6, 4), -np.inf, dtype=np.float32)
    log_probs[..., 0] = 0.0
    assert decoder(n_best=4).decode(log_probs)[0] == [
        Hypothesis((), "", 0.0, ctc_score=0.0, confidence=1.0)
    ]


def test_impossible_tokens_never_appear():
    log_probs = random_batch(batch=1, frames=8, vocab=5)
    log_probs[..., 3] = -np.inf
    found = decoder(beam_size=500, n_best=500).decode(log_probs)[0]
    assert found
    assert all(3 not in h.token_ids and math.isfinite(h.score) for h in found)


def test_a_frame_where_nothing_is_possible_gives_one_empty_hypothesis_of_minus_infinity():
    log_probs = random_batch(batch=2, frames=5)
    log_probs[0, 2] = -np.inf
    first, second = decoder(n_best=4).decode(log_probs)
    assert [(h.token_ids, h.score, h.confidence) for h in first] == [((), -math.inf, 0.0)]
    assert len(second) == 4


@pytest.mark.parametrize("decode", [decoder().decode, ctc_greedy])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, r"\+inf")])
def test_nan_and_infinity_are_refused_with_utterance_and_frame(decode, value, name):
    batch = random_batch()
    batch[3, 17, 5] = value
    batch[4, 0, 0] = value
    for _ in range(5):
        with pytest.raises(ValueError, match=f"utterance 3, frame 17: .*{name} for token 5"):
            decode(batch)
    decode(batch[:4], [20, 20, 20, 17])


@pytest.mark.parametrize("decode", [decoder().decode, ctc_greedy])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([20, 21, 20, 20, 20], "utterance 1: its length is 21"),
        ([20, 20, 20, 20, -1], "utterance 4: its length is -1"),
        ([20, 20], r"expected \[5\]"),
        ([[20] * 5], r"expected \[5\]"),
        ([20.0] * 5, "float64"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(decode, lengths, message):
    with pytest.raises(ValueError, match=message):
        decode(random_batch(), lengths)


def test_shapes_and_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected \[batch, time, vocab\]"):
        decoder().decode(random_batch()[0])
    with pytest.raises(ValueError, match="blank_id is 7"):
        decoder(blank_id=7).decode(random_batch())
    with pytest.raises(ValueError, match="blank_id is 7"):
        ctc_greedy(random_batch(), blank_id=7)
    with pytest.raises(ValueError, match="only 3 tokens"):
        decoder(tokens=["<blank>", "a", "b"]).decode(random_batch())
    with pytest.raises(ValueError, match="num_threads is 0"):
        decoder(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_size": 4, "n_best": 5}, "n_best is 5, more than beam_size 4"),
        ({"n_best": 0}, "n_best is 0"),
        ({"blank_id": -1}, "blank_id is -1"),
        ({"length_bonus": math.nan}, "length_bonus is nan"),
        ({"length_penalty": math.inf}, "length_penalty is inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BeamOptions(**options)


def test_greedy_collapses_the_best_path():
    batch = random_batch(batch=20, frames=15, vocab=4, seed=5)
    for utterance, hypothesis in zip(batch, ctc_greedy(batch), strict=True):
        path = utterance.argmax(axis=1)
        assert hypothesis.token_ids == collapse(tuple(path), 0)
        assert hypothesis.score == pytest.approx(float(utterance.max(axis=1).sum()), rel=1e-5)
        assert hypothesis.ctc_score == hypothesis.score
        assert all(
            path[t] == i for t, i in zip(hypothesis.timesteps, hypothesis.token_ids, strict=True)
        )
        # On its own best path a hypothesis peaks where its best alignment says.
        again = ctc_align(utterance, hypothesis)
        assert again.timesteps == hypothesis.timesteps
        assert again.token_times() == hypothesis.token_times()
        assert again.confidence == pytest.approx(hypothesis.confidence, rel=1e-6)


def test_greedy_is_the_beam_search_of_certain_frames():
    log_probs = np.full((1, 6, 4), -np.inf, dtype=np.float32)
    for t, token in enumerate([1, 1, 0, 1, 3, 0]):
        log_probs[0, t, token] = 0.0
    assert decoder().decode(log_probs)[0] == ctc_greedy(log_probs)
    assert ctc_greedy(log_probs)[0].token_ids == (1, 1, 3)
    assert ctc_greedy(log_probs)[0].timesteps == (0, 3, 4)
    assert ctc_greedy(log_probs)[0].token_times(0.5) == [(0.0, 1.0), (1.5, 2.0), (2.0, 2.5)]


def test_align_leaves_impossible_tokens_without_times():
    log_probs = random_batch(batch=1, frames=3)[0]
    too_long = Hypothesis((1, 1, 2), "", -1.0)
    assert ctc_align(log_probs, too_long).timesteps == ()
    assert ctc_align(log_probs, too_long).confidence == 0.0
    with pytest.raises(ValueError, match="token 1 is 7"):
        ctc_align(log_probs, Hypothesis((1, 7), "", -1.0))
    with pytest.raises(ValueError, match="not blank_id 0"):
        ctc_align(log_probs, Hypothesis((0,), "", -1.0))


def test_text_joins_pieces():
    tokens = ["<blank>", "▁he", "llo", "▁world", "▁"]
    assert text_of([1, 2, 3], tokens) == "hello world"
    assert text_of([4, 1, 4], tokens) == "he"
    assert text_of([], tokens) == ""
    log_probs = np.full((1, 5, 5), -20.0, dtype=np.float32)
    log_probs[0, range(5), [1, 2, 0, 3, 3]] = -0.1
    assert decoder(tokens=tokens).decode(log_probs)[0][0].text == "hello world"
    assert ctc_greedy(log_probs, tokens=tokens)[0].text == "hello world"
    assert decoder().decode(log_probs)[0][0].text == ""


def test_tokens_may_be_a_file(tmp_path):
    path = tmp_path / "tokens.txt"
    # U+2028 ends a line for splitlines(), but is a character that a vocabulary may hold.
    path.write_text("<blank>\n▁a\n\u2028\n▁b\n", encoding="utf-8")
    assert load_tokens(path) == load_tokens(str(path)) == ["<blank>", "▁a", "\u2028", "▁b"]
    assert CtcBeamDecoder(path).tokens == load_tokens(path)
    path.write_text("<blank>\n\n▁b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokens.txt:2: empty line"):
        load_tokens(path)


def test_more_hypotheses_than_prefixes_gives_what_there_is():
    log_probs = random_batch(batch=1, frames=2, vocab=2)
    found = decoder(beam_size=50, n_best=50).decode(log_probs)[0]
    assert sorted(h.token_ids for h in found) == [(), (1,)]


def test_results_are_the_same_every_time():
    batch = np.round(random_batch(batch=6, frames=30, vocab=5))  # many ties
    runs = [decoder(t, n_best=10).decode(batch) for t in (1, 2, 2, 4)]
    assert all(a == b for a, b in itertools.pairwise(runs))


def test_what_is_made_when_asked_for_is_there_however_one_asks():
    log_probs = np.log([[[0.1, 0.6, 0.3], [0.7, 0.2, 0.1]]])

    def found():
        [[hypothesis]] = CtcBeamDecoder(["<blank>", "a", "\u2581b"]).decode(log_probs)
        return hypothesis

    names = {field.name for field in fields(Hypothesis)}
    whole = replace(found())
    assert vars(whole).keys() == names
    assert (whole.text, whole.token_ids, whole.timesteps) == ("a", (1,), (0,))
    assert (whole.token_starts, whole.token_ends) == ((0,), (1,))
    assert whole.token_confidences == pytest.approx((0.6,))
    for again in (found(), pickle.loads(pickle.dumps(found())), copy.copy(found())):
        assert again == whole
        assert (repr(again), hash(again)) == (repr(whole), hash(whole))
    for name in names:
        assert getattr(found(), name) == getattr(whole, name)
    assert asdict(found()) == asdict(whole)
    with pytest.raises(AttributeError, match="'Hypothesis' object has no attribute 'timestep'"):
        found().timestep  # noqa: B018
    assert Hypothesis((), "", 0.0).timesteps == ()
