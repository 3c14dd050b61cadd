"""n-gram models in a file a third as large as a compressed ARPA file.

Words are numbered from the most frequent one on. Of each length of n-grams come how many follow
each shorter one, the last words as differences of their numbers, and probabilities and back-off
factors in steps of `STEP`. Each of these is a column of its own, split into its bytes, low ones
first, and all of it compressed by LZMA.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mixture import BackoffModel, Floats, Integers, Order
from .ngrams import NEVER, NgramError

MAGIC = b"VoxFormer n-grams 1\n"
PACKED_SUFFIX = ".ngrams"
STEP = 0.05
"""Of logarithms to base 10: a probability is right to 6 %."""
_BYTES = 4


def pack(model: BackoffModel) -> bytes:
    """The bytes of a file."""
    import lzma  # Pythons may be built without it, and search with other kinds of files

    by = sorted(range(len(model.words)), key=lambda i: (-model.orders[0].log10[i], model.words[i]))
    number = np.empty(len(by), dtype=np.int64)
    number[by] = np.arange(len(by))
    lengths = range(1, len(model.orders) + 1)
    rows = [number[model.rows(n)] for n in lengths]
    values = [(order.log10, order.backoff) for order in model.orders]
    ranked = BackoffModel.of_rows([model.words[i] for i in by], rows, values)
    header = {"step": STEP, "ngrams": [len(order.word) for order in ranked.orders]}
    parts = [json.dumps(header).encode(), "\n".join(ranked.words).encode()]
    for n, order in enumerate(ranked.orders, start=1):
        if n > 1:
            after = np.bincount(order.context, minlength=len(ranked.orders[n - 2].word))
            parts += [_column(after), _column(_differences(order))]
        parts.append(_column(np.rint(-np.maximum(order.log10, NEVER) / STEP).astype(np.int64)))
        if n < len(ranked.orders):
            steps = np.rint(np.maximum(order.backoff, NEVER) / STEP).astype(np.int64)
            parts.append(_column(np.where(steps < 0, -2 * steps - 1, 2 * steps)))
    framed = b"".join(len(part).to_bytes(_BYTES, "little") + part for part in parts)
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "lc": 1, "lp": 0, "pb": 0}]
    return MAGIC + lzma.compress(framed, lzma.FORMAT_XZ, filters=filters)


def unpack(data: bytes) -> BackoffModel:
    """The model of a file's bytes.

    Raises:
        NgramError: they are not of such a file, damaged or truncated.
    """
    import lzma

    if not data.startswith(MAGIC):
        raise NgramError("not packed n-grams, or of a later version")
    try:
        parts = _parts(lzma.decompress(data[len(MAGIC) :], lzma.FORMAT_XZ))
        header = json.loads(next(parts))
        words = next(parts).decode("utf-8").split("\n")
        model = BackoffModel(words, [])
        for n, count in enumerate(header["ngrams"], start=1):
            model.orders.append(_order(parts, model, n, count, header))
    except (lzma.LZMAError, StopIteration, LookupError, TypeError, ValueError) as error:
        raise NgramError(f"damaged or truncated n-grams ({error or 'too short'})") from None
    return model


def _order(
    parts: Iterator[bytes], model: BackoffModel, n: int, count: int, header: dict[str, Any]
) -> Order:
    # Sizes are compared with what is there before anything is made of them.
    if n == 1:
        if count != len(model.words):
            raise ValueError("another number of words")
        context, word = np.zeros(count, dtype=np.int64), np.arange(count)
    else:
        after = _integers(next(parts), len(model.orders[-1].word))
        differences = _integers(next(parts), count)
        if after.sum() != count:
            raise ValueError(f"another number of {n}-grams")
        context = np.repeat(np.arange(len(after)), after)
        word = _sums(differences, context, after)
    log10 = -_integers(next(parts), count) * header["step"]
    backoff: Floats = np.zeros(count)
    if n < len(header["ngrams"]):
        folded = _integers(next(parts), count)
        backoff = np.where(folded % 2, -(folded + 1) // 2, folded // 2) * header["step"]
    if word.max(initial=0) >= len(model.words):
        raise ValueError("a word without a name")
    return Order(context, word, np.asarray(log10), np.asarray(backoff))


def _differences(order: Order) -> Integers:
    """From the word before with the same context; of the first, its number."""
    found = np.diff(order.word, prepend=0)
    first = np.diff(order.context, prepend=-1) != 0
    return np.where(first, order.word, found)


def _sums(differences: Integers, context: Integers, after: Integers) -> Integers:
    """The inverse of `_differences`."""
    total = np.cumsum(differences)
    starts = np.cumsum(after) - after
    before = np.concatenate([[0], total])[starts]
    result: Integers = total - before[context]
    return result


def _column(values: Integers) -> bytes:
    return values.astype("<u4").view(np.uint8).reshape(-1, _BYTES).T.tobytes()


def _integers(data: bytes, count: int) -> Integers:
    planes: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(_BYTES, count)
    return np.ascontiguousarray(planes.T).view("<u4").reshape(count).astype(np.int64)


def _parts(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _BYTES], "little")
        at += _BYTES
        yield data[at : at + size]
        at += size
