"""The forms that log-probs come in: whatever the form, the result is that of plain float32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from voxformer.decoding import (
    BeamOptions,
    CtcBeamDecoder,
    Hypothesis,
    RescoringOptions,
    ctc_align,
    ctc_greedy,
    ctc_greedy_top_k,
)

from .oracles import log_softmax

OPTIONS = BeamOptions(beam_size=6, n_best=6)


def random_batch(seed: int, batch: int = 3, frames: int = 20, vocab: int = 9) -> np.ndarray:
    return log_softmax(np.random.default_rng(seed).normal(size=(batch, frames, vocab)) * 3)


@settings(deadline=None, max_examples=200)
@given(
    hnp.arrays(np.uint16, (5, 7), elements=st.integers(0, 0xFFFF)),
    st.integers(0, 6),
)
def test_every_half_is_read_as_numpy_reads_it(bits: np.ndarray, blank_id: int) -> None:
    halves = bits.view(np.float16)
    decoder = CtcBeamDecoder(None, BeamOptions(beam_size=6, n_best=6, blank_id=blank_id))
    outcomes = []
    for values in (halves, halves.astype(np.float32)):
        try:
            outcomes.append(decoder.decode(values[None]))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_all_halves_are_converted() -> None:
    """Each of the 65,536 once, as the log-prob of the blank of a frame."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) & (halves <= 0)]
    scores = [h[0].ctc_score for h in CtcBeamDecoder().decode(halves.reshape(-1, 1, 1))]
    assert scores == pytest.approx(halves.astype(np.float64).tolist(), rel=1e-12, abs=1e-15)


def test_views_are_read_where_they_are() -> None:
    batch = random_batch(0, batch=4)
    expected = CtcBeamDecoder(None, OPTIONS).decode(batch)
    time_first = np.ascontiguousarray(batch.transpose(1, 0, 2)).transpose(1, 0, 2)
    wide = np.concatenate([batch, np.full_like(batch, np.nan)], axis=2)[:, :, :9]
    every_second = np.repeat(batch, 2, axis=1)[:, ::2]
    backwards = batch[:, ::-1].copy()[:, ::-1]
    columns_first = np.asfortranarray(batch)
    unaligned = np.frombuffer(b"\0" + batch.tobytes(), np.uint8)[1:].view(np.float32)
    for view in (time_first, wide, every_second, backwards, columns_first):
        assert CtcBeamDecoder(None, OPTIONS).decode(view) == expected
    assert CtcBeamDecoder(None, OPTIONS).decode(unaligned.reshape(batch.shape)) == expected
    swapped = batch.astype(batch.dtype.newbyteorder())
    assert CtcBeamDecoder(None, OPTIONS).decode(swapped) == expected
    stream = CtcBeamDecoder(None, OPTIONS).stream()
    stream.feed(wide[1, :7])
    stream.feed(time_first[1, 7:])
    assert stream.finish() == expected[1]
    best = expected[2][0]
    assert ctc_align(time_first[2], best) == best


