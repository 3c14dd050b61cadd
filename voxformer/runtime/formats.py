"""The formats that a transcript is written in.

Subtitles keep to what editors and players expect (Netflix' Timed Text Style Guide): at most two
lines of 42 characters, at most 7 s, and 5/6 s at least where the next one leaves room. Which words
go together follows from pauses and sentence ends, by a search for the cheapest division of each
stretch between pauses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voxformer.runtime.transcript import Transcript, Word

LINE_CHARACTERS = 42
LINES = 2
CUE_SECONDS = 7.0
LEAST_CUE_SECONDS = 5 / 6
BETWEEN_CUES_SECONDS = 0.08
"""So that a viewer sees that a cue has changed: two frames of film."""

SHORTEST_SECONDS = 0.001
"""WebVTT wants a cue to end after its start."""

PAUSE_SECONDS = 1.0
"""No cue goes on over such a pause."""

NOTED_PAUSE_SECONDS = 0.3
SENTENCE_ENDS = (".", "?", "!", "\u2026")


@dataclass(frozen=True)
class Cue:
    """A subtitle: its lines, and when it is shown, in seconds."""

    lines: tuple[str, ...]
    start: float
    end: float


def to_txt(transcript: Transcript) -> str:
    """The text, one line."""
    return transcript.text + "\n"


def to_json_text(transcript: Transcript) -> str:
    """One JSON object."""
    return json.dumps(transcript.to_json(), ensure_ascii=False, indent=2) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_text(cue)}\n"
        for number, cue in enumerate(cues(transcript.words), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C)."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escaped(_text(cue))}\n"
        for cue in cues(transcript.words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "json": to_json_text,
    "srt": to_srt,
    "vtt": to_vtt,
}


def cues(words: Sequence[Word]) -> list[Cue]:
    """Words as subtitles, which do not overlap.

    Args:
        words: in order of their times.
    """
    groups = [group for run in _runs(words) for group in _divided(run)]
    made = []
    for number, group in enumerate(groups, start=1):
        start = group[0].start
        following = groups[number][0].start if number < len(groups) else float("inf")
        end = min(max(group[-1].end, start + LEAST_CUE_SECONDS), start + CUE_SECONDS)
        latest = max(following - BETWEEN_CUES_SECONDS, start)
        made.append(Cue(_lines(group), start, max(min(end, latest), start + SHORTEST_SECONDS)))
    return made


def _runs(words: Sequence[Word]) -> list[list[Word]]:
    """Words between pauses that no cue goes on over."""
    runs: list[list[Word]] = []
    for word in words:
        if runs and word.start - runs[-1][-1].end <= PAUSE_SECONDS:
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


def _divided(run: Sequence[Word]) -> list[Sequence[Word]]:
    """The cheapest division of a run into cues that fit; a word that fits nowhere is alone."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(run) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            group = run[start:end]
            if len(group) > 1 and not _fits(group):
                break
            pause = run[end].start - run[end - 1].end if end < len(run) else PAUSE_SECONDS
            options.append((best[start][0] + _cost(group, pause), start))
        best.append(min(options))
    groups = []
    end = len(run)
    while end:
        start = best[end][1]
        groups.append(run[start:end])
        end = start
    return groups[::-1]


def _fits(group: Sequence[Word]) -> bool:
    lines = _lines(group)
    return (
        len(lines) <= LINES
        and max(map(len, lines)) <= LINE_CHARACTERS
        and group[-1].end - group[0].start <= CUE_SECONDS
    )


def _cost(group: Sequence[Word], pause: float) -> float:
    """Few cues, evenly filled, that end where a speaker pauses or a sentence does."""
    empty = 1 - min(1.0, sum(len(word.text) + 1 for word in group) / (LINES * LINE_CHARACTERS))
    ends_well = pause >= NOTED_PAUSE_SECONDS or group[-1].text.endswith(SENTENCE_ENDS)
    return 1.0 + empty**2 - (0.7 if ends_well else 0.0)


def _lines(group: Sequence[Word]) -> tuple[str, ...]:
    """One line if it is short enough, else two of about the same length, the lower one longer."""
    texts = [word.text for word in group]
    whole = " ".join(texts)
    if len(whole) <= LINE_CHARACTERS or len(texts) == 1:
        return (whole,)
    pairs = ((" ".join(texts[:i]), " ".join(texts[i:])) for i in range(1, len(texts)))
    return min(pairs, key=lambda pair: (max(map(len, pair)), len(pair[0])))


def _text(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _escaped(text: str) -> str:
    """Characters that WebVTT takes for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """Time as both formats write it: 01:02:03.456, with a comma in SubRip."""
    milliseconds = round(seconds * 1000)
    whole, thousandths = divmod(milliseconds, 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{thousandths:03d}"
