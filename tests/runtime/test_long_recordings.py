"""Recordings of any length: no word is lost or doubled at a seam, and only some pieces are held."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.audio import AudioError
from voxformer.runtime import DecodingOptions, Recognizer, Word
from voxformer.runtime.seams import Window, join
from voxformer.runtime.segments import Cutting, pieces

from .spoken_tones import CUT, RATE, VOCABULARY, WORDS, ToneEngine, say

CUTTING = Cutting(max_seconds=10.0, overlap_seconds=3.0)
UNBROKEN = 0.09  # seconds between words: heard as two words, but too short for a pause


@pytest.fixture
def recognizer():
    return Recognizer(
        ToneEngine(), VOCABULARY, DecodingOptions(beam_size=3, n_best=1), cutting=CUTTING
    )


def words_and_gaps(count, choose_gap, seed):
    generator = np.random.default_rng(seed)
    words = [str(word) for word in generator.choice(WORDS, count)]
    return words, [choose_gap(generator) for _ in words], generator


def assert_heard(transcript, words, times):
    assert transcript.text.split() == words
    assert [word.text for word in transcript.words] == words
    for word, (start, end) in zip(transcript.words, times, strict=True):
        assert start - 0.05 <= word.start <= word.end <= end + 0.05
    for earlier, later in itertools.pairwise(transcript.words):
        assert earlier.start <= earlier.end <= later.start
    for earlier, later in itertools.pairwise(transcript.segments):
        assert earlier.end <= later.start or earlier.end == pytest.approx(later.start)
    assert [w for segment in transcript.segments for w in segment.words] == list(transcript.words)


def overlaps(transcript):
    return sum(
        earlier.heard[1] > later.heard[0]
        for earlier, later in itertools.pairwise(transcript.segments)
    )


@pytest.mark.parametrize("mode", ["ctc_greedy", "ctc_beam"])
@pytest.mark.parametrize("seed", range(4))
def test_speech_without_a_pause_keeps_every_word_once(recognizer, mode, seed):
    words, gaps, generator = words_and_gaps(500, lambda random: UNBROKEN, seed)
    waveform, times = say(words, gaps, generator)
    [transcript] = recognizer.transcribe([waveform], mode)
    assert len(waveform) > 180 * RATE
    assert overlaps(transcript) > 20
    assert_heard(transcript, words, times)
    heard = [h.text for segment in transcript.segments for h in segment.hypotheses]
    assert any(CUT in text.split() for text in heard)  # there was something to get wrong


def test_a_word_said_again_and_again_is_told_apart_by_its_times(recognizer):
    words = [WORDS[3]] * 400
    waveform, times = say(words, [UNBROKEN] * len(words), np.random.default_rng(1))
    [transcript] = recognizer.transcribe([waveform], "ctc_greedy")
    assert overlaps(transcript) > 10
    assert_heard(transcript, words, times)


@given(seed=st.integers(0, 10_000), pause=st.floats(0.0, 0.4))
@settings(max_examples=20, deadline=None)
def test_gaps_of_all_lengths(seed, pause):
    recognizer = Recognizer(ToneEngine(), VOCABULARY, DecodingOptions(), cutting=CUTTING)

    def gap(random):
        return random.uniform(0.8, 15) if random.random() < 0.1 else 0.09 + pause * random.random()

    words, gaps, generator = words_and_gaps(120, gap, seed)
    waveform, times = say(words, gaps, generator)
    [transcript] = recognizer.transcribe([waveform], "ctc_greedy")
    assert_heard(transcript, words, times)


def test_a_quiet_speaker_after_a_loud_one_is_heard():
    words, gaps, generator = words_and_gaps(60, lambda random: random.uniform(0.05, 1.5), 5)
    loud, times = say(words, gaps, generator)
    quiet = loud * np.float32(10 ** (-25 / 20))
    noise = generator.normal(0, 10 ** (-60 / 20), 2 * len(loud)).astype(np.float32)
    found = list(pieces([np.concatenate([loud, quiet]) + noise], RATE, CUTTING))
    for start, end in [(s + shift, e + shift) for shift in (0, len(loud) / RATE) for s, e in times]:
        assert any(p.start <= start * RATE and end * RATE <= p.end for p in found)


def test_a_sound_longer_than_pieces_is_told_from_noise_by_what_is_around_it():
    silence = np.random.default_rng(1).normal(0, 1e-4, 10 * RATE)
    held = silence + 0.3 * np.sin(np.arange(10 * RATE))
    recording = np.concatenate([silence, held, silence]).astype(np.float32)
    found = list(pieces([recording], RATE, Cutting(max_seconds=2.0, overlap_seconds=0.5)))
    covered = np.zeros(len(recording), bool)
    for piece in found:
        covered[piece.start : piece.end] = True
    assert covered[10 * RATE : 20 * RATE].all()


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    count=st.integers(0, 40),
)
@settings(max_examples=25, deadline=None)
def test_pieces_hold_all_speech_and_do_not_depend_on_the_blocks(seed, sizes, count):
    words, gaps, generator = words_and_gaps(count, lambda random: random.exponential(0.5), seed)
    waveform, times = say(words, gaps, generator) if count else (np.zeros(0, np.float32), [])
    whole = list(pieces([waveform], RATE, CUTTING))
    blocks, first = [], 0
    for size in itertools.cycle(sizes):
        blocks.append(waveform[first : first + size])
        first += size
        if first >= len(waveform):
            break
    found = list(pieces(blocks, RATE, CUTTING))
    assert [(p.start, p.end) for p in found] == [(p.start, p.end) for p in whole]
    for piece in found:
        assert len(piece.samples) <= CUTTING.max_seconds * RATE
        np.testing.assert_array_equal(piece.samples, waveform[piece.start : piece.end])
    for earlier, later in itertools.pairwise(found):
        assert earlier.start < later.start
        assert earlier.end < later.end
    for start, end in times:
        covered = np.zeros(round((end - start) * RATE), bool)
        for p in found:
            offset = round(start * RATE)
            covered[max(0, p.start - offset) : max(0, p.end - offset)] = True
        assert covered.mean() > 0.99


@pytest.mark.parametrize("level", [0.0, 1e-5, 0.02])
def test_silence_and_steady_noise_are_no_speech(recognizer, level):
    noise = np.random.default_rng(2).normal(0, 1, 120 * RATE).astype(np.float32)
    assert list(pieces([level * noise], RATE, CUTTING)) == []
    [transcript] = recognizer.transcribe([level * noise], "ctc_greedy")
    assert (transcript.text, transcript.words, transcript.duration) == ("", (), 120.0)


def test_a_short_recording_is_one_piece_as_it_is():
    waveform = np.zeros(10 * RATE, np.float32)
    [piece] = pieces([waveform[:700], waveform[700:]], RATE, CUTTING)
    assert (piece.start, piece.end) == (0, 10 * RATE)
    [empty] = pieces([], RATE, CUTTING)
    assert (empty.start, empty.end) == (0, 0)


@pytest.mark.parametrize(
    "wrong", [{"overlap_seconds": 20.0}, {"pause_seconds": -1.0}, {"max_seconds": 0.1}]
)
def test_cutting_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="max_seconds"):
        Cutting(**{"max_seconds": 30.0, "overlap_seconds": 0.0, **wrong})


def window(start, end, *words):
    spoken = tuple(Word(text, begins, ends) for text, begins, ends in words)
    return Window(start, end, (_hypothesis(" ".join(w.text for w in spoken)),), spoken)


def _hypothesis(text):
    from voxformer.decoding import Hypothesis

    return Hypothesis((), text, 0.0)


def test_seam_by_hand():
    """The windows agree on `b` and `c`; `c` is nearer to the middle, 9.0."""
    left = window(0, 10, ("a", 6.0, 6.5), ("b", 7.6, 7.9), ("c", 8.8, 9.0), ("d's", 9.8, 10.0))
    right = window(8, 18, ("be", 8.0, 8.1), ("c", 8.9, 9.1), ("d", 9.7, 10.1), ("e", 11.0, 11.5))
    segments = join([left, right], 18.0)
    assert [segment.text for segment in segments] == ["a b c", "d e"]
    assert [(segment.start, segment.end) for segment in segments] == [(0.0, 9.0), (9.0, 18)]
    assert segments[1].heard == (8, 18)


def test_seam_of_windows_that_agree_on_nothing_is_between_words():
    left = window(0, 10, ("a", 6.0, 6.5), ("b", 8.7, 9.2), ("x", 9.5, 9.9))
    right = window(8, 18, ("p", 8.2, 8.5), ("q", 8.6, 9.3), ("r", 9.6, 10.1))
    segments = join([left, right], 18.0)
    assert [segment.text for segment in segments] == ["a b", "r"]


@pytest.mark.parametrize("first", [True, False])
def test_word_that_one_window_heard_twice_is_paired_with_the_nearer(first):
    """`o` and `o` and `october`; taking the other of the two would double or lose one."""
    twice = [("two", 8.4, 8.6), ("o", 8.7, 8.8), ("o", 8.94, 9.02), ("x", 9.7, 10.0)]
    once = [("two", 8.4, 8.6), ("o", 8.7, 8.8), ("to", 8.9, 9.1), ("y", 9.6, 9.9)]
    left, right = (twice, once) if first else (once, twice)
    segments = join([window(0, 10, *left), window(8, 18, *right)], 18.0)
    rest = [word for word, *_ in right[2:]]
    assert " ".join(s.text for s in segments).split() == ["two", "o", *rest]


def test_same_word_at_another_time_is_another_word():
    left = window(0, 10, ("no", 8.2, 8.4))
    right = window(8, 18, ("no", 9.6, 9.8))
    assert [s.text for s in join([left, right], 18.0)] == ["no", "no"]


def test_memory_does_not_grow_with_the_recording(recognizer):
    """Blocks of half an hour come from a generator; what is held is bounded."""
    words, gaps, generator = words_and_gaps(100, lambda random: UNBROKEN, 3)
    waveform, _ = say(words, gaps, generator)

    def peak(times):
        tracemalloc.start()
        try:
            count = sum(1 for _ in pieces(itertools.repeat(waveform, times), RATE, CUTTING))
            return tracemalloc.get_traced_memory()[1], count
        finally:
            tracemalloc.stop()

    once, _ = peak(2)
    long, count = peak(50)
    assert count > 150
    assert long < 1.2 * once


def test_batches_hold_as_many_seconds_as_suit_the_engine(recognizer):
    sizes = []
    encode = recognizer.engine.encode

    def watched(waveforms, lengths):
        sizes.append(waveforms.size / RATE)
        return encode(waveforms, lengths)

    recognizer.engine.encode = watched
    noise = np.random.default_rng(1).normal(0, 0.1, (9, 6 * RATE)).astype(np.float32)
    for wanted, most in ((None, recognizer.engine.batch_seconds), (13.0, 13.0), (60.0, 60.0)):
        sizes.clear()
        recognizer.transcribe(list(noise), "ctc_greedy", batch_seconds=wanted)
        assert sum(sizes) == 54.0
        assert most - 6.0 <= max(sizes) <= most


def test_a_file_is_read_as_it_is_recognised(recognizer, tmp_path):
    words, gaps, generator = words_and_gaps(80, lambda random: random.uniform(0.05, 1), 4)
    waveform, times = say(words, gaps, generator)
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    torn = tmp_path / "torn.flac"
    soundfile.write(torn, waveform, RATE)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    heard: list[float] = []
    given = [path, torn, lambda: iter([waveform]), tmp_path / "none.wav", waveform]
    results = list(recognizer.transcribe_each(given, "ctc_greedy", progress=heard.append))
    for result in (results[0], results[2], results[4]):
        assert_heard(result, words, times)
        assert result.duration == len(waveform) / RATE
    assert isinstance(results[1], AudioError)
    assert "no such audio file" in str(results[3])
    assert sum(heard) > 2 * times[-1][1]
    with pytest.raises(AudioError, match=r"torn\.flac"):
        recognizer.transcribe([path, torn], "ctc_greedy")
