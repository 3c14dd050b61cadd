"""What a search needs to know besides the numbers: the vocabulary, and the options."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, get_args

from voxformer.decoding import AttentionOptions, BeamOptions, FusionOptions, RescoringOptions
from voxformer.decoding.options import check_numbers

Mode = Literal["ctc_greedy", "ctc_beam", "attention", "rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

CTC_MODES: tuple[Mode, ...] = ("ctc_greedy", "ctc_beam")
"""Those that need no attention decoder."""

SPACE = "\u2581"
"""SentencePiece's word boundary."""


class SearchSetupError(ValueError):
    """Options, a language model, a lexicon or hotwords that no search can be made from."""


class ModeError(ValueError):
    """A decoding mode that does not exist, or that the model was not trained for."""


def trained_modes(stage: str | None) -> tuple[Mode, ...]:
    """Modes whose parts a stage has trained; all where the stage is unknown."""
    return CTC_MODES if stage == "ctc" else MODES


def default_mode(modes: Sequence[Mode]) -> Mode:
    """`rescoring` where the model can, else `ctc_beam`."""
    return "rescoring" if "rescoring" in modes else "ctc_beam"


def check_mode(mode: str, modes: Sequence[Mode]) -> None:
    """Raise ModeError unless `mode` is one of the model's."""
    if mode not in MODES:
        raise ModeError(f"unknown decoding mode {mode!r}; there are {', '.join(MODES)}")
    if mode not in modes:
        raise ModeError(
            f"mode {mode} needs an attention decoder, and this model's is not trained; use "
            f"{' or '.join(modes)}, or a model of stage 3 or 4"
        )


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model; the index of a token is its id.

    Attributes:
        tokens: `<blank>`, the pieces, `<sos/eos>`.
        blank_id: of CTC.
        sos_eos_id: what the attention decoder starts and ends with.
    """

    tokens: tuple[str, ...]
    blank_id: int
    sos_eos_id: int

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> Vocabulary:
        """The layout that the tokenizer writes: blank first, `<sos/eos>` last."""
        return cls(tuple(tokens), 0, len(tokens) - 1)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids; the two specials are left out."""
        specials = (self.blank_id, self.sos_eos_id)
        pieces = (self.tokens[i] for i in token_ids if i not in specials)
        return "".join(pieces).replace(SPACE, " ").strip()


