"""Language models in the binary format of CMU Sphinx, such as the one in the package pocketsphinx.

A trie (pocketsphinx 5, src/lm): n-grams lie under their last word, then the word before it, each
level as fields of bits, and logarithms to the base 1.0001 as places in tables of 65,536 values.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mixture import BackoffModel, Floats, Integers
from .ngrams import NgramError

MAGIC = b"Trie Language Model"
PACKAGE = "pocketsphinx"
_LOG10 = math.log10(1.0001)
_TABLE = 1 << 16
_VALUE_BITS = 16
_UNIGRAM = np.dtype([("log", "<f4"), ("backoff", "<f4"), ("next", "<u4")])


def packaged_model() -> Path:
    """The American English model of the installed package pocketsphinx: 72,547 words, three in a
    row at most (BSD licence; what texts it was made of is not told).

    Raises:
        NgramError: the package is not installed, or has no such model.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise NgramError(f"{PACKAGE} is not installed: pip install 'voxformer[phones]'")
    path = Path(spec.origin).parent / "model" / "en-us" / "en-us.lm.bin"
    if not path.is_file():
        raise NgramError(f"this {PACKAGE} has no {path}: pip install {PACKAGE}")
    return path


def read_sphinx(path: str | os.PathLike[str]) -> BackoffModel:
    """The n-grams of a binary file.

    Raises:
        NgramError: the file is not of the format, or damaged.
    """
    data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise NgramError("not a binary language model of CMU Sphinx")
    try:
        return _Trie(data).model()
    except (ValueError, IndexError, struct.error) as error:
        raise NgramError(f"damaged or truncated ({error})") from None


class _Trie:
    """Reads the parts of a file in turn."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = len(MAGIC)

    def model(self) -> BackoffModel:
        length = int(self._take(np.dtype("u1"), 1)[0])
        counts = [int(count) for count in self._take(np.dtype("<u4"), length)]
        self.at += 4  # once the kind of quantisation
        tables = [
            (self._table(), self._table() if n < length else None) for n in range(2, length + 1)
        ]
        unigrams = self._take(_UNIGRAM, counts[0] + 1)
        bits = counts[0].bit_length()
        firsts = unigrams["next"].astype(np.int64)
        rows = np.arange(counts[0])[:, None]
        read: list[Integers] = [rows]
        values = [(_log10(unigrams["log"][:-1]), _log10(unigrams["backoff"][:-1]))]
        for n, (probabilities, backoffs) in enumerate(tables, start=2):
            longest = backoffs is None
            widths = [bits, _VALUE_BITS]
            if not longest:
                widths += [_VALUE_BITS, counts[n].bit_length()]
            fields = self._fields(counts[n - 1], widths)
            used = int(firsts[-1])  # the packaged model has a few more, which are of no word
            rows = np.concatenate(
                [fields[0][:used, None], np.repeat(rows, np.diff(firsts), axis=0)], axis=1
            )
            read.append(rows)
            if backoffs is None:
                values.append((_log10(probabilities[fields[1][:used]]), np.zeros(used)))
                continue
            values.append(
                (_log10(probabilities[fields[2][:used]]), _log10(backoffs[fields[1][:used]]))
            )
            # The last pointer, to the end, is not in the packaged model.
            firsts = np.append(fields[3][:used], counts[n])
        size = int(self._take(np.dtype("<i4"), 1)[0])
        words = self.data[self.at : self.at + size].decode("utf-8").split("\0")[:-1]
        return BackoffModel.of_rows(words, read, values)

    def _take(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        found: NDArray[Any] = np.frombuffer(self.data, kind, count, self.at)
        self.at += found.nbytes
        return found

    def _table(self) -> NDArray[np.float32]:
        return self._take(np.dtype("<f4"), _TABLE)

    def _fields(self, count: int, widths: list[int]) -> list[Integers]:
        """The fields of each n-gram, which lie bit after bit."""
        total = sum(widths)
        size = ((1 + count) * total + 7) // 8 + 8
        packed = self._take(np.dtype("u1"), size)
        found = []
        at = np.arange(count, dtype=np.int64) * total
        for width in widths:
            value = np.zeros(count, dtype=np.uint64)
            # A field has at most 25 bits: with those before it in its first byte, 4 bytes.
            for byte in range(4):
                value |= packed[(at >> 3) + byte].astype(np.uint64) << np.uint64(8 * byte)
            value >>= (at & 7).astype(np.uint64)
            found.append((value & np.uint64((1 << width) - 1)).astype(np.int64))
            at += width
        return found


def _log10(values: NDArray[np.float32]) -> Floats:
    return values.astype(np.float64) * _LOG10
