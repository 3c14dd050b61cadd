"""Two n-gram language models as one, and models made smaller.

A model of few texts knows the style that it is for; one of many texts knows the language. Their
linear interpolation is written as one back-off model again (Stolcke 2002, section 3.3, SRILM's
`-mix-lm`), so that the search needs to know nothing of it. It has more n-grams than either, most of
which change little: those go by how much worse the model gets without each (A. Stolcke,
"Entropy-based pruning of backoff language models", 1998).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .ngrams import BEGIN, DECIMALS, END, NEVER, NgramError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass
class Order:
    """The n-grams of one length, sorted by context and then word.

    Attributes:
        context: [ngrams], which n-gram of the next shorter length the words but the last are.
        word: [ngrams], the last word.
        log10: [ngrams], of the probability of the last word after the others.
        backoff: [ngrams], log10 of the factor for words that were not seen after this n-gram.
    """

    context: Integers
    word: Integers
    log10: Floats
    backoff: Floats


class BackoffModel:
    """An n-gram model in arrays.

    Every n-gram's words but the last are an n-gram of the model, too.

    Args:
        words: the vocabulary; the index of a word is its number.
        orders: by length, from 1. The unigrams are the words in turn.
    """

    def __init__(self, words: Sequence[str], orders: list[Order]) -> None:
        self.words = list(words)
        self.orders = orders

    @classmethod
    def read_arpa(cls, lines: Iterable[str]) -> BackoffModel:
        """From the lines of an ARPA file.

        Raises:
            NgramError: a line is not of the format, names an unknown word, or an n-gram's beginning
                is not in the model.
        """
        read: list[tuple[list[str], list[float], list[float]]] = []
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith("\\") and line.endswith("-grams:"):
                read.append(([], [], []))
            elif read and line and not line.startswith("\\"):
                fields = line.split("\t") if "\t" in line else _fields(line, len(read))
                try:
                    ngrams, logs, backoffs = read[-1]
                    logs.append(float(fields[0]))
                    ngrams.append(fields[1])
                    backoffs.append(float(fields[2]) if len(fields) > 2 else 0.0)
                except (IndexError, ValueError):
                    raise NgramError(f"line {number}: {line!r} is not of an ARPA file") from None
        if not read:
            raise NgramError("this is not an ARPA file: it has no n-grams")
        words = read[0][0]
        number_of = {word: number for number, word in enumerate(words)}
        rows = []
        for n, (ngrams, _, _) in enumerate(read, start=1):
            try:
                flat = [number_of[word] for ngram in ngrams for word in ngram.split(" ")]
                rows.append(np.asarray(flat, dtype=np.int64).reshape(len(ngrams), n))
            except (KeyError, ValueError) as error:
                raise NgramError(
                    f"{n}-grams with an unknown word or another length: {error}"
                ) from None
        values = [(np.asarray(logs), np.asarray(backoffs)) for _, logs, backoffs in read]
        return cls.of_rows(words, rows, values)

    @classmethod
    def of_rows(
        cls,
        words: Sequence[str],
        rows: Sequence[Integers],
        values: Sequence[tuple[Floats, Floats]],
    ) -> BackoffModel:
        """From n-grams in any order.

        Args:
            words: the vocabulary.
            rows: for each length n [ngrams, n], the words' numbers.
            values: for each length the logarithms of probabilities and back-off factors.

        Raises:
            NgramError: the unigrams are not the vocabulary, an n-gram is there twice, or its
                beginning is not in the model.
        """
        model = cls(words, [])
        for ngrams, (log10, backoff) in zip(rows, values, strict=True):
            before = np.zeros(len(ngrams), dtype=np.int64)
            if ngrams.shape[1] > 1:
                before = model.find(ngrams[:, :-1])
                if (before < 0).any():
                    lost = " ".join(words[i] for i in ngrams[int(np.argmin(before))])
                    raise NgramError(f"the beginning of {lost!r} is not in the model")
            by = np.argsort(before * len(words) + ngrams[:, -1], kind="stable")
            model.orders.append(Order(before[by], ngrams[by, -1], log10[by], backoff[by]))
            if (np.diff(model._keys(len(model.orders))) <= 0).any():
                raise NgramError(f"a {ngrams.shape[1]}-gram is there twice")
        if not np.array_equal(model.orders[0].word, np.arange(len(words))):
            raise NgramError("the unigrams are not the vocabulary")
        return model

    def _keys(self, n: int) -> Integers:
        order = self.orders[n - 1]
        return order.context * len(self.words) + order.word

    def find(self, rows: Integers) -> Integers:
        """Which n-gram each of [ngrams, n] is among those of its length; -1 for none."""
        found = rows[:, 0].copy()
        for n in range(2, rows.shape[1] + 1):
            if n > len(self.orders):
                return np.full(len(rows), -1, dtype=np.int64)
            keys = self._keys(n)
            if not len(keys):
                return np.full(len(rows), -1, dtype=np.int64)
            # Of a word that is not there, -1, the key may be that of another n-gram.
            there = (found >= 0) & (rows[:, n - 1] >= 0)
            key = found * len(self.words) + rows[:, n - 1]
            place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            found = np.where(there & (keys[place] == key), place, -1)
        return found

    def rows(self, n: int) -> Integers:
        """[ngrams, n]: the words' numbers of the n-grams of this length."""
        order = self.orders[n - 1]
        if n == 1:
            return order.word[:, None]
        return np.concatenate([self.rows(n - 1)[order.context], order.word[:, None]], axis=1)

    def log10(self, rows: Integers) -> Floats:
        """Of the last word's probability after the others, for each of [ngrams, n].

        With back-off where an n-gram is not in the model; -inf where the word, -1, is not.
        """
        found = self.find(rows)
        result = np.full(len(rows), -np.inf)
        n = rows.shape[1]
        there = found >= 0
        if there.any():
            result[there] = self.orders[n - 1].log10[found[there]]
        if n > 1 and not there.all():
            missing = rows[~there]
            result[~there] = self._backoff(missing[:, :-1]) + self.log10(missing[:, 1:])
        return result

    def _backoff(self, rows: Integers) -> Floats:
        found = self.find(rows)
        there = found >= 0
        result = np.zeros(len(rows))
        if there.any():
            result[there] = self.orders[rows.shape[1] - 1].backoff[found[there]]
        return result

    def normalise(self) -> None:
        """Give every n-gram the back-off factor with which the words after it add up to 1."""
        begin = self.words.index(BEGIN) if BEGIN in self.words else -1
        unigrams = self.orders[0]
        spoken = unigrams.word != begin
        unigrams.log10[spoken] -= math.log10(float((10.0 ** unigrams.log10[spoken]).sum()))
        for n in range(1, len(self.orders)):
            shorter, longer = self.orders[n - 1], self.orders[n]
            seen = _sums(longer.context, 10.0**longer.log10, len(shorter.word))
            rows = self.rows(n + 1)[:, 1:]
            instead = _sums(longer.context, 10.0 ** self.log10(rows), len(shorter.word))
            with np.errstate(divide="ignore"):
                factor = np.log10(np.maximum(1.0 - seen, 0.0)) - np.log10(
                    np.maximum(1.0 - instead, 1e-12)
                )
            shorter.backoff = np.where(seen > 0.0, np.maximum(factor, NEVER), 0.0)

    def prune(self, threshold: float) -> None:
        """Leave out n-grams without each of which the perplexity grows by less than `threshold`
        times (SRILM's `-prune`), but none that others begin with.

        Stolcke 1998, equation 5; how often a context occurs is told by the model itself.

        Raises:
            NgramError: the threshold is below 0.
        """
        if not threshold >= 0.0:
            raise NgramError(f"the threshold of pruning is {threshold}; it must be at least 0")
        for n in range(len(self.orders), 1, -1):
            order, longer = self.orders[n - 1], self.orders[n:]
            kept = np.expm1(math.log(10.0) * self._divergence(n)) >= threshold
            if longer:
                kept[longer[0].context] = True
                longer[0].context = (np.cumsum(kept) - 1)[longer[0].context]
            self.orders[n - 1] = Order(
                order.context[kept], order.word[kept], order.log10[kept], order.backoff[kept]
            )
        self.normalise()

    def _divergence(self, n: int) -> Floats:
        """log10 terms of the relative entropy between the model and that without each n-gram."""
        order, shorter = self.orders[n - 1], self.orders[n - 2]
        contexts = len(shorter.word)
        rows = self.rows(n)
        here = 10.0**order.log10
        lower = self.log10(rows[:, 1:])
        left = 1.0 - _sums(order.context, here, contexts)
        left_lower = 1.0 - _sums(order.context, 10.0**lower, contexts)
        at = order.context
        with np.errstate(divide="ignore", invalid="ignore"):
            after = np.log10(left[at] + here) - np.log10(left_lower[at] + 10.0**lower)
            before = np.log10(left[at]) - np.log10(left_lower[at])
            change = here * (lower + after - order.log10) + left[at] * (after - before)
        often = 10.0 ** self._joint(n - 1)[at]
        # Where nothing is left for other words, the back-off factor says nothing: kept.
        return np.where(np.isfinite(change), -often * change, np.inf)

    def _joint(self, n: int) -> Floats:
        """log10 of how probable each n-gram is as such; `<s>` is as frequent as `</s>`."""
        order = self.orders[n - 1]
        if n > 1:
            return self._joint(n - 1)[order.context] + order.log10
        joint = order.log10.copy()
        if BEGIN in self.words and END in self.words:
            joint[self.words.index(BEGIN)] = joint[self.words.index(END)]
        return joint

    def arpa(self, decimals: int = DECIMALS) -> Iterator[str]:
        """The lines of an ARPA file, n-grams in the order of the words' numbers."""
        yield "\\data\\\n"
        for n, order in enumerate(self.orders, start=1):
            yield f"ngram {n}={len(order.word)}\n"
        shorter = [""]
        for n, order in enumerate(self.orders, start=1):
            yield f"\n\\{n}-grams:\n"
            words = [self.words[i] for i in order.word.tolist()]
            if n > 1:
                before = [shorter[i] for i in order.context.tolist()]
                words = [f"{context} {word}" for context, word in zip(before, words, strict=True)]
            logs = _decimals(order.log10, decimals)
            if n == len(self.orders):
                yield from (f"{log}\t{ngram}\n" for log, ngram in zip(logs, words, strict=True))
            else:
                backoffs = _decimals(order.backoff, decimals)
                for log, ngram, backoff in zip(logs, words, backoffs, strict=True):
                    yield f"{log}\t{ngram}\t{backoff}\n"
            shorter = words
        yield "\n\\end\\\n"