@dataclass(frozen=True)
class DecodingOptions:
    """Options of all searches.

    The names are those of the `decoding` section of a config, which has no language model and no
    hotwords: these are of the place where a model is used, or of the bundle.

    Attributes:
        beam_size: hypotheses kept by the CTC prefix search.
        attention_beam_size: hypotheses kept by the attention search, where each costs a step of
            the decoder.
        n_best: hypotheses that a search returns, at most as many as it keeps, and that the
            attention decoder rescores.
        ctc_weight: CTC's share in the rescored score.
        prefixes_per_state: of those that the CTC search need not tell apart, see `BeamOptions`.
        length_bonus: added per token.
        length_penalty: exponent of the ranking divisor ((5 + n)/6) with CTC; 0 is off.
        attention_length_penalty: the same for the `attention` mode, which has no CTC score that
            holds it to the audio's length.
        repetition_penalty: factor on ln p of tokens that the hypothesis already holds; 1 is off.
        no_repeat_ngram: the attention search never repeats an n-gram of this size; 0 is off.
        max_tokens_per_second: cap on an attention hypothesis; None leaves one token per frame.
        language_model: path of an n-gram model (`NgramLanguageModel.load`) that scores the
            hypotheses of the CTC search, and with it those that are rescored; None for none.
        lexicon: path of a `Lexicon`, for a model whose tokens spell pronunciations: the words that
            the CTC search may write, and what other searches' hypotheses are read by; None for
            none.
        lm_weight, word_bonus, unknown_word_bonus, lm_unit: what the language model counts for, see
            `FusionOptions`.
        hotwords: phrases and their boosts, see `CtcBeamDecoder`; a mapping, or pairs.
        num_threads: threads of the C++ searches over the utterances of a batch; 0 is one per core.

    Raises:
        SearchSetupError: a field is of another type or out of its range; the message names it.
    """

    beam_size: int = 10
    attention_beam_size: int = 10
    n_best: int = 10
    ctc_weight: float = 0.5
    prefixes_per_state: int = 0
    length_bonus: float = 0.0
    length_penalty: float = 0.0
    attention_length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    max_tokens_per_second: float | None = None
    language_model: str | None = None
    lexicon: str | None = None
    lm_weight: float = 0.5
    word_bonus: float = 0.0
    unknown_word_bonus: float = 0.0
    lm_unit: Literal["word", "token"] = "word"
    hotwords: Mapping[str, float] | Sequence[tuple[str, float]] = ()
    num_threads: int = 0

    def __post_init__(self) -> None:
        try:
            # Pairs can be hashed, as decoders that are kept from one batch to the next need.
            object.__setattr__(self, "hotwords", _pairs(self.hotwords))
            check_numbers(self)
            # `beam` is for who runs a CTC search: others may want more than one would keep.
            BeamOptions(
                self.beam_size,
                min(self.n_best, self.beam_size),
                prefixes_per_state=self.prefixes_per_state,
            )
            self.fusion()
            self.rescoring()
        except (TypeError, ValueError) as error:
            raise SearchSetupError(str(error)) from None
        try:
            self.attention()
        except (TypeError, ValueError) as error:
            raise SearchSetupError(f"attention search: {error}") from None
        for name in ("language_model", "lexicon"):
            path = getattr(self, name)
            if not isinstance(path, (str, os.PathLike, type(None))):
                raise SearchSetupError(f"{name} is {path!r}; it must be the path of a file")
        rate = self.max_tokens_per_second
        if rate is not None and not 0.0 < rate < math.inf:
            raise SearchSetupError(
                f"max_tokens_per_second is {rate}; it must be above 0 and finite; None is no cap"
            )
        if self.num_threads < 0:
            raise SearchSetupError(f"num_threads is {self.num_threads}; it must be at least 0")

    def beam(self, blank_id: int) -> BeamOptions:
        """Of the CTC search."""
        return BeamOptions(
            beam_size=self.beam_size,
            n_best=self.n_best,
            blank_id=blank_id,
            length_bonus=self.length_bonus,
            length_penalty=self.length_penalty,
            prefixes_per_state=self.prefixes_per_state,
        )

    def fusion(self) -> FusionOptions:
        """Of the language model and the hotwords in the CTC search."""
        return FusionOptions(
            lm_weight=self.lm_weight,
            word_bonus=self.word_bonus,
            unknown_word_bonus=self.unknown_word_bonus,
            lm_unit=self.lm_unit,
        )

    def rescoring(self) -> RescoringOptions:
        """Of the attention decoder's ranking of what the CTC search found."""
        return RescoringOptions(
            ctc_weight=self.ctc_weight,
            lm_weight=self.lm_weight if self.language_model is not None else 0.0,
            length_bonus=self.length_bonus,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
        )

    def attention(self) -> AttentionOptions:
        """Of the attention search."""
        return AttentionOptions(
            beam_size=self.attention_beam_size,
            n_best=min(self.n_best, self.attention_beam_size),
            length_penalty=self.attention_length_penalty,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram=self.no_repeat_ngram,
            length_bonus=self.length_bonus,
        )

    def without_language_model(self) -> DecodingOptions:
        """The same without a language model and what was weighed against it; the same object where
        there is none."""
        if self.language_model is None:
            return self
        weighed = (
            "lm_weight",
            "lm_unit",
            "word_bonus",
            "unknown_word_bonus",
            "prefixes_per_state",
        )
        defaults = {name: getattr(DecodingOptions, name) for name in weighed}
        return replace(self, language_model=None, **defaults)

    def changed(self, **options: Any) -> DecodingOptions:
        """With other options; another language model, or None, takes the weights of the present one
        away with it."""
        start = self.without_language_model() if "language_model" in options else self
        return replace(start, **options)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> DecodingOptions:
        """The fields that are options of a search; others, such as `eval_modes`, are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as bundle.json holds them."""
        values = asdict(self)
        del values["num_threads"]  # of this machine, not of the model
        return values


def _pairs(
    hotwords: Mapping[str, float] | Sequence[tuple[str, float]],
) -> tuple[tuple[str, float], ...]:
    """Phrases and boosts of a mapping or of pairs."""
    items = hotwords.items() if isinstance(hotwords, Mapping) else hotwords
    try:
        pairs = tuple((phrase, boost) for phrase, boost in items)
    except (TypeError, ValueError):
        raise TypeError(f"hotwords is {hotwords!r}; it must be phrases with their boosts") from None
    for phrase, boost in pairs:
        if not isinstance(phrase, str) or not isinstance(boost, Real):
            raise TypeError(f"hotword {phrase!r} has boost {boost!r}; a text and a number is due")
    return pairs
