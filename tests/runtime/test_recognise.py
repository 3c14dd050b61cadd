"""Recognition in every mode, held to the model itself and to searches written out in full."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxformer.runtime import (
    MODES,
    DecodingOptions,
    batches_by_duration,
    decode,
    encode,
    length_cap,
    pad_batch,
    recognise_batch,
)
from voxformer.runtime.options import SearchSetupError
from voxformer.runtime.torch_engine import TorchEngine

OPTIONS = DecodingOptions(beam_size=5, n_best=4, max_tokens_per_second=6.0)


@pytest.mark.parametrize("mode", MODES)
def test_batch_mates_do_not_change_a_hypothesis(engine, vocabulary, noise, mode):
    waveforms = noise(16000, 9411, 24007)
    together = recognise_batch(engine, *pad_batch(waveforms), mode, OPTIONS, vocabulary)
    for waveform, expected in zip(waveforms, together, strict=True):
        [alone] = recognise_batch(engine, *pad_batch([waveform]), mode, OPTIONS, vocabulary)
        assert [h.token_ids for h in alone] == [h.token_ids for h in expected]
        np.testing.assert_allclose([h.score for h in alone], [h.score for h in expected], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("samples", [0, 1, 399])
def test_audio_shorter_than_a_window_gives_one_empty_hypothesis(
    engine, vocabulary, noise, mode, samples
):
    [alone] = recognise_batch(engine, *pad_batch(noise(samples)), mode, OPTIONS, vocabulary)
    batch = pad_batch(noise(samples, 8000))
    beside, spoken = recognise_batch(engine, *batch, mode, OPTIONS, vocabulary)
    for hypotheses in (alone, beside):
        assert [(h.token_ids, h.text, h.score) for h in hypotheses] == [((), "", 0.0)]
    assert spoken


@pytest.mark.parametrize("mode", MODES)
def test_text_is_what_the_tokens_spell(engine, vocabulary, noise, mode):
    [hypotheses] = recognise_batch(engine, *pad_batch(noise(16000)), mode, OPTIONS, vocabulary)
    for hypothesis in hypotheses:
        spelled = "".join(vocabulary.tokens[i] for i in hypothesis.token_ids)
        assert hypothesis.text == spelled.replace("\u2581", " ").strip()
        assert hypothesis.text == vocabulary.text(hypothesis.token_ids)


def test_step_session_equals_teacher_forcing(engine, model, noise):
    encoded = encode(engine, *pad_batch(noise(16000, 11000)))
    random = np.random.default_rng(3)
    tokens = random.integers(1, 11, size=(3, 5))
    utterances = np.array([0, 0, 1])
    inputs = np.concatenate([np.full((3, 1), model.sos_eos_id), tokens], axis=1)
    session = engine.start(encoded)
    stepped = [session.step(utterances, np.arange(3), inputs[:, i]) for i in range(6)]
    with torch.inference_mode():
        for row, utterance in enumerate(utterances):
            logits = model.decoder(
                encoded.encoder_out[utterance : utterance + 1],
                torch.from_numpy(encoded.lengths[utterance : utterance + 1]),
                torch.from_numpy(inputs[row : row + 1]),
            )
            forced = logits.log_softmax(-1)[0].numpy()
            np.testing.assert_allclose([s[row] for s in stepped], forced, atol=1e-4)


def test_step_session_follows_parents(engine, noise):
    encoded = encode(engine, *pad_batch(noise(16000, 11000)))
    session = engine.start(encoded)
    session.step(np.array([0, 1]), np.array([0, 1]), np.array([11, 11]))
    session.step(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([1, 2, 3]))
    # The second row of the first utterance survives alone, twice.
    swapped = session.step(np.array([0, 0]), np.array([1, 1]), np.array([4, 5]))
    straight = engine.start(encoded)
    for token in (11, 2):
        straight.step(np.array([0]), np.array([0]), np.array([token]))
    expected = straight.step(np.array([0]), np.array([0]), np.array([4]))
    np.testing.assert_allclose(swapped[:1], expected, atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_attention_equals_exhaustive_search(engine, model, vocabulary, noise, penalty):
    """With room for every prefix, the beam finds the best of all sequences up to the cap."""
    encoded = encode(engine, *pad_batch(noise(8000)))
    pieces = range(1, 11)
    every = [p for n in range(3) for p in itertools.product(pieces, repeat=n)]
    tokens = np.zeros((1, len(every), 2), dtype=np.int64)
    lengths = np.array([[len(p) for p in every]])
    for column, p in enumerate(every):
        tokens[0, column, : len(p)] = p
    totals = engine.score(encoded.encoder_out, encoded.lengths, tokens, lengths).sum(axis=2)[0]
    totals = totals / ((5 + lengths[0]) / 6) ** penalty
    wide = DecodingOptions(
        attention_beam_size=200,
        n_best=111,
        attention_length_penalty=penalty,
        max_tokens_per_second=4.0,  # cap: 2 tokens
    )
    [found] = decode(engine, encoded, [0.5], "attention", wide, vocabulary)
    order = np.argsort(-totals)
    assert [h.token_ids for h in found[:5]] == [every[i] for i in order[:5]]
    np.testing.assert_allclose([h.score for h in found[:5]], totals[order[:5]], atol=1e-4)


def test_the_attention_search_has_a_beam_of_its_own(engine, vocabulary, noise):
    encoded = encode(engine, *pad_batch(noise(16000)))
    narrow = dataclasses.replace(OPTIONS, beam_size=20, n_best=20, attention_beam_size=3)
    [found] = decode(engine, encoded, [1.0], "attention", narrow, vocabulary)
    assert len(found) == 3
    [found] = decode(engine, encoded, [1.0], "ctc_beam", narrow, vocabulary)
    assert len(found) == 20


def test_rescoring_combines_ctc_with_teacher_forced_attention(engine, model, vocabulary, noise):
    options = dataclasses.replace(OPTIONS, ctc_weight=0.3, length_bonus=0.7)
    waveforms, lengths = pad_batch(noise(16000, 12345, 8001))
    encoded = encode(engine, waveforms, lengths)
    rescored = decode(engine, encoded, [1.0, 0.8, 0.5], "rescoring", options, vocabulary)
    for row, hypotheses in enumerate(rescored):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            inputs = torch.tensor([[model.sos_eos_id, *hypothesis.token_ids]])
            targets = [*hypothesis.token_ids, model.sos_eos_id]
            with torch.inference_mode():
                logits = model.decoder(
                    encoded.encoder_out[row : row + 1],
                    torch.from_numpy(encoded.lengths[row : row + 1]),
                    inputs,
                )
            log_probs = logits.log_softmax(-1)[0]
            attention = sum(float(log_probs[i, t]) for i, t in enumerate(targets))
            n = len(hypothesis.token_ids)
            expected = 0.3 * hypothesis.ctc_score + 0.7 * attention + 0.7 * n
            assert hypothesis.attention_score == pytest.approx(attention, abs=1e-3)
            assert hypothesis.score == pytest.approx(expected, abs=1e-3)


def test_given_first_pass_is_what_rescoring_would_have_searched(engine, vocabulary, noise):
    waveforms, lengths = pad_batch(noise(16000, 12345))
    encoded = encode(engine, waveforms, lengths)
    first = decode(engine, encoded, [1.0, 0.8], "ctc_beam", OPTIONS, vocabulary)
    shared = decode(engine, encoded, [1.0, 0.8], "rescoring", OPTIONS, vocabulary, first)
    assert shared == decode(engine, encoded, [1.0, 0.8], "rescoring", OPTIONS, vocabulary)


def test_looping_decoder_stops_at_the_cap(model, vocabulary, noise):
    """A decoder that never ends a sentence writes as many tokens as the audio's length allows."""
    bias = model.decoder.output_bias
    before = bias.data.clone()
    try:
        bias.data[-1] = -1e3
        engine = TorchEngine(model)
        waveforms, lengths = pad_batch(noise(16000, 32000))
        results = recognise_batch(engine, waveforms, lengths, "attention", OPTIONS, vocabulary)
        unlimited = dataclasses.replace(OPTIONS, max_tokens_per_second=None)
        loose = recognise_batch(engine, waveforms, lengths, "attention", unlimited, vocabulary)
    finally:
        bias.data.copy_(before)
    assert [len(h[0].token_ids) for h in results] == [6, 12]
    assert all(h.truncated for hypotheses in results for h in hypotheses)
    frames = encode(engine, waveforms, lengths).lengths
    assert [len(h[0].token_ids) for h in loose] == list(frames)


