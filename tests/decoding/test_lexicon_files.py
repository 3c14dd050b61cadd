"""Lexicons as files, and what is no lexicon."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.decoding import CtcBeamDecoder, Lexicon

NUMBERS = [("to", "tu"), ("two", "tu"), ("for", "for"), ("four", "for"), ("four", "fo")]
# Neither marks of files nor that of a word's beginning.
PARTING = " \t\r\n\u2581\ufeff"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=PARTING), min_size=1)


@settings(deadline=None, max_examples=40)
@given(entries=st.lists(st.tuples(texts, texts), min_size=1, max_size=8), packed=st.booleans())
def test_a_lexicon_that_is_dumped_is_loaded_again(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]], packed: bool
) -> None:
    lexicon = Lexicon(entries)
    path = tmp_path_factory.getbasetemp() / "dumped-lexicon"
    data = lexicon.dump().encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    loaded = Lexicon.load(path)
    assert loaded.entries == lexicon.entries == tuple(dict.fromkeys(entries))
    assert len(loaded) == len(set(entries))
    for word, _ in entries:
        assert loaded.spellings(word) == tuple(dict.fromkeys(s for w, s in entries if w == word))


def test_what_a_lexicon_tells_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_bytes("to\ttu\r\ntwo\ttu\nnaïve\tna'iv".encode())
    assert Lexicon.load(path).entries == (("to", "tu"), ("two", "tu"), ("naïve", "na'iv"))
    numbers = Lexicon(NUMBERS)
    assert repr(numbers) == "Lexicon(4 words, 5 spellings)"
    assert (numbers.spellings("four"), numbers.spellings("five")) == (("for", "fo"), ())
    assert "four" in numbers
    assert "five" not in numbers


@pytest.mark.parametrize("line", ["word", "", "a\tb\tc", "\te", "c\t", "a\tb c", "a b\tc"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str, before: int) -> None:
    path = tmp_path / "lexicon.txt"
    data = ("a\tb\n" * before + f"{line}\nx\ty\n").encode()
    for written in (data, gzip.compress(data), b""):
        path.write_bytes(written)
        number = before + 1 if written else 1
        with pytest.raises(ValueError, match=rf"\.txt:{number}: .* is not word<TAB>spelling"):
            Lexicon.load(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.gz"
    whole = gzip.compress("".join(f"{w}\t{w}{w}\n" for w in range(50)).encode(), mtime=0)
    cut = [whole[:end] for end in range(2, len(whole), 3)]
    changed = [
        bytes([*whole[:place], whole[place] ^ 0x55, *whole[place + 1 :]])
        for place in range(10, len(whole), 3)
    ]
    for data in cut + changed:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"lexicon\.gz: damaged or truncated gzip data"):
            Lexicon.load(path)
    for data in (b"caf\xe9\tkafe\n", gzip.compress(b"caf\xe9\tkafe\n")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"lexicon\.gz: not UTF-8 text"):
            Lexicon.load(path)
    with pytest.raises(FileNotFoundError):
        Lexicon.load(tmp_path / "none")


def test_entries_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="the lexicon has no words"):
        Lexicon([])
    for entry, message in {
        ("", "b"): "entry 1 has an empty word",
        ("a", ""): "entry 1 has an empty spelling",
        ("a b", "ab"): "entry 1: word 'a b' has a space",
        ("ab", "a b"): "entry 1: spelling 'a b' has a space",
    }.items():
        with pytest.raises(ValueError, match=message):
            Lexicon([("x", "x"), entry])


def test_a_mark_of_a_words_beginning_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("to\ttu\ntwo\t\u2581tu\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lexicon\.txt:2: '\u2581tu' has the mark"):
        Lexicon.load(path)


def test_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("to\ttu\n", encoding="utf-8-sig")
    assert Lexicon.load(path).entries == (("to", "tu"),)


def test_a_lexicon_that_the_tokens_cannot_spell_is_refused() -> None:
    """Of another voice, or with marks of stress; words that are foreign to it are no fault."""
    tokens = ["<blank>", "\u2581t", "u", "\u2581f", "o", "r"]
    foreign = ("bach", "b\u0251x")
    CtcBeamDecoder(tokens, lexicon=Lexicon([("to", "tu"), foreign]))
    with pytest.raises(ValueError, match="2 of the lexicon's 2 spellings, such as 't\u02c8u'"):
        CtcBeamDecoder(tokens, lexicon=Lexicon([("to", "t\u02c8u"), foreign]))


def test_a_hotword_with_a_boost_that_is_none_is_named_as_it_was_given() -> None:
    tokens = ["<blank>", "\u2581t", "u"]
    with pytest.raises(ValueError, match="hotword 'two' has boost -1"):
        CtcBeamDecoder(tokens, hotwords={"two": -1.0}, lexicon=Lexicon([("two", "tu")]))
