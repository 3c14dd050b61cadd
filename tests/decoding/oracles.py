"""Independent definitions of what the decoder computes: short, slow and without its code."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = tuple[int, ...]
LogProbs = NDArray[np.float32]


def collapse(path: Ids, blank_id: int) -> Ids:
    """Merge repeats, then drop blanks: CTC's map from alignments to tokens."""
    merged = [token for token, _ in itertools.groupby(path)]
    return tuple(token for token in merged if token != blank_id)


def log_sum(values: list[float]) -> float:
    high = max(values, default=-math.inf)
    if high == -math.inf:
        return -math.inf
    return high + math.log(sum(math.exp(v - high) for v in values))


def all_alignments(log_probs: LogProbs, blank_id: int) -> dict[Ids, list[tuple[float, Ids]]]:
    """Every alignment of every token sequence, with its log-probability."""
    num_frames, vocab = log_probs.shape
    alignments: dict[Ids, list[tuple[float, Ids]]] = defaultdict(list)
    for path in itertools.product(range(vocab), repeat=num_frames):
        score = sum(float(log_probs[t, token]) for t, token in enumerate(path))
        if score > -math.inf:
            alignments[collapse(path, blank_id)].append((score, path))
    return alignments


def brute_force(log_probs: LogProbs, blank_id: int) -> dict[Ids, float]:
    """ln p of every token sequence that has an alignment."""
    return {
        token_ids: log_sum([score for score, _ in alignments])
        for token_ids, alignments in all_alignments(log_probs, blank_id).items()
    }


def final_score(
    acoustic: float, num_tokens: int, length_bonus: float = 0.0, length_penalty: float = 0.0
) -> float:
    return (acoustic + length_bonus * num_tokens) / ((5 + num_tokens) / 6) ** length_penalty


def ranked(scores: dict[Ids, float]) -> list[Ids]:
    return sorted(scores, key=lambda token_ids: (-scores[token_ids], token_ids))


