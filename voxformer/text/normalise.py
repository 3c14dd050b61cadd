"""The one text normalisation: what a model is trained to write, and what scoring compares."""

from __future__ import annotations

import unicodedata

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u02b9\u0060\u00b4\uff07", "'"))


def normalise(text: str) -> str:
    """Lower-case NFKC text of letters, digits, marks and apostrophes, single-spaced.

    Punctuation and symbols become spaces (`twenty-one` is two words); an apostrophe stays where it
    touches a letter or digit (`don't`, `'tis`). Applying it twice changes nothing.
    """
    # Accents typed as apostrophes go first: NFKC would split some of them into space and mark.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    kept = "".join(c if _is_word(c) or c == "'" else " " for c in text)
    words = (word if any(map(_is_word, word)) else "" for word in kept.split())
    return " ".join(word for word in words if word)


def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"
