"""What many Python threads do with the same objects, with the GIL or on a free-threaded Python."""

import multiprocessing
import subprocess
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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    decoder = CtcBeamDecoder(None, BeamOptions(beam_size=8, n_best=8), num_threads=3)
    batch = np.stack([log_probs_of(i) for i in range(6)])
    expected = decoder.decode(batch)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(decoder.decode(batch)))
    child.start()
    assert answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    assert decoder.decode(batch) == expected


def test_what_was_decoded_before_does_not_matter():
    options = BeamOptions(beam_size=8, n_best=8)
    decoder = CtcBeamDecoder(None, options, num_threads=2)
    shapes = [(40, 12), (3, 300), (200, 7), (1, 12), (0, 5), (40, 12)]
    for seed, (frames, vocab) in enumerate(shapes):
        values = np.random.default_rng(seed).normal(size=(3, frames, vocab)) * 3.0
        batch = log_softmax(values)
        assert decoder.decode(batch) == CtcBeamDecoder(None, options, num_threads=1).decode(batch)
        broken = batch.copy()
        broken[1:2, -1:, 0] = np.nan
        if frames:
            with pytest.raises(ValueError, match="utterance 1"):
                decoder.decode(broken)


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


def test_a_daemon_thread_that_decodes_lets_the_process_end():
    code = """
import threading
import numpy as np
from voxformer.decoding import CtcBeamDecoder

decoder, batch = CtcBeamDecoder(None, num_threads=2), np.full((4, 200, 30), -np.log(30), "f4")
decoded = threading.Event()

def work():
    while True:
        decoder.decode(batch)
        decoded.set()

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
decoded.wait()
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
