"""Words as they sound: IPA by eSpeak NG's dictionaries and rules, word by word.

A model that writes phones need not learn English spelling from a few hours of speech; a lexicon
(`voxformer.decoding.Lexicon`) and a language model turn what it heard into words.
"""

from __future__ import annotations

import functools
import re

from .espeak import espeak
from .normalise import normalise

# Stress, length, joins and what eSpeak NG says of a change of language.
_MARKS = re.compile(r"[\u02c8\u02cc\u02d0\u0361\u200d\s_-]|\([^)]*\)")

# What one language does not tell apart, or eSpeak NG writes in two ways.
_FOLDED = {
    "en": {
        "n\u0329": "\u0259n",  # syllabic n
        "l\u0329": "\u0259l",
        "\u027e": "t",  # flap
        "\u0294": "t",  # glottal stop
        "\u1d7b": "\u026a",  # near-close central
        "\u0250": "\u0259",  # near-open central
        "r": "\u0279",
        "\u0261": "g",
        "x": "k",  # of foreign words
        "\u00e7": "k",
        "\u026c": "l",
        "\u0303": "",
    },
}

# Said by themselves these are the names of letters.
_SAID = {"en": {"a": "\u0259"}}


@functools.cache
def pronouncer(voice: str) -> Pronouncer:
    """One for each voice, which keeps the words that it has pronounced.

    Raises:
        EspeakError: see `Pronouncer`.
    """
    return Pronouncer(voice)


class Pronouncer:
    """Text to phones, one pronunciation a word, whatever stands beside it.

    Args:
        voice: eSpeak NG's name of a language or accent, such as `en-us`, `de` or `fr`.

    Raises:
        EspeakError: eSpeak NG is not installed or has no such voice.
    """

    def __init__(self, voice: str) -> None:
        self.voice = voice
        self._espeak = espeak()
        self._espeak.phonemes("", voice)
        language = voice.lower().partition("-")[0]
        self._folded = _FOLDED.get(language, {})
        self._known = dict(_SAID.get(language, {}))

    def __call__(self, text: str) -> str:
        """The normalised text's words as IPA without stress and length, single-spaced."""
        return " ".join(self.word(word) for word in normalise(text).split())

    def word(self, word: str) -> str:
        """IPA of one normalised word; the word itself where eSpeak NG has no sound for it."""
        known = self._known.get(word)
        if known is None:
            ipa = _MARKS.sub("", self._espeak.phonemes(word, self.voice).decode())
            for written, phone in self._folded.items():
                ipa = ipa.replace(written, phone)
            self._known[word] = known = normalise(ipa).replace(" ", "") or word
        return known
