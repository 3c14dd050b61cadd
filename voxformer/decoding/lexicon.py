"""Words by how they are spelled with a model's tokens: a pronunciation lexicon."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from .. import _core
from .vocabulary import WORD_START

_GZIP_MAGIC = b"\x1f\x8b"
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
            for text in (word, spelling):
                if not isinstance(text, str) or _PARTING & set(text):
                    raise ValueError(f"lexicon entry {number}: {text!r} is not one word")
            if WORD_START in spelling:
                raise ValueError(
                    f"lexicon entry {number}: spelling {spelling!r} has the mark of a word's "
                    "beginning; leave it out"
                )
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
        name = os.fspath(path)
        data = Path(path).read_bytes()
        try:
            if data.startswith(_GZIP_MAGIC):
                data = gzip.decompress(data)
            text = data.decode("utf-8-sig")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{name}: damaged or truncated gzip data ({error})") from None
        except UnicodeDecodeError:
            raise ValueError(
                f"{name}: not UTF-8 text; a lexicon has lines word<TAB>spelling"
            ) from None
        entries: list[tuple[str, str]] = []
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            fields = line.removesuffix("\r").split("\t")
            if len(fields) != 2 or not all(fields) or " " in line:
                raise ValueError(
                    f"{name}:{number}: {line!r} is not word<TAB>spelling, neither with spaces"
                )
            if WORD_START in fields[1]:
                raise ValueError(
                    f"{name}:{number}: {fields[1]!r} has the mark of a word's beginning; leave it "
                    "out"
                )
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
