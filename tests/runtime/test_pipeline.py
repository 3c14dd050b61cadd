"""While a batch is searched the next one is encoded, in order and within bounds."""

from __future__ import annotations

import threading

import pytest

from voxformer.runtime.pipeline import pipelined


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_results_come_in_order_whoever_is_slower(lanes):
    found = list(pipelined(range(9), lambda i: i * 10, lambda i, encoded: (i, encoded), lanes))
    assert found == [(i, i * 10) for i in range(9)]
    assert list(pipelined([], int, lambda i, encoded: i, lanes)) == []


def test_next_batch_is_encoded_while_one_is_searched():
    """Each search waits for the encoder to have begun the batch after: alone it would not end."""
    begun = [threading.Event() for _ in range(4)]

    def search(batch, _):
        return batch == 3 or begun[batch + 1].wait(30)

    assert list(pipelined(range(4), lambda batch: begun[batch].set(), search)) == [True] * 4


def test_lanes_encode_at_the_same_time():
    """Each encoder waits for the other."""
    meeting = threading.Barrier(2, timeout=30)

    def encode(batch):
        return meeting.wait() in (0, 1)

    assert list(pipelined(range(4), encode, lambda _, met: met, lanes=2)) == [True] * 4


@pytest.mark.parametrize("lanes", [1, 2])
def test_no_more_than_lanes_are_in_the_encoder_or_the_search(lanes):
    lock = threading.Lock()
    inside = {"encode": 0, "search": 0}
    most = {"encode": 0, "search": 0}

    def enter(what):
        with lock:
            inside[what] += 1
            most[what] = max(most[what], inside[what])
        threading.Event().wait(0.002)
        with lock:
            inside[what] -= 1

    list(pipelined(range(30), lambda _: enter("encode"), lambda _, __: enter("search"), lanes))
    assert 1 <= most["encode"] <= lanes
    assert 1 <= most["search"] <= lanes


def test_batches_are_taken_as_there_is_room():
    """A list that is read as it is recognised is not read ahead without end."""
    taken = []
    ended = 0

    def batches():
        for batch in range(20):
            taken.append(batch)
            assert len(taken) - ended <= 1 + 2 + 1  # one more is in the hand
            yield batch

    for _ in pipelined(batches(), int, lambda batch, _: batch):
        ended += 1
    assert ended == 20


@pytest.mark.parametrize("stage", ["encode", "search"])
def test_what_is_raised_comes_where_the_result_would_have_and_leaves_no_thread(stage):
    def fail(batch, *_, at=stage):
        if batch == 2:
            raise OSError(f"{at} of batch 2")
        return batch

    stages = {"encode": int, "search": lambda batch, _: batch, stage: fail}
    results = pipelined(range(9), stages["encode"], stages["search"], lanes=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match=f"{stage} of batch 2"):
        next(results)
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("encode", "search"))
    ]
