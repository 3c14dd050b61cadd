"""Words as phones, by the real eSpeak NG."""

from __future__ import annotations

import sys

import pytest

from voxformer.text import pronunciation
from voxformer.text.espeak import Espeak, EspeakError
from voxformer.text.pronunciation import Pronouncer


@pytest.fixture(scope="module")
def english() -> Pronouncer:
    return Pronouncer("en-us")


def test_words_are_phones_without_stress_and_length(english: Pronouncer) -> None:
    assert english("Two birds, too!") == "tu bɜdz tu"
    assert english("church judge") == "tʃɜtʃ dʒʌdʒ"


def test_a_word_sounds_the_same_whatever_stands_beside_it(english: Pronouncer) -> None:
    """Otherwise a lexicon of words could not spell the transcripts."""
    text = "the end of a day in the life of an engine i'll have had"
    assert english(text) == " ".join(english.word(word) for word in text.split())
    # By itself it is the letter's name, and eSpeak NG says so.
    assert english.word("a") == "ə" != english.word("eh")


def test_what_english_does_not_tell_apart_is_one_phone(english: Pronouncer) -> None:
    text = "water button little bach utrecht provence roses about red"
    phones = set(english(text)) - {" "}
    assert phones.isdisjoint("ɾʔᵻɐrɡxçɬ\u0303\u0329ːˈˌ")


def test_other_languages_keep_their_phones() -> None:
    assert "x" in Pronouncer("de").word("bach")


def test_no_text_is_no_phones_and_names_of_marks_are_kept(english: Pronouncer) -> None:
    assert english("") == ""
    assert english("?!") == ""
    assert english.word("\u4e00")  # whatever it is called, it is not empty


def test_pronunciations_are_normal_text(english: Pronouncer) -> None:
    """The tokenizer normalises what it reads, and must not change them."""
    from voxformer.text import normalise

    spoken = english("she sells sea shells by the sea shore don't you think so")
    assert normalise(spoken) == spoken


@pytest.mark.parametrize("voice", ["xx-none", "en-none"])
def test_a_voice_that_is_none_is_one_line(voice: str) -> None:
    with pytest.raises(EspeakError, match=f"eSpeak NG has no voice '{voice}'"):
        Pronouncer(voice)


def test_pronouncing_leaves_the_voices_of_synthetic_speech_as_they_are() -> None:
    from voxformer.data.voices import _speak_espeak

    before, _ = _speak_espeak("en-us", "hello world", 1.0)
    Pronouncer("de").word("hallo")
    after, _ = _speak_espeak("en-us", "hello world", 1.0)
    assert len(before) == len(after) > 8000


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(pronunciation, "espeak", Espeak)  # the process has it already
    with pytest.raises(EspeakError, match=r"pip install 'voxformer\[phones\]'"):
        Pronouncer("en-us")