@given(
    frames=st.integers(0, 10_000),
    duration=st.floats(0, 400),
    rate=st.none() | st.floats(0.01, 100),
)
def test_length_cap_is_at_least_one_and_at_most_frames(frames, duration, rate):
    cap = length_cap(frames, duration, rate)
    assert 1 <= cap <= max(frames, 1)
    if rate is not None:
        assert cap <= max(math.ceil(rate * duration), 1)


@given(
    durations=st.lists(st.floats(0, 100), max_size=30),
    size=st.integers(1, 8),
    seconds=st.none() | st.floats(1, 300),
    padding=st.floats(0, 1),
)
def test_batches_hold_every_utterance_once_within_the_limits(durations, size, seconds, padding):
    batches = batches_by_duration(durations, size, seconds, padding)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(durations)))
    for batch in batches:
        assert 1 <= len(batch) <= size
        padded = max(durations[i] for i in batch) * len(batch)
        assert seconds is None or len(batch) == 1 or padded <= seconds
        spoken = sum(durations[i] for i in batch)
        assert len(batch) == 1 or padded - spoken <= padding * padded + 1e-9


def test_unknown_mode_names_the_known_ones(engine, vocabulary, noise):
    with pytest.raises(ValueError, match="ctc_greedy, ctc_beam, attention, rescoring"):
        recognise_batch(engine, *pad_batch(noise(800)), "viterbi", OPTIONS, vocabulary)


