"""What a search needs to know besides the numbers: the vocabulary, and the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Mode = Literal["ctc_greedy", "ctc_beam", "attention", "rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

CTC_MODES: tuple[Mode, ...] = ("ctc_greedy", "ctc_beam")
"""Those that need no attention decoder."""

SPACE = "\u2581"
"""SentencePiece's word boundary."""


class SearchSetupError(ValueError):
    """Options, a language model or hotwords that no search can be made from."""


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
    hotwords: these are of the place where a model is used.

    Attributes:
        beam_size: hypotheses kept by the CTC prefix search.
        attention_beam_size: hypotheses kept by the attention search, where each costs a step of
            the decoder.
        n_best: hypotheses that a search returns, at most as many as it keeps, and that the
            attention decoder rescores.
        ctc_weight: CTC's share in the rescored score.
        length_bonus: added per token.
        length_penalty: exponent of the ranking divisor ((5 + n)/6) with CTC; 0 is off.
        attention_length_penalty: the same for the `attention` mode, which has no CTC score that
            holds it to the audio's length.
        repetition_penalty: factor on ln p of tokens that the hypothesis already holds; 1 is off.
        no_repeat_ngram: the attention search never repeats an n-gram of this size; 0 is off.
        max_tokens_per_second: cap on an attention hypothesis; None leaves one token per frame.
        language_model: path of an n-gram model (`NgramLanguageModel.load`) that scores the
            hypotheses of the CTC search, and with it those that are rescored; None for none.
        lm_weight, word_bonus, unknown_word_bonus, lm_unit: what it counts for, see `FusionOptions`.
        hotwords: phrases and their boosts, see `CtcBeamDecoder`; a mapping, or pairs.
        num_threads: threads of the C++ searches over the utterances of a batch; 0 is one per core.
    """

    beam_size: int = 10
    attention_beam_size: int = 10
    n_best: int = 10
    ctc_weight: float = 0.5
    length_bonus: float = 0.0
    length_penalty: float = 0.0
    attention_length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    max_tokens_per_second: float | None = None
    language_model: str | None = None
    lm_weight: float = 0.5
    word_bonus: float = 0.0
    unknown_word_bonus: float = 0.0
    lm_unit: Literal["word", "token"] = "word"
    hotwords: Mapping[str, float] | Sequence[tuple[str, float]] = ()
    num_threads: int = 0

    def __post_init__(self) -> None:
        # Pairs can be hashed, as decoders that are kept from one batch to the next need.
        pairs = self.hotwords.items() if isinstance(self.hotwords, Mapping) else self.hotwords
        object.__setattr__(self, "hotwords", tuple((phrase, boost) for phrase, boost in pairs))

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