def mix(first: BackoffModel, second: BackoffModel, weight: float) -> BackoffModel:
    """The linear interpolation of two models, with the words and the order of the first.

    Args:
        first: n-grams longer than those of the other are as good as alone.
        second: what it has of other words is left out.
        weight: of the second, from 0 to 1.

    Raises:
        NgramError: the weight is out of range.
    """
    if not 0.0 <= weight <= 1.0:
        raise NgramError(f"the weight of the mixture is {weight}; it must be from 0 to 1")
    number_in = {word: number for number, word in enumerate(second.words)}
    to_second = np.asarray([number_in.get(word, -1) for word in first.words], dtype=np.int64)
    to_first = np.full(len(second.words), -1, dtype=np.int64)
    to_first[to_second[to_second >= 0]] = np.flatnonzero(to_second >= 0)
    rows: list[Integers] = []
    values: list[tuple[Floats, Floats]] = []
    for n in range(1, len(first.orders) + 1):
        ngrams = first.rows(n)
        if 1 < n <= len(second.orders):
            others = to_first[second.rows(n)]
            others = others[(others >= 0).all(axis=1)]
            ngrams = np.concatenate([ngrams, others[first.find(others) < 0]])
        with np.errstate(divide="ignore"):
            probability = (1.0 - weight) * 10.0 ** first.log10(ngrams)
            probability += weight * 10.0 ** second.log10(to_second[ngrams])
            rows.append(ngrams)
            values.append((np.log10(probability), np.zeros(len(ngrams))))
    mixed = BackoffModel.of_rows(first.words, rows, values)
    mixed.normalise()
    return mixed


def _sums(context: Integers, values: Floats, contexts: int) -> Floats:
    return np.asarray(np.bincount(context, values, contexts), dtype=np.float64)


def _decimals(values: Floats, decimals: int) -> list[str]:
    rounded = np.round(np.maximum(values, NEVER), decimals) + 0.0  # not -0
    different, place = np.unique(rounded, return_inverse=True)
    written = [f"{value:.9g}" for value in different.tolist()]
    return [written[i] for i in place.tolist()]


def _fields(line: str, n: int) -> list[str]:
    """Of an ARPA line that is parted by spaces alone."""
    parts = line.split()
    return [parts[0], " ".join(parts[1 : n + 1]), *parts[n + 1 :]]
