"""Packed n-grams: what comes out is what went in, to a step of the logarithms."""

from __future__ import annotations

import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.cli import main
from voxformer.decoding import NgramLanguageModel
from voxformer.text.mixture import BackoffModel
from voxformer.text.ngrams import NgramError, train_ngrams
from voxformer.text.packed import MAGIC, STEP, pack, unpack

sentences_of = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "dé", "e"]), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=20,
)


def entries(model: BackoffModel) -> dict[tuple[str, ...], tuple[float, float]]:
    return {
        tuple(model.words[i] for i in row): (log10, backoff)
        for n, order in enumerate(model.orders, start=1)
        for row, log10, backoff in zip(
            model.rows(n).tolist(), order.log10.tolist(), order.backoff.tolist(), strict=True
        )
    }


@given(sentences_of, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_every_ngram_comes_back_within_half_a_step(sentences: list[str], order: int) -> None:
    model = BackoffModel.read_arpa(train_ngrams(sentences, order, decimals=9))
    before, after = entries(model), entries(unpack(pack(model)))
    assert before.keys() == after.keys()
    given_, found = (np.array([values[key] for key in before]) for values in (before, after))
    assert np.abs(given_ - found).max() <= STEP / 2 + 1e-9


def test_the_command_packs_and_the_search_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("the cat sat\nthe dog sat down\na cat ran\n", "utf-8")
    (tmp_path / "other").write_text("the cat ran down\na dog ran\nfish swim\n", "utf-8")
    other = str(tmp_path / "other.arpa.gz")
    assert main(["lm", "--text", str(tmp_path / "other"), "--order", "2", "--out", other]) == 0
    command = ["lm", "--text", str(tmp_path / "text"), "--mix", other, "--mix-weight", "0.3"]
    for name in ("mixed.arpa", "mixed.ngrams"):
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    assert "mixed with" in capsys.readouterr().out.splitlines()[-1]
    plain, packed = (
        NgramLanguageModel.load(tmp_path / name, cache=False)
        for name in ("mixed.arpa", "mixed.ngrams")
    )
    assert plain.num_ngrams == packed.num_ngrams
    assert "swim" not in packed
    text = "the cat ran down"
    assert packed.score(text) == pytest.approx(plain.score(text), abs=5 * 2 * STEP)
    # Mixed in, what the text never has is no longer a matter of single words.
    assert [score.ngram_length for score in packed.full_scores(text)][:3] == [2, 3, 2]
    assert main([*command, "--prune-entropy", "0.9", "--out", str(tmp_path / "s.ngrams")]) == 0
    small = NgramLanguageModel.load(tmp_path / "s.ngrams")
    assert small.num_ngrams[1] < packed.num_ngrams[1]
    assert (tmp_path / "s.ngrams.voxlm").is_file()


def test_of_a_thousand_followers_every_one_comes_back() -> None:
    texts = [f"first {chr(97 + i % 26)}{i}" for i in range(1000)]
    model = BackoffModel.read_arpa(train_ngrams(texts, 2, decimals=9))
    assert entries(unpack(pack(model))).keys() == entries(model).keys()


@pytest.mark.parametrize("harm", ["magic", "cut", "flipped"])
def test_damaged_ngrams_are_refused_in_one_line(tmp_path: Path, harm: str) -> None:
    data = bytearray(pack(BackoffModel.read_arpa(train_ngrams(["a b", "b c"], 2))))
    if harm == "magic":
        data[len(MAGIC) - 2] ^= 3
    elif harm == "cut":
        del data[-20:]
    else:
        data[len(MAGIC) + 40] ^= 255
    with pytest.raises(NgramError):
        unpack(bytes(data))
    path = tmp_path / "lm.ngrams"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"lm\.ngrams") as refusal:
        NgramLanguageModel.load(path, cache=False)
    assert "\n" not in str(refusal.value)


def test_counts_that_are_not_those_of_the_columns_are_refused_before_memory_is_taken() -> None:
    data = pack(BackoffModel.read_arpa(train_ngrams(["a b", "b c"], 2)))
    framed = lzma.decompress(data[len(MAGIC) :])
    harmed = []
    for place in range(len(framed)):
        changed = bytearray(framed)
        changed[place] = 255
        harmed.append(MAGIC + lzma.compress(bytes(changed)))
    refused = 0
    tracemalloc.start()
    for content in harmed:
        try:
            unpack(content)
        except NgramError:
            refused += 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert refused > len(harmed) / 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mix", "nowhere.arpa"], "nowhere.arpa: No such file"),
        (["--mix", "text"], "text: this is not an ARPA file"),
        (["--mix", "x", "--tokenizer", "t"], "cannot be mixed with one over pieces"),
    ],
)
def test_what_cannot_be_mixed_is_said_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a b c\n", "utf-8")
    assert main(["lm", "--text", "text", *arguments, "--out", "lm.arpa"]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "lm.arpa").exists()
