"""SentencePiece pieces as ids, with the two special tokens that CTC and the decoder need.

Ids: 0 is `<blank>`, piece p is p + 1, `<sos/eos>` is vocab_size + 1. `tokens.txt` holds the same
list, one token a line, so that a deployer detokenises without SentencePiece.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from .atomic import write_atomically
from .normalise import normalise

BLANK = "<blank>"
SOS_EOS = "<sos/eos>"
UNKNOWN = "<unk>"

ModelType = Literal["unigram", "bpe", "char"]


class TokenizerError(ValueError):
    """A tokenizer cannot be made or read; the message is one line that says what to do."""


class TokenizerLibraryError(ImportError):
    """SentencePiece is missing or does not load."""


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        vocab_size: SentencePiece pieces V, `<unk>` among them.
        tokens: V + 2 strings, `<blank>`, the pieces, `<sos/eos>`; the index is the id.
        blank_id: 0.
        sos_eos_id: V + 1.
        unknown_id: what `encode` gives for a character that no piece has.
    """

    blank_id = 0

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = _sentencepiece().SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise TokenizerError(f"not a SentencePiece model: {error}") from None
        self.vocab_size: int = self._processor.GetPieceSize()
        pieces = [self._processor.IdToPiece(i) for i in range(self.vocab_size)]
        self.tokens: list[str] = [BLANK, *pieces, SOS_EOS]
        self.sos_eos_id = self.vocab_size + 1
        self.unknown_id: int = self._processor.unk_id() + 1

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Read what `train_tokenizer` wrote into `folder`."""
        folder = Path(folder)
        path = folder / "tokenizer.model"
        if not path.is_file():
            raise TokenizerError(
                f"{folder}: no tokenizer.model there; "
                "make one with `voxformer tokenizer --manifest M --vocab-size N --out DIR`"
            )
        try:
            tokenizer = cls(path.read_bytes())
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None
        listed = folder / "tokens.txt"
        if listed.is_file() and listed.read_text("utf-8").split("\n")[:-1] != tokenizer.tokens:
            raise TokenizerError(f"{listed}: is not the token list of tokenizer.model beside it")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids (1 to vocab_size) of the normalised text."""
        return [piece + 1 for piece in self._processor.EncodeAsIds(normalise(text))]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; `<blank>` and `<sos/eos>` are left out."""
        pieces: list[str] = []
        for token in ids:
            if not 0 <= token <= self.sos_eos_id:
                raise TokenizerError(f"token id {token} is outside 0..{self.sos_eos_id}")
            if token not in (self.blank_id, self.sos_eos_id):
                pieces.append(self.tokens[token])
        return "".join(pieces).replace("\u2581", " ").strip()

    def __getstate__(self) -> bytes:
        return self._model

    def __setstate__(self, model: bytes) -> None:
        self.__init__(model)  # type: ignore[misc]


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    folder: str | os.PathLike[str],
    model_type: ModelType = "unigram",
) -> Tokenizer:
    """Train on normalised `texts` and write `tokenizer.model` and `tokens.txt` into `folder`.

    Args:
        texts: transcripts; they are normalised here. Same texts, same files.
        vocab_size: pieces, `<unk>` included; exactly so many are made.
        folder: made when missing.
        model_type: `unigram` (Kudo 2018), `bpe` (Sennrich et al. 2016) or `char`.

    Raises:
        TokenizerError: the text gives fewer pieces, has more characters, or is empty.
    """
    lines = [line for line in map(normalise, texts) if line]
    if not lines:
        raise TokenizerError("no text to train a tokenizer on: every transcript is empty")
    if model_type == "char":
        _check_char_vocabulary(lines, vocab_size)
    tokenizer = Tokenizer(_train(lines, vocab_size, model_type))
    if tokenizer.vocab_size != vocab_size:
        raise TokenizerError(
            f"the text gives {tokenizer.vocab_size} {model_type} pieces, not {vocab_size}; "
            f"set vocab_size to {tokenizer.vocab_size}"
        )
    folder = Path(folder)
    write_atomically(folder / "tokens.txt", "".join(f"{token}\n" for token in tokenizer.tokens))
    # The model goes last: `load` needs it, so a folder that has it is complete.
    write_atomically(folder / "tokenizer.model", tokenizer._model)
    return tokenizer


def _train(lines: Sequence[str], vocab_size: int, model_type: ModelType) -> bytes:
    model = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            # Our own normalisation is the only one, and no rare letter becomes <unk>.
            normalization_rule_name="identity",
            character_coverage=1.0,
            byte_fallback=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 20,
            # A fixed number of threads: the partial sums of EM are added in thread order.
            num_threads=4,
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        raise TokenizerError(_explain(str(error), vocab_size, model_type)) from None
    return model.getvalue()


def _explain(message: str, vocab_size: int, model_type: str) -> str:
    too_high = re.search(r"<=\s*(\d+)", message)
    if too_high:
        return (
            f"the text gives at most {too_high[1]} {model_type} pieces, not {vocab_size}; "
            f"set vocab_size to {too_high[1]} or less"
        )
    too_low = re.search(r"required_chars\D*\d+ vs (\d+)", message)
    if too_low:
        return (
            f"the text needs at least {too_low[1]} {model_type} pieces, one for each character, "
            f"not {vocab_size}"
        )
    return f"SentencePiece cannot make {vocab_size} pieces: {' '.join(message.split())}"


def _check_char_vocabulary(lines: Sequence[str], vocab_size: int) -> None:
    # The word boundary that every line begins with and <unk> are pieces, too.
    pieces = len(set().union(*lines) - {" "}) + 2
    if vocab_size != pieces:
        word = "at most" if vocab_size > pieces else "at least"
        raise TokenizerError(
            f"the text gives {word} {pieces} char pieces, not {vocab_size}; "
            f"set vocab_size to {pieces}"
        )


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise TokenizerLibraryError(
            f"the tokenizer needs sentencepiece: pip install 'voxformer[train]' ({error})"
        ) from None
    return sentencepiece
