"""A made-up language for benchmarks/decoder.py: tokens, words, sentences, and 3-grams of them.

Words are sequences of token ids; a word is followed by one of its few usual successors more often
than not, so that an n-gram model has something to learn. With 29 tokens the language is spelled in
characters with a token between words; with more, a third of the tokens begin a word, as with
SentencePiece. Every token but the blank and the space holds one character of its own, so that any
text can be read back as ids.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLANK = "<blank>"
SPACE = "\u2581"
FIRST_CHARACTER = 0x4E00
WORDS = 400
SUCCESSORS = 8
DISCOUNT = 0.6


@dataclass(frozen=True)
class Language:
    """Attributes:
    tokens: by id; the blank is 0. `▁` is the space, or begins a word.
    words: each a sequence of token ids, most usual first, without spaces.
    successors: for each word, the words that usually follow it.
    """

    tokens: list[str]
    words: list[tuple[int, ...]]
    successors: list[list[int]]

    @property
    def spells(self) -> bool:
        """Whether words are characters with a space between them."""
        return SPACE in self.tokens

    def text(self, word: int) -> str:
        """A word as it is written."""
        return "".join(self.tokens[i] for i in self.words[word]).replace(SPACE, "")

    def sentence(self, rng: np.random.Generator, length: int) -> list[int]:
        """Words, each a usual successor of the one before it seven times of ten."""
        words = [_zipf(rng, len(self.words))]
        while len(words) < length:
            if rng.random() < 0.7:
                words.append(int(rng.choice(self.successors[words[-1]])))
            else:
                words.append(_zipf(rng, len(self.words)))
        return words

    def token_ids(self, words: Sequence[int]) -> list[int]:
        """A sentence as the ids that a recogniser has to find."""
        ids: list[int] = []
        for word in words:
            if ids and self.spells:
                ids.append(self.tokens.index(SPACE))
            ids += self.words[word]
        return ids


def make_language(vocab: int, seed: int) -> Language:
    """The language with `vocab` tokens, the blank among them; the same for the same seed."""
    rng = np.random.default_rng([seed, vocab])
    if vocab < 100:
        tokens = [BLANK, SPACE, *(chr(FIRST_CHARACTER + i) for i in range(vocab - 2))]
        first = inner = np.arange(2, vocab)
        lengths = (1, 8)
    else:
        characters = [chr(FIRST_CHARACTER + i) for i in range(vocab - 1)]
        tokens = [BLANK, *(SPACE * (i % 3 == 0) + c for i, c in enumerate(characters))]
        first = np.arange(1, vocab, 3)
        inner = np.setdiff1d(np.arange(1, vocab), first)
        lengths = (0, 3)
    words: dict[tuple[int, ...], None] = {}
    while len(words) < WORDS:
        rest = rng.choice(inner, rng.integers(*lengths, endpoint=True))
        word = (int(rng.choice(first)), *map(int, rest))
        words[word] = None
    successors = [[_zipf(rng, WORDS) for _ in range(SUCCESSORS)] for _ in words]
    return Language(tokens, list(words), successors)


def write_arpas(language: Language, seed: int, folder: Path) -> tuple[Path, Path]:
    """3-grams over tokens and over words of 5,000 sentences, as ARPA files; returns both paths."""
    rng = np.random.default_rng([seed, len(language.tokens), 1])
    sentences = [language.sentence(rng, int(rng.integers(3, 15))) for _ in range(5000)]
    by_token, by_word = folder / "tokens.arpa", folder / "words.arpa"
    write_arpa([[language.tokens[i] for i in language.token_ids(s)] for s in sentences], by_token)
    write_arpa([[language.text(word) for word in s] for s in sentences], by_word)
    return by_token, by_word


def write_arpa(sentences: Sequence[Sequence[str]], path: Path) -> None:
    """A 3-gram model with absolute discounting (Ney et al. 1994) that backs off, in ARPA format."""
    counts: list[Counter[tuple[str, ...]]] = [Counter(), Counter(), Counter()]
    for sentence in sentences:
        marked = ("<s>", *sentence, "</s>")
        for order in (1, 2, 3):
            for i in range(len(marked) - order + 1):
                counts[order - 1][marked[i : i + order]] += 1
    del counts[0][("<s>",)]
    total = sum(counts[0].values())
    # <unk> has the mass of half an occurrence.
    unigrams = {gram: n / (total + 0.5) for gram, n in counts[0].items()}
    probabilities = [unigrams]
    backoffs: list[dict[tuple[str, ...], float]] = []
    for order in (2, 3):
        followers: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
        for gram, n in counts[order - 1].items():
            followers[gram[:-1]][gram[-1]] = n
        found, weights = {}, {}
        for history, counted in followers.items():
            seen = sum(counted.values())
            for word, n in counted.items():
                gram = (*history, word)
                found[gram] = (n - DISCOUNT) / seen
            lower = sum(probabilities[-1].get((*history[1:], word), 0.0) for word in counted)
            weights[history] = DISCOUNT * len(counted) / seen / max(1.0 - lower, 1e-9)
        probabilities.append(found)
        backoffs.append(weights)
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 2}"]
    lines += [f"ngram {order}={len(probabilities[order - 1])}" for order in (2, 3)]
    lines += ["", "\\1-grams:", f"{np.log10(0.5 / (total + 0.5)):.6f}\t<unk>\t0"]
    lines += [f"-99\t<s>\t{np.log10(backoffs[0][('<s>',)]):.6f}"]
    for order, grams in enumerate(probabilities, start=1):
        if order > 1:
            lines += ["", f"\\{order}-grams:"]
        for gram, probability in grams.items():
            line = f"{np.log10(probability):.6f}\t{' '.join(gram)}"
            if order < 3 and gram in backoffs[order - 1]:
                line += f"\t{np.log10(backoffs[order - 1][gram]):.6f}"
            lines.append(line)
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


def _zipf(rng: np.random.Generator, count: int) -> int:
    """A rank with a probability in inverse proportion to it, near enough."""
    return min(int(count ** rng.random()) - 1, count - 1)
