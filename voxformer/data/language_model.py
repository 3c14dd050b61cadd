"""An ARPA file and a lexicon from text files, manifests and lists of words."""

from __future__ import annotations

import gzip
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from voxformer.data.manifest import DataError, read_manifest
from voxformer.decoding import Lexicon, NgramLanguageModel
from voxformer.decoding.language_model import WordScore
from voxformer.text import Tokenizer, normalise
from voxformer.text.atomic import write_atomically
from voxformer.text.compressed import read_text
from voxformer.text.mixture import BackoffModel, mix
from voxformer.text.ngrams import NgramError, train_ngrams
from voxformer.text.packed import MAGIC, PACKED_SUFFIX, pack, unpack
from voxformer.text.pronunciation import pronouncer
from voxformer.text.sphinx import MAGIC as SPHINX_MAGIC
from voxformer.text.sphinx import PACKAGE, packaged_model, read_sphinx


def write_language_model(
    out: str | os.PathLike[str],
    texts: Sequence[str],
    manifests: Sequence[str],
    order: int,
    tokenizer: str | None = None,
    prune: int = 0,
    words: str | os.PathLike[str] | None = None,
    mixture: tuple[str, float] | None = None,
    threshold: float = 0.0,
) -> str:
    """Train an n-gram model and write it; returns a line that says what it is made from.

    The texts are normalised as those of training are, so that the model's words are the
    recogniser's.

    Args:
        out: the ARPA file, compressed if its name ends with `.gz`; packed n-grams if with
            `.ngrams`.
        texts: UTF-8 files with a sentence a line.
        manifests: JSONL manifests, whose texts are taken.
        order: words of the longest n-grams.
        tokenizer: folder of a tokenizer whose pieces stand for the words; None for words.
        prune: see `train_ngrams`.
        words: a list of words with their frequencies, see `read_word_list`; they are in the model
            as well. None for none.
        mixture: another model to be mixed in, see `read_model`, and its weight from 0 to 1; what
            it has of words that the texts and the list lack is left out.
        threshold: n-grams go without each of which perplexity grows by less than so many times,
            see `BackoffModel.prune`.

    Raises:
        DataError: a file is missing or not text, none was named, or there is a list of words or
            another model and a tokenizer.
        NgramError: there are no words in them, the other model is none, or its weight or the
            threshold are out of range.
    """
    if not texts and not manifests:
        raise DataError("name a text with --text, or a manifest with --manifest")
    if words is not None and tokenizer is not None:
        raise DataError(f"{words}: a list of words is of no use to a model over pieces")
    if mixture is not None and tokenizer is not None:
        raise DataError(f"{mixture[0]}: a model of words cannot be mixed with one over pieces")
    # Before the work of counting.
    other = None if mixture is None else read_model(mixture[0])
    units = _units(_lines(texts, manifests), tokenizer)
    frequencies = None if words is None else read_word_list(words)
    packed = Path(out).suffix == PACKED_SUFFIX
    if other is None and not threshold and not packed:
        _write(out, "".join(train_ngrams(units, order, prune, frequencies=frequencies)))
    else:
        exact = train_ngrams(units, order, prune, decimals=9, frequencies=frequencies)
        model = BackoffModel.read_arpa(exact)
        if mixture is not None and other is not None:
            model = mix(model, other, mixture[1])
        if threshold:
            model.prune(threshold)
        if packed:
            write_atomically(out, pack(model))
        else:
            _write(out, "".join(model.arpa()))
    count = sum(len(unit.split()) for unit in units)
    what = "words" if tokenizer is None else "pieces"
    listed = "" if frequencies is None else f", and {len(frequencies)} listed words"
    mixed = "" if mixture is None else f", mixed with {mixture[0]} ({mixture[1]:g})"
    return (
        f"{os.fspath(out)}: {order}-grams from {count} {what} in {len(units)} sentences"
        f"{listed}{mixed}"
    )


def read_model(name: str | os.PathLike[str]) -> BackoffModel:
    """An n-gram model: an ARPA file, compressed or not, packed n-grams, or one of CMU Sphinx.

    Args:
        name: of the file, or `pocketsphinx` for the one in that package.

    Raises:
        DataError: it is missing or not text.
        NgramError: it is not a model, or damaged.
    """
    path = packaged_model() if name == PACKAGE else Path(name)
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
        if start == MAGIC:
            return unpack(path.read_bytes())
        if start.startswith(SPHINX_MAGIC):
            return read_sphinx(path)
        return BackoffModel.read_arpa(read_text(path).splitlines())
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: {error.strerror}") from None
    except NgramError as error:
        raise NgramError(f"{os.fspath(path)}: {error}") from None
    except ValueError as error:
        raise DataError(str(error)) from None