def reference_beam(
    log_probs: LogProbs,
    beam_size: int,
    blank_id: int,
    length_bonus: float = 0.0,
    earned: Callable[[Ids], float] = lambda prefix: 0.0,
    beam_threshold: float = math.inf,
    token_min_log_prob: float = -math.inf,
    state: Callable[[Ids], object] = lambda prefix: prefix,
    per_state: int = 0,
) -> dict[Ids, float]:
    """The textbook prefix beam search, all prefixes of a frame in one dictionary.

    A prefix is kept or dropped by its alignments plus what it has `earned` otherwise, and one that
    earned -inf is none. A faint token makes no prefix that was not there before the frame. Of
    prefixes with an equal `state` the best `per_state` are kept, unless that is 0.
    """
    beam: dict[Ids, tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs.astype(float).tolist():
        grown: dict[Ids, list[list[float]]] = defaultdict(lambda: [[], []])
        for prefix, (ends_blank, ends_token) in beam.items():
            for token, log_prob in enumerate(frame):
                faint = log_prob < min(token_min_log_prob, max(frame))
                may_grow = not faint or (*prefix, token) in beam
                if token == blank_id:
                    grown[prefix][0] += [ends_blank + log_prob, ends_token + log_prob]
                elif prefix and token == prefix[-1]:
                    grown[prefix][1].append(ends_token + log_prob)
                    if may_grow:
                        grown[(*prefix, token)][1].append(ends_blank + log_prob)
                elif may_grow:
                    grown[(*prefix, token)][1] += [ends_blank + log_prob, ends_token + log_prob]
        summed = {prefix: (log_sum(b), log_sum(t)) for prefix, (b, t) in grown.items()}
        totals = {
            prefix: log_sum(list(halves)) + length_bonus * len(prefix) + earned(prefix)
            for prefix, halves in summed.items()
            if log_sum(list(halves)) > -math.inf
        }
        totals = {prefix: total for prefix, total in totals.items() if total > -math.inf}
        least = max(totals.values(), default=0.0) - beam_threshold
        kept = [prefix for prefix in ranked(totals) if totals[prefix] >= least]
        if per_state:
            seen: dict[object, int] = defaultdict(int)
            for prefix in list(kept):
                seen[state(prefix)] += 1
                if seen[state(prefix)] > per_state:
                    kept.remove(prefix)
        beam = {prefix: summed[prefix] for prefix in kept[:beam_size]}
    return {prefix: log_sum(list(halves)) for prefix, halves in beam.items()}


WordLogProbs = Callable[[tuple[str, ...], bool], list[float]]
UNKNOWN = "<unk>"
# What a word that is being spelled is lent at least: kLeastAhead.
LEAST_LENT = -20.0


def occurrences(phrases: Mapping[str, float], text: str) -> float:
    """The boosts of phrases, as often as they are in a text with spaces at its words' edges."""
    return sum(
        boost
        for phrase, boost in phrases.items()
        for start in range(len(text))
        if text.startswith(f" {phrase} ", start)
    )


@dataclass
class Pronounced:
    """What tokens spell by a lexicon of pairs (word, spelling), and what they earn by that.

    `word_log_probs(words, whole)` has ln p of each word: of a `whole` sentence after <s>, with
    </s> after the last, and otherwise of words without any context. None without a language model.
    """

    tokens: Sequence[str]
    entries: Sequence[tuple[str, str]]
    word_log_probs: WordLogProbs | None = None
    lm_weight: float = 0.0
    word_bonus: float = 0.0
    # Boosts by words, each of which counts however the lexicon spells them.
    hotwords: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reading = cache(self._reading)
        self.phrases = {
            " ".join(way): boost
            for words, boost in self.hotwords.items()
            for way in itertools.product(*[self.spellings(word) for word in words.split()])
        }

    def spellings(self, word: str) -> list[str]:
        return [spelling for other, spelling in self.entries if other == word]

    def spelled_as(self, group: str) -> list[str]:
        return [word for word, spelling in self.entries if spelling == group]

    def begun_as(self, group: str) -> list[str]:
        return [word for word, spelling in self.entries if spelling.startswith(group)]

    def text(self, ids: Ids) -> str:
        return " " + "".join(self.tokens[i] for i in ids).replace("\u2581", " ")

    def closed_and_last(self, ids: Ids) -> tuple[tuple[str, ...], str]:
        """The groups that another token has ended, and what follows them."""
        *closed, last = self.text(ids).split(" ")
        return tuple(group for group in closed if group), last

    def groups(self, ids: Ids) -> tuple[str, ...]:
        closed, last = self.closed_and_last(ids)
        return (*closed, last) if last else closed

    def allows(self, ids: Ids) -> bool:
        closed, last = self.closed_and_last(ids)
        return all(map(self.spelled_as, closed)) and (not last or bool(self.begun_as(last)))

    def is_word_or_nothing(self, group: str) -> bool:
        return bool(self.spelled_as(group)) or not self.begun_as(group)

    def _reading(self, groups: tuple[str, ...], end: bool) -> float:
        """The best ln p of words that are spelled as `groups`, with </s> where they `end`."""
        if self.word_log_probs is None:
            return 0.0
        choices = [self.spelled_as(group) or [UNKNOWN] for group in groups]
        counted = None if end else -1
        return max(
            sum(self.word_log_probs(words, True)[:counted]) for words in itertools.product(*choices)
        )

    def alone(self, word: str) -> float:
        """What a word is lent while it is begun; the least probable are all alike."""
        if self.word_log_probs is None:
            return 0.0
        return max(LEAST_LENT, self.word_log_probs((word,), False)[0])

    def lm_score(self, ids: Ids) -> float:
        return self.reading(self.groups(ids), True)

    def bonus_score(self, ids: Ids) -> float:
        return self.word_bonus * len(self.groups(ids)) + occurrences(
            self.phrases, self.text(ids) + " "
        )

    def earned(self, ids: Ids) -> float:
        """While the search runs: closed words, and what is lent to the last and to hotwords."""
        if not self.allows(ids):
            return -math.inf
        closed, last = self.closed_and_last(ids)
        lm_score = self.reading(closed, False)
        if last:
            lm_score += max(map(self.alone, self.begun_as(last)))
        text = self.text(ids)
        lent = [
            boost * k / len(phrase)
            for phrase, boost in self.phrases.items()
            for k in range(1, len(phrase) + 1)
            if text.endswith(f" {phrase[:k]}")
        ]
        bonus = (
            self.word_bonus * len(closed) + occurrences(self.phrases, text) + max(lent, default=0.0)
        )
        return self.lm_weight * lm_score + bonus

    def possible(self, group: str, is_last: bool) -> list[str]:
        """The words that a group may be read as."""
        begun = self.begun_as(group) if is_last else []
        most = max(map(self.alone, begun), default=0.0)
        probable = [word for word in begun if self.alone(word) >= most - 1e-4]
        return self.spelled_as(group) or probable or [group]

    def reads(self, ids: Ids, words: Sequence[str]) -> bool:
        """Whether `words` are the most probable for `ids`, one for each group."""
        groups = self.groups(ids)
        if len(words) != len(groups):
            return False
        possible = [
            self.possible(g, place == len(groups)) for place, g in enumerate(groups, start=1)
        ]
        if not all(word in choices for word, choices in zip(words, possible, strict=True)):
            return False
        spelled = [bool(self.spelled_as(group)) for group in groups]
        if self.word_log_probs is None:
            # Of words that sound alike, the first.
            return all(
                word == choices[0]
                for word, choices, whole in zip(words, possible, spelled, strict=True)
                if whole
            )
        scored = [word if whole else UNKNOWN for word, whole in zip(words, spelled, strict=True)]
        best = self.reading(groups, True)
        total = sum(self.word_log_probs(tuple(scored), True))
        return total >= best - 1e-4 * max(1.0, abs(best))


def penalised(token_log_probs: NDArray[np.float32], token_ids: Ids, penalty: float) -> float:
    """Attention score of `token_ids`, with the penalty as a mask over the vocabulary.

    `token_log_probs` [len + 1] has ln p of every token and of the end; the rule is applied to rows
    of a whole vocabulary, as Hugging Face's processor does it.
    """
    vocab = max(token_ids, default=0) + 2
    end = vocab - 1
    total = 0.0
    for position, token in enumerate((*token_ids, end)):
        row = np.full(vocab, float(token_log_probs[position]))
        held = np.unique(np.array(token_ids[:position], dtype=int))
        row[held] = np.where(row[held] < 0, row[held] * penalty, row[held] / penalty)
        total += row[token]
    return total


class Enumerated(NamedTuple):
    score: float
    attention: float
    token_ids: Ids


class TableModel:
    """A toy decoder: ln p of the next token depends on the last two tokens, by a random table."""

    def __init__(self, seed: int, vocab: int, sharpness: float = 2.0) -> None:
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(vocab, vocab, vocab)) * sharpness
        self.table = log_softmax(logits)
        self.vocab = vocab

    def next_log_probs(self, history: Ids) -> LogProbs:
        """`history` begins with <sos>."""
        before = history[-2] if len(history) > 1 else history[-1]
        return self.table[before, history[-1]]


def log_softmax(logits: NDArray[np.float64]) -> LogProbs:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


def enumerate_hypotheses(
    model: TableModel,
    sos_eos_id: int,
    blank_id: int,
    max_tokens: int,
    *,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    length_bonus: float = 0.0,
    length_penalty: float = 0.0,
) -> list[Enumerated]:
    """Every hypothesis of up to max_tokens tokens, closed with </s>, best first."""
    words = [i for i in range(model.vocab) if i not in (sos_eos_id, blank_id)]
    found = []
    for length in range(max_tokens + 1):
        for token_ids in itertools.product(words, repeat=length):
            n = no_repeat_ngram
            ngrams = [token_ids[i : i + n] for i in range(length - n + 1)] if n else []
            if len(ngrams) != len(set(ngrams)):
                continue
            total = 0.0
            for k, token in enumerate((*token_ids, sos_eos_id)):
                log_prob = float(model.next_log_probs((sos_eos_id, *token_ids[:k]))[token])
                total += log_prob * (repetition_penalty if token in token_ids[:k] else 1.0)
            score = final_score(total, length, length_bonus, length_penalty)
            found.append(Enumerated(score, total, token_ids))
    return sorted(found, key=lambda item: (-item.score, item.token_ids))
