"""Options of the searches. The ranges are checked where the searches are, in C++."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

from .. import _core

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_numbers(options: DataclassInstance) -> None:
    """Raise TypeError, naming the field, unless fields that are int or float hold such numbers.

    The extension's own message has the types of all fields and says not which is wrong.
    """
    for field in fields(options):
        kind, _, absent = str(field.type).partition(" | ")
        value = getattr(options, field.name)
        if absent and value is None:
            continue
        if kind == "int" and not (isinstance(value, Integral) and -(2**63) <= int(value) < 2**63):
            raise TypeError(f"{field.name} is {value!r}; it must be a whole number of 64 bits")
        if kind == "float" and not isinstance(value, Real):
            raise TypeError(f"{field.name} is {value!r}; it must be a number")


@dataclass(frozen=True)
class BeamOptions:
    """CTC prefix beam search.

    Raises:
        ValueError, TypeError: a field is out of its range or no number; the message names it.
    """

    beam_size: int = 10
    """Prefixes kept after each frame, at least 1."""

    n_best: int = 1
    """Hypotheses returned per utterance, from 1 to `beam_size`."""

    blank_id: int = 0
    """Column of the blank in `log_probs`."""

    length_bonus: float = 0.0
    """Added to the score for every token while the search runs, in natural-log units."""

    length_penalty: float = 0.0
    """Exponent of ((5 + n) / 6), by which the score of n tokens is divided after the search: the
    prefixes of the last frame are ranked by it, then cut to `n_best` (Wu et al. 2016, eq. 14)."""

    beam_threshold: float = math.inf
    """After each frame, prefixes whose score is this far below the best are dropped, in natural-log
    units; infinity drops none. What it gives up is what such a prefix could still become."""

    token_min_log_prob: float = -math.inf
    """Tokens below this log-prob make no new prefix, but for the most probable token of a frame;
    minus infinity leaves out none. -5 and a `beam_threshold` of 10 are what pyctcdecode prunes by
    default; with a language model and a wide beam they save most of the time."""

    prefixes_per_state: int = 0
    """With a language model, lexicon or hotwords: prefixes kept of those that have no future of
    their own, as they end with the same token and letters of a word, and all that may follow earns
    the same after each; 0 keeps all. A beam that is spent on what an n-gram model has forgotten is
    a narrow one. In a search graph such paths are one (recombination, Ney and Ortmanns 1999); with
    1 they are here, too, and the `n_best` differ in little but their last words."""

    check_sums: bool = False
    """Refuse frames whose probabilities do not add up to 1, as those of logits do not."""

    def __post_init__(self) -> None:
        self.to_core()

    def to_core(self) -> _core.CtcBeamOptions:
        """The extension's counterpart."""
        check_numbers(self)
        return _core.CtcBeamOptions(**asdict(self))


@dataclass(frozen=True)
class FusionOptions:
    """What a language model and words count for in the CTC search (shallow fusion, Gulcehre et al.
    2015).

    A word is scored when the next one begins, the last one and `</s>` at the end of the utterance.

    Raises:
        ValueError, TypeError: a field is out of its range or no number; the message names it.
    """

    lm_weight: float = 0.5
    """Factor on the language model's ln p, from 0."""

    word_bonus: float = 0.0
    """Added for every word, in natural-log units: a language model alone favours few words."""

    unknown_word_bonus: float = 0.0
    """Added to ln p of a word that the language model lacks, before the weight. No word gets more
    than 0 of this and its ln p together."""

    lm_unit: Literal["word", "token"] = "word"
    """What the language model's n-grams are of: words, which the tokens spell, or the tokens of
    `tokens.txt` themselves."""

    def __post_init__(self) -> None:
        if self.lm_unit not in ("word", "token"):
            raise ValueError(f"lm_unit is {self.lm_unit!r}; it must be 'word' or 'token'")
        self.to_core()

    def to_core(self) -> _core.FusionOptions:
        """The extension's counterpart."""
        check_numbers(self)
        return _core.FusionOptions(
            lm_weight=self.lm_weight,
            unknown_word_bonus=self.unknown_word_bonus,
            word_bonus=self.word_bonus,
            lm_over_tokens=self.lm_unit == "token",
        )


@dataclass(frozen=True)
class AttentionOptions:
    """Autoregressive beam search with an attention decoder.

    Raises:
        ValueError, TypeError: a field is out of its range or no number; the message names it.
    """

    beam_size: int = 10
    """Continuations kept at each step, those that end included. 1 is greedy search."""

    n_best: int = 1
    """Hypotheses returned, from 1 to `beam_size`."""

    length_penalty: float = 0.0
    """Exponent of ((5 + n) / 6), by which the score of a finished hypothesis of n tokens is divided
    (Wu et al. 2016, eq. 14)."""

    repetition_penalty: float = 1.0
    """Factor on ln p of a token that the hypothesis already holds; `</s>` is exempt. Above 1
    discourages repetition, 1 is off (CTRL, Keskar et al. 2019, section 4.1)."""

    no_repeat_ngram: int = 0
    """No sequence of this many tokens occurs twice in a hypothesis; 0 is off."""

    length_bonus: float = 0.0
    """Added to the score for every token while the search runs, in natural-log units."""

    def __post_init__(self) -> None:
        self.to_core()

    def to_core(self) -> _core.AttentionOptions:
        """The extension's counterpart."""
        check_numbers(self)
        return _core.AttentionOptions(**asdict(self))


@dataclass(frozen=True)
class RescoringOptions:
    """Combination of a CTC search's scores with an attention decoder's.

    Raises:
        ValueError, TypeError: a field is out of its range or no number; the message names it.
    """

    ctc_weight: float = 0.5
    """Share of the CTC score, from 0 to 1; the attention score has the rest."""

    lm_weight: float = 0.0
    """Factor on the language model's score."""

    length_bonus: float = 0.0
    """Added for every token, in natural-log units."""

    length_penalty: float = 0.0
    """Exponent of ((5 + n) / 6), by which the sum is divided (Wu et al. 2016, eq. 14)."""

    repetition_penalty: float = 1.0
    """Factor on ln p of a token that the hypothesis already holds; `</s>` is exempt, 1 is off
    (CTRL, Keskar et al. 2019, section 4.1)."""

    def __post_init__(self) -> None:
        self.to_core()

    def to_core(self) -> _core.RescoringOptions:
        """The extension's counterpart."""
        check_numbers(self)
        return _core.RescoringOptions(**asdict(self))