def test_model_in_training_mode_is_refused(model):
    model.train()
    try:
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            TorchEngine(model)
    finally:
        model.eval()


def test_hotwords_and_a_language_model_reach_the_search_and_the_rescoring(
    engine, vocabulary, noise, tmp_path
):
    batch = pad_batch(noise(16000))
    [plain] = recognise_batch(engine, *batch, "ctc_beam", OPTIONS, vocabulary)
    wanted = vocabulary.tokens[5].strip("\u2581")
    arpa = tmp_path / "lm.arpa"
    arpa.write_text(
        f"\\data\\\nngram 1=4\n\n\\1-grams:\n-9 <s>\n-1 </s>\n-3 <unk>\n-0.5 {wanted}\n\n\\end\\\n",
        encoding="utf-8",
    )
    options = dataclasses.replace(
        OPTIONS, language_model=str(arpa), lm_weight=0.7, hotwords={wanted: 400.0}
    )
    for mode in ("ctc_beam", "rescoring"):
        [hypotheses] = recognise_batch(engine, *batch, mode, options, vocabulary)
        best = hypotheses[0]
        assert wanted in best.text.split()
        assert best.bonus_score >= 400.0
        acoustic = best.ctc_score
        if mode == "rescoring":
            acoustic = 0.5 * best.ctc_score + 0.5 * best.attention_score
        assert best.score == pytest.approx(acoustic + 0.7 * best.lm_score + best.bonus_score)
    assert plain[0].text != best.text
    assert plain[0].lm_score == plain[0].bonus_score == 0.0


def test_what_no_search_can_be_made_from_is_refused(engine, vocabulary, noise, tmp_path):
    batch = pad_batch(noise(8000))
    (tmp_path / "bad.arpa").write_text("hello\n")
    for options, message in [
        ({"language_model": str(tmp_path / "bad.arpa")}, "bad.arpa"),
        ({"hotwords": {"\u2581": 1.0}}, "hotword '' is empty"),
        ({"hotwords": {"Zürich": 1.0}}, "hotword 'Zürich' has a character that no token has"),
        ({"word_bonus": -2e9}, "word_bonus is -2e\\+09"),
        ({"beam_size": 2}, "n_best"),
    ]:
        with pytest.raises(SearchSetupError, match=message):
            recognise_batch(
                engine, *batch, "ctc_beam", dataclasses.replace(OPTIONS, **options), vocabulary
            )
    with pytest.raises(FileNotFoundError):
        recognise_batch(
            engine,
            *batch,
            "ctc_beam",
            dataclasses.replace(OPTIONS, language_model=str(tmp_path / "nope.arpa")),
            vocabulary,
        )
