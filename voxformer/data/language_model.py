"""An ARPA file from text files and manifests."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from voxformer.data.manifest import DataError, read_manifest
from voxformer.decoding import NgramLanguageModel
from voxformer.text import Tokenizer, normalise
from voxformer.text.atomic import write_atomically
from voxformer.text.ngrams import train_ngrams


def write_language_model(
    out: str | os.PathLike[str],
    texts: Sequence[str],
    manifests: Sequence[str],
    order: int,
    tokenizer: str | None = None,
    prune: int = 0,
) -> str:
    """Train an n-gram model and write it; returns a line that says what it is made from.

    The texts are normalised as those of training are, so that the model's words are the
    recogniser's.

    Args:
        out: the ARPA file; compressed if its name ends with `.gz`.
        texts: UTF-8 files with a sentence a line.
        manifests: JSONL manifests, whose texts are taken.
        order: words of the longest n-grams.
        tokenizer: folder of a tokenizer whose pieces stand for the words; None for words.
        prune: see `train_ngrams`.

    Raises:
        DataError: a file is missing or not text, or none was named.
        NgramError: there are no words in them.
    """
    if not texts and not manifests:
        raise DataError("name a text with --text, or a manifest with --manifest")
    units = _units(_lines(texts, manifests), tokenizer)
    content = "".join(train_ngrams(units, order, prune)).encode("utf-8")
    if Path(out).suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # the same bytes from the same text
    write_atomically(out, content)
    count = sum(len(unit.split()) for unit in units)
    what = "words" if tokenizer is None else "pieces"
    return f"{os.fspath(out)}: {order}-grams from {count} {what} in {len(units)} sentences"


def tell_perplexity(
    model: str | os.PathLike[str], manifest: str, tokenizer: str | None = None
) -> str:
    """A line on how well a model foresees a manifest's texts, its end marks counted as words.

    Args:
        model: the ARPA file.
        manifest: JSONL.
        tokenizer: as for `write_language_model`.

    Raises:
        DataError: the manifest cannot be used, or has no words.
    """
    ngrams = NgramLanguageModel.load(model, cache=False)
    scores = [
        s for unit in _units(_lines([], [manifest]), tokenizer) for s in ngrams.full_scores(unit)
    ]
    if not scores:
        raise DataError(f"{manifest}: no words to test the model on")
    perplexity = math.exp(-sum(score.log_prob for score in scores) / len(scores))
    unknown = sum(score.oov for score in scores) / len(scores)
    return f"{manifest}: perplexity {perplexity:.1f}, {unknown:.2%} of {len(scores)} unknown"


def _units(lines: Iterable[str], tokenizer: str | None) -> list[str]:
    """Normalised sentences, or their pieces, parted by spaces; without empty ones."""
    sentences = [sentence for line in lines if (sentence := normalise(line))]
    if tokenizer is None:
        return sentences
    pieces = Tokenizer.load(tokenizer)
    return [" ".join(pieces.tokens[i] for i in pieces.encode(s)) for s in sentences]


def _lines(texts: Sequence[str], manifests: Sequence[str]) -> Iterator[str]:
    for name in texts:
        try:
            yield from Path(name).read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise DataError(f"{name}: no such text") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 text: {error.reason}") from None
    for name in manifests:
        yield from (utterance.text for utterance in read_manifest(name))
