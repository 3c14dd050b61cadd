"""While a batch is searched the next one is encoded, in order and within bounds."""

from __future__ import annotations

import threading

import pytest

from voxformer.runtime.pipeline import AHEAD, pipelined


def test_results_come_in_order_whoever_is_slower():
    found = list(pipelined(range(9), lambda i: i * 10, lambda i, encoded: (i, encoded)))
    assert found == [(i, i * 10) for i in range(9)]
    assert list(pipelined([], int, lambda i, encoded: i)) == []


def test_next_batch_is_encoded_while_one_is_searched():
    """Each search waits for the encoder to have begun the batch after: alone it would not end."""
    begun = [threading.Event() for _ in range(4)]

    def encode(batch):
        begun[batch].set()
        return threading.get_ident()

    def search(batch, encoder):
        assert batch == 3 or begun[batch + 1].wait(30)
        return encoder != threading.get_ident()

    assert list(pipelined(range(4), encode, search)) == [True] * 4


def test_few_encoded_batches_wait_for_a_slow_search():
    may_end = threading.Event()
    encoded = []

    def encode(batch):
        encoded.append(batch)
        if len(encoded) > AHEAD:  # one more is in the hand of whoever would put it down
            may_end.set()

    def search(batch, _):
        assert may_end.wait(30)
        return len(encoded) - batch

    ahead = list(pipelined(range(20), encode, search))
    assert max(ahead) <= AHEAD + 2


def test_what_a_search_raises_comes_where_its_result_would_have():
    def search(batch, _):
        if batch == 2:
            raise OSError("batch 2 is gone")
        return batch

    results = pipelined(range(5), int, search)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="batch 2 is gone"):
        next(results)


def test_encoder_that_fails_ends_it_without_a_thread_left():
    def encode(batch):
        if batch == 1:
            raise OSError("no encoder")
        return batch

    with pytest.raises(OSError, match="no encoder"):
        list(pipelined(range(3), encode, lambda batch, _: batch))
    assert not [t for t in threading.enumerate() if t.name.startswith("search")]