def write_lexicon(
    out: str | os.PathLike[str],
    voice: str,
    texts: Sequence[str],
    manifests: Sequence[str],
    words: str | os.PathLike[str] | None = None,
) -> str:
    """Pronounce the words of texts and write a lexicon; returns a line that says what it has.

    Of words that sound alike the more frequent ones come first, since a search without a language
    model takes those, and the listed ones after those of the texts. Otherwise the order is that of
    the alphabet, which compresses best.

    Args:
        out: lines `word<TAB>pronunciation`; compressed if its name ends with `.gz`.
        voice: of eSpeak NG, see `Pronouncer`.
        texts, manifests, words: as for `write_language_model`.

    Raises:
        DataError: a file is missing or not text, or there are no words.
        EspeakError: eSpeak NG is not installed or has no such voice.
    """
    pronounce = pronouncer(voice)
    counts = Counter(
        word for unit in _units(_lines(texts, manifests), None) for word in unit.split()
    )
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    if words is not None:
        listed = read_word_list(words)
        ordered += sorted(listed.keys() - counts.keys(), key=lambda word: (-listed[word], word))
    if not ordered:
        raise DataError("no words: name a text with --text, or a manifest with --manifest")
    alike: dict[str, list[str]] = {}
    for word in ordered:
        alike.setdefault(pronounce.word(word), []).append(word)
    sounds = sorted(alike, key=lambda sound: alike[sound][0])
    lexicon = Lexicon((word, sound) for sound in sounds for word in alike[sound])
    _write(out, lexicon.dump())
    return f"{os.fspath(out)}: {len(ordered)} words with {len(sounds)} pronunciations ({voice})"


def write_word_list(out: str | os.PathLike[str], language: str, count: int) -> None:
    """The most frequent words of a language by the package wordfreq (R. Speer 2022), for
    `read_word_list`.

    Args:
        out: lines `word<TAB>frequency`, with occurrences in a thousand million words.
        language: as wordfreq has it, such as `en`.
        count: words at most, after normalisation; those with digits are left out.

    Raises:
        DataError: wordfreq is not installed, or has no such language.
    """
    try:
        from wordfreq import available_languages, get_frequency_dict
    except ImportError as error:
        raise DataError(
            f"the most frequent words need wordfreq: pip install 'voxformer[phones]' ({error})"
        ) from None
    if language not in available_languages("best"):  # it would take the nearest
        raise DataError(f"wordfreq has no words of the language {language!r}")
    found: dict[str, float] = {}
    for word, frequency in get_frequency_dict(language, "best").items():
        if word == normalise(word) and not any(map(str.isdigit, word)) and " " not in word:
            found[word] = frequency
    first = sorted(found, key=lambda word: (-found[word], word))[:count]
    write_atomically(out, "".join(f"{word}\t{found[word] * 1e9:.6g}\n" for word in first))


def read_word_list(path: str | os.PathLike[str]) -> dict[str, float]:
    """Words and how frequent they are, from lines `word<TAB>frequency`, in any unit.

    Without a tab a word counts 1. Words are normalised, and those that come to the same are added.

    Raises:
        DataError: the file is missing or not text, or a line is something else.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(_text_of(os.fspath(path)).splitlines(), start=1):
        if not line.strip():
            continue
        word, tab, given = line.partition("\t")
        try:
            frequency = float(given) if tab else 1.0
        except ValueError:
            frequency = math.nan
        word = normalise(word)
        if not word or " " in word or not 1e-30 <= frequency <= 1e30:
            raise DataError(
                f"{path}:{number}: {line!r} is not one word, or word<TAB>frequency above 0"
            )
        found[word] = found.get(word, 0.0) + frequency
    if not found:
        raise DataError(f"{path}: no words")
    return found


def scores_of(
    ngrams: NgramLanguageModel, manifest: str, tokenizer: str | None = None
) -> list[WordScore]:
    """What a model says of each word of a manifest's texts, and of each end.

    Args:
        ngrams: the model.
        manifest: JSONL.
        tokenizer: as for `write_language_model`.

    Raises:
        DataError: the manifest cannot be used, or has no words.
    """
    units = _units(_lines([], [manifest]), tokenizer)
    scores = [score for unit in units for score in ngrams.full_scores(unit)]
    if not scores:
        raise DataError(f"{manifest}: no words to test the model on")
    return scores


def perplexity_of(scores: Sequence[WordScore]) -> tuple[float, float]:
    """The perplexity, and the share of unknown words."""
    total = sum(score.log_prob for score in scores)
    return math.exp(-total / len(scores)), sum(score.oov for score in scores) / len(scores)


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
    scores = scores_of(ngrams, manifest, tokenizer)
    perplexity, unknown = perplexity_of(scores)
    return f"{manifest}: perplexity {perplexity:.1f}, {unknown:.2%} of {len(scores)} unknown"


def _write(out: str | os.PathLike[str], text: str) -> None:
    content = text.encode("utf-8")
    if Path(out).suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # the same bytes from the same text
    write_atomically(out, content)


def _units(lines: Iterable[str], tokenizer: str | None) -> list[str]:
    """Normalised sentences, or their pieces, parted by spaces; without empty ones."""
    sentences = [sentence for line in lines if (sentence := normalise(line))]
    if tokenizer is None:
        return sentences
    pieces = Tokenizer.load(tokenizer)
    return [" ".join(pieces.tokens[i] for i in pieces.encode(s)) for s in sentences]


def _lines(texts: Sequence[str], manifests: Sequence[str]) -> Iterator[str]:
    for name in texts:
        yield from _text_of(name).splitlines()
    for name in manifests:
        yield from (utterance.text for utterance in read_manifest(name))


def _text_of(name: str) -> str:
    try:
        return read_text(name)
    except FileNotFoundError:
        raise DataError(f"{name}: no such text") from None
    except ValueError as error:
        raise DataError(str(error)) from None
