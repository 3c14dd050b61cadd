"""N-gram language models over words: read from ARPA files, kept as files that are mapped."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .. import _core
from ..text import packed
from ..text.atomic import write_atomically
from ..text.ngrams import NgramError

SUFFIX = ".voxlm"
_MAGIC = b"VOXLM"
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_LINES = 1 << 16


class WordScore(NamedTuple):
    """What the model says of one word."""

    log_prob: float
    """ln p of the word given those before it."""

    ngram_length: int
    """Words of the longest n-gram that was found, this one included."""

    oov: bool
    """Whether the model does not have the word, so that it was scored as `<unk>`."""


class NgramLanguageModel:
    """A back-off n-gram model (Katz 1987), with the scores of KenLM (Heafield 2011).

    Made by `load`. It is never changed and may be used from several threads and by several
    decoders.
    """

    def __init__(self, core: _core.NgramModel) -> None:
        self._core = core

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], cache: bool | str | os.PathLike[str] = True
    ) -> NgramLanguageModel:
        """The model of an ARPA file, of one that gzip has compressed, of packed n-grams, or of a
        `.voxlm` file.

        Reading the other kinds takes time, so what comes of it is written to a `.voxlm` file,
        which later calls map into memory: at once, and shared by all processes that use the model.
        It is made again when size or time of change of the other file differ from those that it was
        made from. It must not be changed in place while it is used; replacing it is safe. It cannot
        be read on machines of the other byte order.

        Args:
            path: what kind of file it is, is seen from its first bytes.
            cache: where the `.voxlm` file is kept. True: beside the other file, as
                `<its name>.voxlm`; if it cannot be written there, a warning is given. A folder, or
                a path that ends with `.voxlm`: there, and failing to write it is an error. False:
                nowhere.

        Raises:
            ValueError: the file is not a model, contradicts itself, is damaged or is cut short; the
                message names the file and, in an ARPA file, the line. Or `cache` is no folder and
                does not end with `.voxlm`.
            OSError: the file cannot be read, or the one that `cache` names not written.
        """
        source = Path(path)
        with open(source, "rb") as file:
            start = file.peek(len(packed.MAGIC))
            if start.startswith(_MAGIC) or source.suffix == SUFFIX:
                return cls(_core.NgramModel.map(file.fileno(), os.fsencode(source)))
            # Before the file is read: if it is changed meanwhile, the next call will see it.
            status = os.fstat(file.fileno())
            identity = (status.st_size, status.st_mtime_ns)
            place = _cache_place(source, cache)
            if place is not None and (cached := _map_cached(place, identity)) is not None:
                return cls(cached)
            if start.startswith(packed.MAGIC):
                core = _read_packed(file, source, identity)
            else:
                core = _read_arpa(file, source, identity, start.startswith(_GZIP_MAGIC))
        if place is not None:
            try:
                write_atomically(place, memoryview(core))
            except OSError as error:
                if cache is not True:
                    raise
                warnings.warn(
                    f"{place}: not written ({error.strerror}), so {source} will be read again next "
                    f"time; give a folder for it with cache=, or cache=False",
                    RuntimeWarning,
                    stacklevel=2,
                )
            else:
                core = _map_cached(place, identity) or core
        return cls(core)

    @property
    def order(self) -> int:
        """Words of the longest n-grams."""
        return self._core.order

    @property
    def num_ngrams(self) -> tuple[int, ...]:
        """The n-grams of the ARPA file, by their number of words from 1 to `order`."""
        return self._core.num_ngrams

    def __contains__(self, word: str) -> bool:
        return self._core.find(_encode(word)) != 0

    def __repr__(self) -> str:
        return f"NgramLanguageModel(order={self.order}, num_ngrams={self.num_ngrams})"

    def score(self, words: Sequence[str] | str, bos: bool = True, eos: bool = True) -> float:
        """ln p of a sentence, the sum over what `full_scores` returns.

        Args:
            words: the words, or a text that is split at white space.
            bos: begin after `<s>`; otherwise without any context.
            eos: count `</s>` after the last word.
        """
        return sum(score.log_prob for score in self.full_scores(words, bos, eos))

    def full_scores(
        self, words: Sequence[str] | str, bos: bool = True, eos: bool = True
    ) -> list[WordScore]:
        """ln p, n-gram length and membership of each word, and of `</s>` if `eos`.

        Args:
            words, bos, eos: as for `score`.
        """
        if isinstance(words, str):
            words = words.split()
        scores = self._core.score_words([_encode(word) for word in words], bos, eos)
        return [WordScore(*score) for score in scores]

    def to_core(self) -> _core.NgramModel:
        """The extension's counterpart."""
        return self._core


def _encode(word: str) -> bytes:
    # No model has a word with a lone surrogate, but asking for one is no error.
    return word.encode("utf-8", "surrogatepass")


def _cache_place(source: Path, cache: bool | str | os.PathLike[str]) -> Path | None:
    if cache is False:
        return None
    if cache is True:
        return source.with_name(source.name + SUFFIX)
    place = Path(cache)
    if place.is_dir():
        return place / (source.name + SUFFIX)
    if place.suffix != SUFFIX:
        raise ValueError(f"cache is {str(place)!r}; it must be a folder or end with {SUFFIX}")
    return place


def _map_cached(place: Path, identity: tuple[int, int]) -> _core.NgramModel | None:
    """The model in `place`, if it is sound and that of the file with this size and time."""
    try:
        with open(place, "rb") as file:
            model = _core.NgramModel.map(file.fileno(), os.fsencode(place))
    except (OSError, ValueError):
        return None
    return model if model.source == identity else None


def _read_arpa(
    file: io.BufferedReader, source: Path, identity: tuple[int, int], compressed: bool
) -> _core.NgramModel:
    builder = _core.NgramBuilder(os.fsencode(source))
    stream: gzip.GzipFile | io.BufferedReader = gzip.GzipFile(fileobj=file) if compressed else file
    try:
        while chunk := stream.read(_CHUNK):
            builder.feed(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source}: damaged or truncated gzip data ({error})") from error
    return builder.finish(*identity)


def _read_packed(
    file: io.BufferedReader, source: Path, identity: tuple[int, int]
) -> _core.NgramModel:
    builder = _core.NgramBuilder(os.fsencode(source))
    try:
        lines = packed.unpack(file.read()).arpa()
        while part := list(itertools.islice(lines, _LINES)):
            builder.feed("".join(part).encode("utf-8"))
    except NgramError as error:
        raise ValueError(f"{source}: {error}") from error
    return builder.finish(*identity)