class OnlyDlpack:
    """What a tensor of another library shows of itself."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **arguments: object) -> object:
        return self.array.__dlpack__(**arguments)  # type: ignore[arg-type]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[return-value]


def test_what_speaks_dlpack_or_the_buffer_protocol_is_taken() -> None:
    batch = random_batch(1)
    expected = CtcBeamDecoder(None, OPTIONS).decode(batch)
    assert CtcBeamDecoder(None, OPTIONS).decode(OnlyDlpack(batch)) == expected  # type: ignore[arg-type]
    assert CtcBeamDecoder(None, OPTIONS).decode(memoryview(batch)) == expected
    assert CtcBeamDecoder(None, OPTIONS).decode(batch.tolist()) == expected


def test_tensors_are_taken_and_refused_with_what_to_do() -> None:
    torch = pytest.importorskip("torch")
    batch = random_batch(2)
    expected = CtcBeamDecoder(None, OPTIONS).decode(batch)
    tensor = torch.from_numpy(batch)
    assert CtcBeamDecoder(None, OPTIONS).decode(tensor) == expected
    half = CtcBeamDecoder(None, OPTIONS).decode(batch.astype(np.float16))
    assert CtcBeamDecoder(None, OPTIONS).decode(tensor.half()) == half
    with pytest.raises(ValueError, match=r"detach\(\)\.float\(\)\.cpu\(\)"):
        CtcBeamDecoder(None, OPTIONS).decode(tensor.bfloat16())
    with pytest.raises(ValueError, match=r"detach\(\)\.float\(\)\.cpu\(\)"):
        CtcBeamDecoder(None, OPTIONS).decode(tensor.clone().requires_grad_())


def test_greedy_takes_halves() -> None:
    batch = random_batch(3).astype(np.float16)
    assert [h.token_ids for h in ctc_greedy(batch)] == [
        h.token_ids for h in ctc_greedy(batch.astype(np.float32))
    ]


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 9),
    blank_id=st.integers(0, 8),
    with_blank=st.booleans(),
)
def test_top_k_is_the_search_without_the_other_tokens(
    seed: int, k: int, blank_id: int, with_blank: bool
) -> None:
    batch = random_batch(seed)
    ranked = batch.copy()
    if not with_blank:
        ranked[..., blank_id] = -np.inf
    ids = np.argsort(-ranked, axis=2, kind="stable")[..., :k]
    kept = np.full_like(batch, -np.inf)
    np.put_along_axis(kept, ids, np.take_along_axis(batch, ids, 2), 2)
    kept[..., blank_id] = batch[..., blank_id]
    options = BeamOptions(beam_size=6, n_best=6, blank_id=blank_id)
    lengths = np.array([20, 0, 13])
    decoder = CtcBeamDecoder(None, options)
    found = decoder.decode_top_k(
        ids, np.take_along_axis(batch, ids, 2), batch[..., blank_id], lengths, vocab_size=9
    )
    assert found == decoder.decode(kept, lengths)


def test_top_k_that_does_not_fit_is_refused() -> None:
    decoder = CtcBeamDecoder(["<blank>", "a", "b"])
    ids = np.ones((2, 4, 1), dtype=np.int64)
    values = np.full((2, 4, 1), -1.0)
    blanks = np.full((2, 4), -0.5)
    assert [h[0].text for h in decoder.decode_top_k(ids, values, blanks)] == ["a", "a"]
    bad = ids.copy()
    bad[1, 2] = 3
    with pytest.raises(ValueError, match="utterance 1, frame 2: id 3 is not in the vocabulary"):
        decoder.decode_top_k(bad, values, blanks)
    with pytest.raises(ValueError, match="do not fit in 32 bits"):
        decoder.decode_top_k(ids + 2**32, values, blanks)
    with pytest.raises(ValueError, match="differ in batch, time or k"):
        decoder.decode_top_k(ids, values[:, :3], blanks)
    with pytest.raises(ValueError, match="vocab_size is 10, but there are only 3 tokens"):
        decoder.decode_top_k(ids, values, blanks, vocab_size=10)
    with pytest.raises(ValueError, match="vocab_size is needed"):
        CtcBeamDecoder().decode_top_k(ids, values, blanks)
    with pytest.raises(ValueError, match="blank_id is 0, but the vocabulary has 0"):
        CtcBeamDecoder().decode_top_k(ids, values, blanks, vocab_size=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_logits_are_refused_where_sums_are_checked(dtype: type) -> None:
    checked = CtcBeamDecoder(None, BeamOptions(check_sums=True))
    batch = random_batch(4).astype(dtype)
    checked.decode(batch)
    logits = batch.copy()
    logits[1, 6] += 3.0
    with pytest.raises(ValueError, match="utterance 1, frame 6: the probabilities add up to 20"):
        checked.decode(logits)
    stream = checked.stream()
    stream.feed(logits[1, :5])
    with pytest.raises(ValueError, match="frame 6: the probabilities add up to 20"):
        stream.feed(logits[1, 5:])
    ids = np.tile(np.arange(3), (3, 20, 1))
    checked.decode_top_k(ids, batch[..., :3], batch[..., 0], vocab_size=9)
    with pytest.raises(ValueError, match="more than 1"):
        checked.decode_top_k(ids, batch[..., :3] + 6.0, batch[..., 0], vocab_size=9)


def test_rescoring_from_logits_equals_rescoring_from_log_probs() -> None:
    generator = np.random.default_rng(5)
    hypotheses = [
        Hypothesis(ids, "", score, ctc_score=score)
        for ids, score in [((1, 2), -2.0), ((3,), -1.0), ((), -4.0)]
    ]
    logits = (generator.normal(size=(3, 4, 6)) * 30).astype(np.float32)
    logits[0, 0, 4] = -np.inf
    logits[1, 2:] = np.nan  # padding is not read
    log_probs = log_softmax(np.nan_to_num(logits.astype(np.float64), neginf=-1e30))
    expected = np.zeros((3, 4), dtype=np.float32)
    for row, hypothesis in enumerate(hypotheses):
        for position, token in enumerate((*hypothesis.token_ids, 5)):
            expected[row, position] = log_probs[row, position, token]
    decoder = CtcBeamDecoder()
    options = RescoringOptions(ctc_weight=0.3, repetition_penalty=1.3)
    found = decoder.rescore_logits(hypotheses, logits, 5, options)
    wanted = decoder.rescore(hypotheses, expected, options)
    assert [h.token_ids for h in found] == [h.token_ids for h in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-6)
    with pytest.raises(ValueError, match="hypothesis 0, position 2: its id is 6"):
        decoder.rescore_logits(hypotheses, logits, 6)
    with pytest.raises(ValueError, match="hypothesis 0, position 1: logits holds NaN"):
        decoder.rescore_logits(hypotheses, np.where(np.arange(4)[:, None] > 0, np.nan, logits), 5)


def test_of_equal_ids_in_a_frame_the_last_counts() -> None:
    ids = np.ones((1, 2, 2), dtype=np.int32)
    values = np.array([[[-0.1, -3.0], [-2.0, -0.5]]])
    decoder = CtcBeamDecoder(None, BeamOptions(n_best=1))
    [found] = decoder.decode_top_k(ids, values, np.full((1, 2), -5.0), vocab_size=2)[0]
    assert (found.token_ids, found.timesteps) == ((1,), (1,))
    assert found.token_confidences == pytest.approx((np.exp(-0.5),))


def test_rows_full_of_infinity_are_refused() -> None:
    infinite = np.full((1, 64), np.inf, dtype=np.float32)
    for refuse in (
        lambda: CtcBeamDecoder().decode(infinite[None]),
        lambda: CtcBeamDecoder().stream().feed(infinite),
        lambda: ctc_align(infinite, Hypothesis((1,), "", 0.0)),
    ):
        with pytest.raises(ValueError, match=r"frame 0: log_probs is \+inf for token 0"):
            refuse()


def test_best_tokens_outside_of_the_vocabulary_are_refused_in_every_search() -> None:
    batch = random_batch(6)
    ids = np.argsort(-batch, axis=2)[:, :, :3]
    values, blanks = np.take_along_axis(batch, ids, axis=2), batch[:, :, 0]
    tokens = [f"{i} " for i in range(batch.shape[2])]
    greedy = ctc_greedy_top_k(ids, values, blanks, None, tokens)
    assert [h.text for h in greedy] == [h.text for h in ctc_greedy(batch, None, tokens)]
    lengths = np.full(len(batch), 4)
    for bad in (-1, batch.shape[2]):
        ids[1, 3, 2] = bad
        for search in (
            lambda: ctc_greedy_top_k(ids, values, blanks, lengths, tokens),
            lambda: CtcBeamDecoder(tokens).decode_top_k(ids, values, blanks, lengths),
        ):
            with pytest.raises(
                ValueError, match=r"^utterance 1, frame 3: .* in the vocabulary of 0"
            ):
                search()
        # What lies beyond an utterance's length is not read.
        ctc_greedy_top_k(ids, values, blanks, lengths - 1, tokens)
    with pytest.raises(ValueError, match="blank_id is -1; ids are from 0 to"):
        ctc_greedy_top_k(ids, values, blanks, lengths - 1, tokens, blank_id=-1)


def test_nan_is_named_also_where_sums_are_checked() -> None:
    batch = random_batch(6)
    batch[1, 3, 2] = np.nan
    with pytest.raises(ValueError, match="utterance 1, frame 3: log_probs is NaN for token 2"):
        CtcBeamDecoder(None, BeamOptions(check_sums=True)).decode(batch)


def test_of_equal_alignments_the_one_that_stays_longest_from_the_end_is_given() -> None:
    log_probs = np.array([[-np.inf, 0.0], [-0.5, -0.5], [0.0, -np.inf]], dtype=np.float32)
    aligned = ctc_align(log_probs, Hypothesis((1,), "", 0.0))
    assert (aligned.token_starts, aligned.token_ends) == ((0,), (1,))
