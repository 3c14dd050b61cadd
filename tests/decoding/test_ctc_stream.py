"""Streaming against one call on all frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import BeamOptions, CtcBeamDecoder

from .oracles import log_softmax


def random_log_probs(seed, frames, vocab, sharpness):
    return log_softmax(np.random.default_rng(seed).normal(size=(frames, vocab)) * sharpness)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.integers(2, 40),
    beam_size=st.integers(1, 8),
    sharpness=st.sampled_from([1.0, 5.0, 4000.0]),
    length_bonus=st.sampled_from([0.0, 0.8]),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_any_chunking_gives_what_one_call_gives(
    seed, vocab, beam_size, sharpness, length_bonus, cuts
):
    log_probs = random_log_probs(seed, 30, vocab, sharpness)
    options = BeamOptions(beam_size=beam_size, n_best=beam_size, length_bonus=length_bonus)
    decoder = CtcBeamDecoder(None, options)
    stream = decoder.stream()
    start = 0
    for end in [*sorted(cuts), 30]:
        stream.feed(log_probs[start:end])
        assert stream.partial() == decoder.decode(log_probs[None, :end])[0]
        start = end
    assert stream.finish() == decoder.decode(log_probs[None])[0]


def test_a_stream_without_frames_has_heard_nothing():
    [hypothesis] = CtcBeamDecoder().stream().finish()
    assert (hypothesis.token_ids, hypothesis.score, hypothesis.confidence) == ((), 0.0, 1.0)


def test_a_bad_chunk_is_refused_whole_and_the_stream_goes_on():
    log_probs = random_log_probs(0, 20, 6, 3.0)
    stream = CtcBeamDecoder().stream()
    stream.feed(log_probs[:8])
    bad = log_probs[8:].copy()
    bad[4, 3] = np.nan
    with pytest.raises(ValueError, match="frame 12: log_probs is NaN for token 3"):
        stream.feed(bad)
    with pytest.raises(ValueError, match="has 5 tokens; the frames before had 6"):
        stream.feed(log_probs[8:, :5])
    with pytest.raises(ValueError, match=r"expected \[time, vocab\]"):
        stream.feed(log_probs[0])
    stream.feed(log_probs[8:])
    assert stream.finish() == CtcBeamDecoder().decode(log_probs[None])[0]
    with pytest.raises(ValueError, match="finished"):
        stream.feed(log_probs[:1])


def test_blank_out_of_range_and_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="blank_id is 9, but log_probs has 4 tokens"):
        CtcBeamDecoder(None, BeamOptions(blank_id=9)).stream().feed(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="only 2 tokens"):
        CtcBeamDecoder(["<blank>", "a"]).stream().feed(np.zeros((2, 4)))
