"""Words by how they are spelled with a model's tokens: a pronunciation lexicon."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .. import _core
from ..text.compressed import read_text
from .vocabulary import WORD_START

_PARTING = frozenset("\t\r\n")


class Lexicon:
    """The words that a search may write, each with how its tokens spell it.

    A model may be trained to write phones; what it writes is then read by a lexicon whose spellings
    are pronunciations. Words may share one (homophones), among which a language model chooses, and
    a word may have several. It is never changed and may be used by several decoders.

    Args:
        entries: pairs (word, spelling). A spelling is what the texts of the word's tokens make when
            they are joined, without the mark of a word's beginning. Without a language model the
            earlier of the words that are spelled alike is taken.

    Raises:
        ValueError: a word or a spelling is empty, no text, has a space, a tab, a line's end or the
            mark of a word's beginning, or there are none.
    """

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self.entries = tuple(dict.fromkeys((word, spelling) for word, spelling in entries))
        for number, (word, spelling) in enumerate(self.entries):
            if fault := _fault(word, spelling):
                raise ValueError(f"lexicon entry {number}: {fault}")
        self._core = _core.Lexicon(self.entries)
        self._spellings: dict[str, list[str]] = {}
        for word, spelling in self.entries:
            self._spellings.setdefault(word, []).append(spelling)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Lexicon:
        """Read a file of lines `word<TAB>spelling` in UTF-8, which gzip may have compressed.

        Raises:
            ValueError: a line is something else, or the file is damaged; the message names file and
                line.
            OSError: the file cannot be read.
        """
        text = read_text(path)
        entries: list[tuple[str, str]] = []
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            fields = line.removesuffix("\r").split("\t")
            if len(fields) != 2 or not all(fields) or " " in line:
                raise ValueError(
                    f"{path}:{number}: {line!r} is not word<TAB>spelling, neither with spaces"
                )
            if fault := _fault(*fields):
                raise ValueError(f"{path}:{number}: {fault}")
            entries.append((fields[0], fields[1]))
        return cls(entries)

    def dump(self) -> str:
        """What `load` reads."""
        return "".join(f"{word}\t{spelling}\n" for word, spelling in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, word: str) -> bool:
        return word in self._spellings

    def __repr__(self) -> str:
        return f"Lexicon({len(self._spellings)} words, {len(self.entries)} spellings)"

    def spellings(self, word: str) -> tuple[str, ...]:
        """How `word` may be spelled; nothing where the lexicon lacks it."""
        return tuple(self._spellings.get(word, ()))

    def to_core(self) -> _core.Lexicon:
        """The extension's counterpart."""
        return self._core


def _fault(word: str, spelling: str) -> str | None:
    """What is wrong with an entry, beside what the extension refuses."""
    for text in (word, spelling):
        if not isinstance(text, str) or _PARTING & set(text):
            return f"{text!r} is not one word"
    if WORD_START in spelling:
        return f"{spelling!r} has the mark of a word's beginning; leave it out"
    return None
