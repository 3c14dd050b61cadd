"""Token ids to text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

WORD_START = "\u2581"  # SentencePiece's mark for a space


def text_of(token_ids: Iterable[int], tokens: Sequence[str]) -> str:
    """The text of `token_ids`: pieces joined, `▁` as a space, stripped."""
    return "".join(map(tokens.__getitem__, token_ids)).replace(WORD_START, " ").strip()


def with_spaces(tokens: Sequence[str] | None) -> list[str] | None:
    """The tokens with a space for `▁`: joined and stripped they are `text_of` their ids."""
    return None if tokens is None else [token.replace(WORD_START, " ") for token in tokens]


def load_tokens(tokens: Sequence[str] | str | os.PathLike[str] | None) -> list[str] | None:
    """The vocabulary as a list that is indexed by token id.

    Args:
        tokens: a sequence of tokens, the path of a `tokens.txt` (UTF-8, one token a line, the line
            number from 0 is the id), or None for none.

    Raises:
        ValueError: the file has an empty line before its end, which would shift the ids after it.
    """
    if tokens is None:
        return None
    if not isinstance(tokens, str | os.PathLike):
        return list(tokens)
    # Split at "\n" alone: a piece may be another of the characters that splitlines() splits at.
    lines = Path(tokens).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.removesuffix("\r"):
            raise ValueError(f"{os.fspath(tokens)}:{number}: empty line; every line is one token")
    return [line.removesuffix("\r") for line in lines]
