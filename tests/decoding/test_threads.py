"""What many Python threads do with the same objects, with the GIL or on a free-threaded Python."""

import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from voxformer.decoding import (
    AttentionBeamSearch,
    AttentionOptions,
    BeamOptions,
    CtcBeamDecoder,
    FusionOptions,
)

from .oracles import log_softmax

THREADS = 8
TOKENS = ["<blank>", *"abcdefghij", "\u2581"]


def log_probs_of(seed, frames=60):
    values = np.random.default_rng(seed).normal(size=(frames, len(TOKENS)))
    return log_softmax(values * 3.0)


def at_once(work):
    """What `work` gives for each thread's number, all of them having begun together."""
    barrier = threading.Barrier(THREADS)

    def run(number):
        barrier.wait()
        return work(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(run, range(THREADS)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_one_decoder_serves_all(num_threads):
    options = BeamOptions(beam_size=8, n_best=8)
    fusion = FusionOptions(word_bonus=0.3)
    decoder = CtcBeamDecoder(
        TOKENS, options, num_threads, hotwords={"abc": 2.0, "h i": 1.0}, fusion=fusion
    )
    batches = [np.stack([log_probs_of(10 * n + i) for i in range(4)]) for n in range(THREADS)]
    found = at_once(lambda n: [decoder.decode(batches[n]) for _ in range(10)])
    alone = CtcBeamDecoder(TOKENS, options, 1, hotwords={"abc": 2.0, "h i": 1.0}, fusion=fusion)
    for batch, answers in zip(batches, found, strict=True):
        expected = alone.decode(batch)
        assert all(answer == expected for answer in answers)


def test_threads_that_feed_and_read_one_stream_do_so_one_after_the_other():
    options = BeamOptions(beam_size=4, n_best=4)
    stream = CtcBeamDecoder(None, options).stream()
    frame = log_probs_of(1, frames=1)
    seen = at_once(lambda _: [(stream.feed(frame), stream.partial())[1] for _ in range(20)])
    total = THREADS * 20
    whole = np.repeat(frame, total, axis=0)
    decoder = CtcBeamDecoder(None, options)
    assert stream.finish() == decoder.decode(whole[None])[0]
    states = [decoder.decode(whole[None, :t])[0] for t in range(1, total + 1)]
    for partials in seen:
        assert all(partial in states for partial in partials)


def test_threads_that_drive_one_attention_search_get_errors_at_worst():
    search = AttentionBeamSearch(11, 0, AttentionOptions(beam_size=1), max_tokens=200)
    row = log_probs_of(2, frames=1)
    row[0, 11] = -50.0

    def drive(_):
        while not search.done:
            try:
                search.advance(row)
            except ValueError:
                assert search.done  # another thread took the last step

    at_once(drive)
    [best] = search.finish()
    assert len(best.token_ids) == 200


def test_the_extension_leaves_the_gil_as_it_is():
    if not hasattr(sys, "_is_gil_enabled"):
        pytest.skip("Python 3.12 or older, or no free-threaded build")
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert sys._is_gil_enabled() is not free_threaded
