"""Lexicons and lists of words from texts, and what the commands say of them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from voxformer.cli import main
from voxformer.data.language_model import (
    read_word_list,
    write_language_model,
    write_lexicon,
    write_word_list,
)
from voxformer.data.manifest import DataError
from voxformer.decoding import Lexicon, NgramLanguageModel


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be.\nTwo bees; to bee or not?\n", "utf-8")
    return path


def test_a_lexicon_has_every_word_and_the_frequent_one_of_those_that_sound_alike_first(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "more.jsonl"
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "knot"}
    manifest.write_text(json.dumps(row) + "\n")
    words = tmp_path / "words.txt"
    words.write_text("zebra\t5\nBEE\t3\ngnat\t1\n")
    out = tmp_path / "lexicon.txt.gz"
    arguments = ["--voice", "en-us", "--text", str(text), "--manifest", str(manifest)]
    assert main(["lexicon", *arguments, "--words", str(words), "--out", str(out)]) == 0
    assert "10 words with 7 pronunciations (en-us)" in capsys.readouterr().out
    lexicon = Lexicon.load(out)
    assert {word for word, _ in lexicon.entries} == {
        *("to", "be", "or", "not", "two", "bees", "bee", "knot", "zebra", "gnat")
    }
    alike = [word for word, spelling in lexicon.entries if spelling == "tu"]
    assert alike == ["to", "two"]
    assert [w for w, s in lexicon.entries if s == "nɑt"] == ["not", "knot"]
    first = out.read_bytes()
    write_lexicon(out, "en-us", [str(text)], [str(manifest)], words)
    assert out.read_bytes() == first


def test_listed_words_are_known_to_the_language_model(text: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("zebra\t100\ngnat\n")
    out = tmp_path / "lm.arpa"
    assert "2 listed words" in write_language_model(out, [str(text)], [], 2, words=words)
    model = NgramLanguageModel.load(out, cache=False)
    assert "zebra" in model
    assert "gnat" in model
    assert "emu" not in model
    assert model.score("zebra") > model.score("gnat") > -50.0


def test_frequencies_of_one_word_are_added(tmp_path: Path) -> None:
    path = tmp_path / "words.txt.gz"
    path.write_bytes(gzip.compress(b"Emu\t2\nemu\t1\n\nit's\t0.5\nowl\n"))
    assert read_word_list(path) == {"emu": 3.0, "it's": 0.5, "owl": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("emu\t1\ntwo words\t1\n", r"words\.txt:2: 'two words.* is not one word"),
        ("emu\tmany\n", r"words\.txt:1"),
        ("emu\t0\n", r"words\.txt:1"),
        ("emu\tinf\n", r"words\.txt:1"),
        ("?\t1\n", r"words\.txt:1"),
        ("\n", r"words\.txt: no words"),
    ],
)
def test_a_list_that_is_none_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_word_list(path)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt.gz"
    path.write_bytes(gzip.compress(b"emu\n")[:-4])
    with pytest.raises(DataError, match=r"words\.txt\.gz: damaged or truncated gzip data"):
        read_word_list(path)
    with pytest.raises(DataError, match="no such text"):
        write_lexicon(tmp_path / "out.txt", "en-us", [str(tmp_path / "none.txt")], [])
    with pytest.raises(DataError, match="no words: name a text"):
        write_lexicon(tmp_path / "out.txt", "en-us", [], [])


def test_a_language_by_its_most_frequent_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    write_word_list(path, "en", 300)
    found = read_word_list(path)
    assert len(found) == 300
    assert "the" in found
    assert "2" not in found
    assert next(iter(found)) == "the"
    assert min(found.values()) > 1e4
    with pytest.raises(DataError, match="no words of the language 'tlh'"):
        write_word_list(path, "tlh", 10)


def test_without_wordfreq_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(DataError, match=r"pip install 'voxformer\[phones\]'"):
        write_word_list(tmp_path / "words.txt", "en", 10)
