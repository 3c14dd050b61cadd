from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.text import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  a \t b\n", "a b"),
        ("Don\u2019t", "don't"),
        ("don`t", "don't"),
        ("o'clock, 'tis", "o'clock 'tis"),
        ("he said ' no '", "he said no"),
        ("twenty-one", "twenty one"),
        ("\ufb01ne \uff21\uff22", "fine ab"),
        ("CAF\u00c9", "caf\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("...", ""),
        ("", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_applying_it_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.text())
def test_white_space_is_single_and_inside(text: str) -> None:
    result = normalise(text)
    assert result == " ".join(result.split())
