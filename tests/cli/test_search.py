"""What the command line makes of a language model and hotwords."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from voxformer.cli.search import (
    HotwordFileError,
    LanguageModelUsageError,
    add_search_arguments,
    with_search_arguments,
)
from voxformer.runtime import DecodingOptions


def parse(*arguments: str, of: DecodingOptions | None = None) -> DecodingOptions:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_search_arguments(parser)
    options = DecodingOptions(lm_weight=0.3) if of is None else of
    return with_search_arguments(options, parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_not_given_stays_as_the_model_has_it() -> None:
    assert parse() == DecodingOptions(lm_weight=0.3)
    given = parse("--lm", "lm.arpa", "--word-bonus", "-0.5", "--lm-unit", "token")
    assert given == DecodingOptions(
        language_model="lm.arpa", lm_weight=0.3, word_bonus=-0.5, lm_unit="token"
    )


def test_a_bundles_own_language_model_can_be_left_out_or_replaced() -> None:
    own = DecodingOptions(
        language_model="b/lm.arpa", lm_weight=0.8, lm_unit="token", word_bonus=2.0, beam_size=30
    )
    assert parse(of=own) == own
    assert parse("--no-lm", of=own) == DecodingOptions(beam_size=30)
    other = parse("--lm", "lm.arpa", "--word-bonus", "1", of=own)
    assert other == DecodingOptions(language_model="lm.arpa", word_bonus=1.0, beam_size=30)
    without = DecodingOptions(word_bonus=1.5)
    assert parse("--no-lm", of=without) == without
    with pytest.raises(argparse.ArgumentError, match="not allowed with argument --lm"):
        parse("--lm", "lm.arpa", "--no-lm")
    with pytest.raises(LanguageModelUsageError, match="--lm-weight is for a language model: name"):
        parse("--no-lm", "--lm-weight", "0.7", of=own)
    with pytest.raises(LanguageModelUsageError, match="--lm-unit is for"):
        parse("--lm-unit", "token")
    assert parse("--lm-weight", "0.9", of=own).lm_weight == 0.9


def test_hotwords_have_the_common_boost_or_their_own() -> None:
    Path("words.txt").write_text("New York \t2.5\n\nPhnom Penh\r\n", encoding="utf-8")
    assert parse("--hotwords", "words.txt").hotwords == (("New York", 2.5), ("Phnom Penh", 5.0))
    Path("bom.txt").write_text("yes\n", encoding="utf-8-sig")
    assert parse("--hotwords", "bom.txt").hotwords == (("yes", 5.0),)
    common = parse("--hotwords", "words.txt", "--hotword-boost", "9").hotwords
    assert common == (("New York", 2.5), ("Phnom Penh", 9.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"yes\tmuch\n", r"words.txt:1: boost 'much' is not a number"),
        (b"no\nyes\t-1\n", r"words.txt:2: boost '-1' is not a number above 0"),
        (b"\n \n", r"words.txt: no hotwords"),
        (b"\xff\n", r"words.txt: not UTF-8 text"),
    ],
)
def test_hotwords_that_cannot_be_used_are_refused(content: bytes, message: str) -> None:
    Path("words.txt").write_bytes(content)
    with pytest.raises(HotwordFileError, match=message):
        parse("--hotwords", "words.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lm-weight", "-1"), "'-1' is not a number of at least 0"),
        (("--word-bonus", "nan"), "'nan' is not a number"),
        (("--hotword-boost", "0"), "'0' is not a number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[str, str], message: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=message):
        parse(*arguments)
