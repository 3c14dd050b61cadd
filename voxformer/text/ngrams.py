"""n-gram language models from text, for the decoder's search: interpolated modified Kneser-Ney.

S. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling" (1998),
with the choices of KenLM's lmplz (Heafield et al. 2013): unigrams are interpolated with the uniform
distribution, from which `<unk>` has its probability, and n-grams that begin with `<s>` keep their
counts, since nothing precedes them. A list of words with how frequent they are elsewhere may stand
in for the uniform distribution: then its words are in the model, seen in the text or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

Ngram = tuple[str, ...]

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MAX_ORDER = 6
NEVER = -99.0
"""What an ARPA file has in place of the logarithm of zero."""
DECIMALS = 2
"""Of the logarithms: a probability is right to 1.2 %. What more of them would tell is little beside
what a text of this size leaves open, and a quarter or more of a compressed file."""


class NgramError(ValueError):
    """A language model cannot be made from this text."""


def train_ngrams(
    sentences: Iterable[str],
    order: int,
    prune: int = 0,
    decimals: int = DECIMALS,
    frequencies: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """The lines of an ARPA file.

    Args:
        sentences: texts whose words are parted by white space; empty ones do not count.
        order: words of the longest n-grams, from 1 to 6.
        prune: leave out n-grams of that length that occur so often or less (lmplz's `--prune 0 0 N`
            for three words); what they had goes to the shorter ones.
        decimals: of the logarithms (to base 10) in the file.
        frequencies: words and how frequent they are elsewhere, in any unit; words of the text that
            it lacks, and `<unk>`, count as its rarest.

    Raises:
        NgramError: there are no words, a word is one of the three that the format keeps for itself,
            a frequency is not above 0, or order or prune are out of range.
    """
    if prune < 0 or (prune and order == 1):
        raise NgramError(f"prune is {prune}; it must be at least 0, and 0 where the order is 1")
    if not 1 <= order <= MAX_ORDER:
        raise NgramError(f"order is {order}; it must be from 1 to {MAX_ORDER}")
    counts = _adjusted(_count(sentences, order))
    words = {word for (word,) in counts[0]} - {BEGIN}
    # lmplz counts <unk> among the words that a word may be.
    before = _before_any_text(words | {UNKNOWN}, frequencies or {})
    probabilities: list[dict[Ngram, float]] = []
    backoffs: list[dict[Ngram, float]] = []
    for n, adjusted in enumerate(counts, start=1):
        discounts = _discounts(adjusted)
        totals, left = _totals(adjusted, discounts)
        if n == order and prune:
            adjusted = _pruned(adjusted, prune, discounts, left)
        shorter = probabilities[-1] if probabilities else {}
        found: dict[Ngram, float] = {}
        for ngram, count in adjusted.items():
            if ngram == (BEGIN,):
                continue
            context = ngram[:-1]
            lower = shorter[ngram[1:]] if n > 1 else before[ngram[0]]
            kept = count - discounts[min(count, 3)]
            found[ngram] = (kept + left[context] * lower) / totals[context]
        if n == 1:
            for word, probability in before.items():
                found.setdefault((word,), left[()] * probability / totals[()])
        else:
            backoffs.append({context: left[context] / totals[context] for context in totals})
        probabilities.append(found)
    return _arpa(probabilities, backoffs, decimals)


def _before_any_text(words: set[str], frequencies: Mapping[str, float]) -> dict[str, float]:
    """What each word has before the text is looked at; adds up to 1."""
    for word, frequency in frequencies.items():
        if word in (BEGIN, END, UNKNOWN) or not 0.0 < frequency < math.inf:
            raise NgramError(f"word {word!r}: frequency {frequency} is not of a word and above 0")
    rarest = min(frequencies.values(), default=1.0)
    listed = {**dict.fromkeys(sorted(words), rarest), **frequencies}
    total = math.fsum(listed.values())
    return {word: frequency / total for word, frequency in listed.items()}


def _count(sentences: Iterable[str], order: int) -> list[Counter[Ngram]]:
    """How often each n-gram occurs, by its length from 1 to `order`."""
    counts: list[Counter[Ngram]] = [Counter() for _ in range(order)]
    for number, sentence in enumerate(sentences, start=1):
        words = sentence.split()
        if not words:
            continue
        for word in words:
            if word in (BEGIN, END, UNKNOWN):
                raise NgramError(
                    f"sentence {number}: {word} is not a word but a mark of the format"
                )
        line = (BEGIN, *words, END)
        for n in range(1, order + 1):
            counts[n - 1].update(line[i : i + n] for i in range(len(line) - n + 1))
    if not counts[0]:
        raise NgramError("there are no words in the text")
    return counts


def _adjusted(counts: list[Counter[Ngram]]) -> list[dict[Ngram, int]]:
    """Counts of the longest n-grams; of the others, how many words were seen before them."""
    adjusted: list[dict[Ngram, int]] = []
    for n, shorter in enumerate(counts[:-1]):
        before = Counter(ngram[1:] for ngram in counts[n + 1])
        adjusted.append(
            {
                ngram: count if ngram[0] == BEGIN else before[ngram]
                for ngram, count in shorter.items()
            }
        )
    adjusted.append(dict(counts[-1]))
    return adjusted


def _discounts(adjusted: dict[Ngram, int]) -> tuple[float, float, float, float]:
    """What is taken off a count of 0, 1, 2, and 3 or more (Chen and Goodman 1998, equation 26)."""
    of_count = Counter(count for ngram, count in adjusted.items() if ngram != (BEGIN,))
    one, two, three, four = (of_count[i] for i in range(1, 5))
    if not (one and two and three and four):
        return 0.0, 0.5, 1.0, 1.5  # lmplz's fallback for texts too small to tell
    y = one / (one + 2 * two)
    taken = [
        i - (i + 1) * y * after / at
        for i, (at, after) in enumerate(((one, two), (two, three), (three, four)), start=1)
    ]
    # Few counts may give a discount that takes more than there is, or less than nothing.
    first, second, third = (min(max(d, 0.0), float(i)) for i, d in enumerate(taken, start=1))
    return 0.0, first, second, third


def _totals(
    adjusted: dict[Ngram, int], discounts: tuple[float, float, float, float]
) -> tuple[dict[Ngram, float], dict[Ngram, float]]:
    """For each context: the sum of its counts, and what the discounts leave for shorter ones."""
    totals: dict[Ngram, float] = {}
    left: dict[Ngram, float] = {}
    for ngram, count in adjusted.items():
        if ngram == (BEGIN,):
            continue
        context = ngram[:-1]
        totals[context] = totals.get(context, 0.0) + count
        left[context] = left.get(context, 0.0) + discounts[min(count, 3)]
    return totals, left


def _pruned(
    adjusted: dict[Ngram, int],
    prune: int,
    discounts: tuple[float, float, float, float],
    left: dict[Ngram, float],
) -> dict[Ngram, int]:
    """The n-grams that occur more often than `prune`; the others' share is added to `left`."""
    kept: dict[Ngram, int] = {}
    for ngram, count in adjusted.items():
        if count > prune:
            kept[ngram] = count
        else:
            left[ngram[:-1]] += count - discounts[min(count, 3)]
    return kept


def _arpa(
    probabilities: list[dict[Ngram, float]],
    backoffs: list[dict[Ngram, float]],
    decimals: int,
) -> Iterator[str]:
    orders = [sorted(found) for found in probabilities]
    orders[0] = sorted([*orders[0], (BEGIN,)])
    yield "\\data\\\n"
    for n, ngrams in enumerate(orders, start=1):
        yield f"ngram {n}={len(ngrams)}\n"
    for n, ngrams in enumerate(orders, start=1):
        yield f"\n\\{n}-grams:\n"
        found = probabilities[n - 1]
        after = backoffs[n - 1] if n <= len(backoffs) else {}
        for ngram in ngrams:
            log10 = math.log10(found[ngram]) if ngram in found else NEVER
            line = f"{round(log10, decimals):.9g}\t{' '.join(ngram)}"
            backoff = after.get(ngram, 1.0)
            if n < len(orders):
                log10 = math.log10(backoff) if backoff > 0.0 else NEVER
                line += f"\t{round(log10, decimals):.9g}"
            yield line + "\n"
    yield "\n\\end\\\n"
