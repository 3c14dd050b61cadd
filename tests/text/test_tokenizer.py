from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.text import Tokenizer, TokenizerError, normalise, train_tokenizer

TEXTS = [
    "turn on the kitchen lights",
    "turn off the bedroom lamp",
    "what's the time",
    "set a timer for twenty five minutes",
    "play some jazz music in the living room",
    "the quick brown fox jumps over the lazy dog",
]
KINDS = [("unigram", 40), ("bpe", 60), ("char", 29)]


@pytest.fixture(scope="module", params=KINDS, ids=[kind for kind, _ in KINDS])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    kind, size = request.param
    folder = tmp_path_factory.mktemp(kind)
    train_tokenizer(TEXTS, size, folder, kind)
    return Tokenizer.load(folder), folder, size


def test_ids_and_specials(tokenizer) -> None:
    tokenizer, folder, size = tokenizer
    assert tokenizer.vocab_size == size
    assert len(tokenizer.tokens) == size + 2
    assert tokenizer.tokens[0] == "<blank>"
    assert tokenizer.blank_id == 0
    assert tokenizer.tokens[-1] == "<sos/eos>"
    assert tokenizer.sos_eos_id == size + 1
    assert (folder / "tokens.txt").read_text().splitlines() == tokenizer.tokens


@given(
    words=st.lists(
        st.text(alphabet="abcdefghijklmnopqrstuvwxyz'", min_size=1), min_size=1, max_size=8
    )
)
def test_text_survives_the_round_trip(tokenizer, words: list[str]) -> None:
    tokenizer = tokenizer[0]
    text = normalise(" ".join(words))
    ids = tokenizer.encode(text)
    assert all(1 <= i <= tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == text


def test_decoding_by_the_token_list_alone_is_the_same(tokenizer) -> None:
    tokenizer, folder, _ = tokenizer
    tokens = (folder / "tokens.txt").read_text().splitlines()
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert "".join(tokens[i] for i in ids).replace("\u2581", " ").strip() == text


def test_text_is_normalised_before_encoding(tokenizer) -> None:
    tokenizer = tokenizer[0]
    assert tokenizer.encode("Turn ON, the lights!") == tokenizer.encode("turn on the lights")


def test_specials_are_left_out_of_text(tokenizer) -> None:
    tokenizer = tokenizer[0]
    ids = tokenizer.encode("the lamp")
    assert tokenizer.decode([tokenizer.sos_eos_id, 0, *ids, tokenizer.sos_eos_id]) == "the lamp"
    with pytest.raises(TokenizerError, match="outside"):
        tokenizer.decode([tokenizer.sos_eos_id + 1])


def test_character_that_no_piece_has_is_unknown(tokenizer) -> None:
    tokenizer = tokenizer[0]
    assert tokenizer.unknown_id in tokenizer.encode("\u017e")


def test_survives_pickling(tokenizer) -> None:
    tokenizer = tokenizer[0]
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.tokens == tokenizer.tokens
    assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_same_texts_give_the_same_files(tmp_path: Path, kind: str, size: int) -> None:
    for name in ("a", "b"):
        train_tokenizer(TEXTS, size, tmp_path / name, kind)
    for file in ("tokenizer.model", "tokens.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_too_many_pieces_names_the_largest_number_which_then_works(
    tmp_path: Path, kind: str
) -> None:
    with pytest.raises(TokenizerError, match=r"at most \d+") as caught:
        train_tokenizer(TEXTS, 5000, tmp_path, kind)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokenizer.model").exists()
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train_tokenizer(TEXTS, largest, tmp_path, kind).vocab_size == largest


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_too_few_pieces_names_the_smallest_number(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TokenizerError, match=r"at least \d+"):
        train_tokenizer(TEXTS, 5, tmp_path, kind)


def test_no_text(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer(["", " ... "], 10, tmp_path)


def test_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="voxformer tokenizer"):
        Tokenizer.load(tmp_path / "none")


def test_broken_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        Tokenizer.load(tmp_path)


def test_token_list_of_another_model_is_refused(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 40, tmp_path)
    (tmp_path / "tokens.txt").write_text("<blank>\na\n<sos/eos>\n")
    with pytest.raises(TokenizerError, match=r"tokens\.txt"):
        Tokenizer.load(tmp_path)
