"""What is written of a transcript: by hand, and what holds of every subtitle."""

from __future__ import annotations

import itertools
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from voxformer.decoding import Hypothesis
from voxformer.runtime import FORMATS, Segment, Transcript, Word
from voxformer.runtime.formats import CUE_SECONDS, LINE_CHARACTERS, LINES, cues

TRANSCRIPT = Transcript(
    "hello there a",
    (Word("hello", 0.0, 0.5), Word("there", 0.6, 1.25), Word("a", 3661.0, 3661.2)),
    3662.0,
    (
        Segment(
            0.0,
            3662.0,
            "hello there a",
            (),
            (Hypothesis((2, 3), "hello there a", -1.5),),
            (0.0, 3662.0),
        ),
    ),
)


def test_srt_by_hand():
    assert FORMATS["srt"](TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:01,250\nhello there\n\n2\n01:01:01,000 --> 01:01:01,833\na\n"
    )


def test_vtt_by_hand():
    assert FORMATS["vtt"](TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nhello there\n\n01:01:01.000 --> 01:01:01.833\na\n"
    )


def test_txt_and_json_by_hand():
    assert FORMATS["txt"](TRANSCRIPT) == "hello there a\n"
    values = json.loads(FORMATS["json"](TRANSCRIPT))
    assert values["words"][1] == {
        "text": "there",
        "start": 0.6,
        "end": 1.25,
        "confidence": None,
    }
    assert values["segments"][0]["hypotheses"][0]["score"] == -1.5


def test_nothing_said_is_no_cue():
    silent = Transcript("", (), 5.0, (Segment(0.0, 5.0, "", (), (), (0.0, 5.0)),))
    written = {suffix: to_text(silent) for suffix, to_text in FORMATS.items() if suffix != "json"}
    assert written == {"txt": "\n", "srt": "", "vtt": "WEBVTT\n"}


def spoken(gaps, texts):
    words, time = [], 0.0
    for (gap, length), text in zip(gaps, itertools.cycle(texts), strict=False):
        words.append(Word(text, time + gap, time + gap + length))
        time += gap + length
    return words


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2)), min_size=1, max_size=60),
    st.lists(st.text("abc.,", min_size=1, max_size=12), min_size=1, max_size=5),
)
def test_cues_keep_every_word_in_lines_of_bounded_length_and_time(gaps, texts):
    words = spoken(gaps, texts)
    made = cues(words)
    shown = [text for cue in made for line in cue.lines for text in line.split(" ")]
    assert shown == [word.text for word in words]
    for cue in made:
        assert len(cue.lines) <= LINES
        assert all(len(line) <= LINE_CHARACTERS for line in cue.lines)
        assert cue.start < cue.end <= cue.start + CUE_SECONDS
    for earlier, later in itertools.pairwise(made):
        assert earlier.end <= later.start or later.start - earlier.start < 0.1


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 2)), min_size=1, max_size=40))
def test_written_times_are_in_order(gaps):
    words = tuple(spoken(gaps, ["word"]))
    transcript = Transcript(" ".join("word" for _ in words), words, words[-1].end, ())
    for suffix, point in (("vtt", "."), ("srt", ",")):
        text = FORMATS[suffix](transcript)
        assert text.count("word") == len(words)
        times = [
            int(h) * 3600 + int(m) * 60 + float(s.replace(point, "."))
            for h, m, s in re.findall(r"(\d\d):(\d\d):(\d\d[.,]\d{3})", text)
        ]
        assert times == sorted(times)


def test_cues_end_where_the_speaker_pauses_and_lines_are_balanced():
    """Fourteen words in 8 s fit into two cues in many ways; one pause is of 0.5 s."""
    texts = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    gaps = [(0.5 if text == "six" else 0.05, 0.5) for text in texts.split()]
    made = cues(spoken(gaps, texts.split()))
    assert [cue.lines for cue in made] == [
        ("one two three four five",),
        ("six seven eight nine ten", "eleven twelve thirteen fourteen"),
    ]


def test_a_word_that_no_line_holds_is_shown_all_the_same():
    [cue] = cues([Word("a" * 60, 0.0, 20.0)])
    assert cue.lines == ("a" * 60,)
    assert cue.end == CUE_SECONDS


def test_what_webvtt_takes_for_markup_is_escaped():
    words = (Word("<b>", 0.0, 1.0), Word("r&b", 1.0, 2.0))
    transcript = Transcript("<b> r&b", words, 2.0, ())
    assert "&lt;b&gt; r&amp;b" in FORMATS["vtt"](transcript)
    assert "<b> r&b" in FORMATS["srt"](transcript)
