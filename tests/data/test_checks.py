from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxformer.audio.features import LogMel
from voxformer.config.schema import DataConfig
from voxformer.data import DataError
from voxformer.data.checks import ctc_frames_needed, encoder_frames, screen

ANY = DataConfig(max_bad_fraction=1.0)


def test_good_utterances_are_kept_in_order(corpus, tokenizer) -> None:
    screened = screen(corpus, tokenizer, DataConfig())
    assert screened.kept == corpus
    assert screened.rejected == []


def test_reasons_by_id(corpus, tokenizer) -> None:
    good = corpus[5]
    bad = {
        "silent": replace(good, text=" . "),
        "short": replace(good, duration=0.05),
        "long": replace(good, duration=31.0),
        "wordy": replace(good, text="seven " * 30),
        "foreign": replace(good, text="\u017eena"),
        "gone": replace(good, audio_path=Path("none.flac")),
    }
    utterances = [good, *(replace(u, id=name) for name, u in bad.items())]
    screened = screen(utterances, tokenizer, ANY)
    assert screened.kept == [good]
    reasons = dict(screened.rejected)
    assert list(reasons) == list(bad)
    assert "empty" in reasons["silent"]
    assert "min_duration" in reasons["short"]
    assert "max_duration" in reasons["long"]
    assert "CTC labels" in reasons["wordy"]
    assert "not in the tokenizer" in reasons["foreign"]
    assert "no audio file" in reasons["gone"]


def test_a_recording_of_no_speech_needs_no_text(corpus, tokenizer) -> None:
    utterances = [replace(u, text="", speech=False) for u in corpus]
    assert screen(utterances, tokenizer, DataConfig()).kept == utterances


def test_pretraining_needs_no_text(corpus) -> None:
    utterances = [replace(u, text="") for u in corpus]
    assert screen(utterances, None, DataConfig()).kept == utterances


def test_too_many_bad_names_the_first(corpus, tokenizer) -> None:
    utterances = [*corpus, replace(corpus[0], id="broken", text="")]
    assert screen(utterances, tokenizer, DataConfig(max_bad_fraction=0.05)).rejected
    with pytest.raises(DataError, match=r"1 of 21 .*broken: empty text") as caught:
        screen(utterances, tokenizer, DataConfig())
    assert "\n" not in str(caught.value)


def test_nothing_left_is_an_error_whatever_the_share(corpus, tokenizer) -> None:
    with pytest.raises(DataError, match="and 15 more"):
        screen([replace(u, text="") for u in corpus], tokenizer, ANY)
    with pytest.raises(DataError, match="no utterances"):
        screen([], tokenizer, ANY)


FRONT_ENDS = {rate: LogMel(rate) for rate in (8000, 16000)}


@given(sample_rate=st.sampled_from([8000, 16000]), num_samples=st.integers(0, 200_000))
def test_encoder_frames_are_those_of_the_front_end_and_two_halvings(
    sample_rate: int, num_samples: int
) -> None:
    frames = int(FRONT_ENDS[sample_rate].frame_lengths(torch.tensor([num_samples]))[0])
    for _ in range(2):
        frames = (frames + 1) // 2
    assert encoder_frames(num_samples, sample_rate) == frames


def test_repeats_need_a_blank_between() -> None:
    assert ctc_frames_needed([]) == 0
    assert ctc_frames_needed([1, 2, 3]) == 3
    assert ctc_frames_needed([1, 1, 1, 2, 2]) == 8
