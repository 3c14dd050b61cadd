"""What every decoding mode returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._core import RawHypothesis


@dataclass(frozen=True)
class Hypothesis:
    """One transcript of an utterance. Scores are natural logarithms.

    What a search returns makes its fields when they are first asked for: of a hundred hypotheses,
    few are read.
    """

    token_ids: tuple[int, ...]
    """Vocabulary ids, without blanks and sentence marks."""

    text: str
    """The tokens joined, `▁` as a space, stripped, or their `words`; empty where the decoder knows
    ids only."""

    score: float
    """What the hypotheses of an utterance are sorted by, best first; ties are in order of ids.

    (ctc_weight * ctc_score + (1 - ctc_weight) * attention_score + lm_weight * lm_score
    + bonus_score + length_bonus * n) / ((5 + n) / 6) ** length_penalty, with n tokens. Where one of
    the first two is None, the other stands for both terms.
    """

    ctc_score: float | None = None
    """ln of the alignment mass that the CTC search kept; of the best path for `ctc_greedy`."""

    attention_score: float | None = None
    """Sum of ln p over the tokens and `</s>`, after the repetition penalty."""

    lm_score: float = 0.0
    """ln p of the words and `</s>` under a language model; 0 without one."""

    timesteps: tuple[int, ...] = field(default_factory=tuple)
    """0-based encoder frame of each token's peak in the best alignment; empty without CTC."""

    token_confidences: tuple[float, ...] = field(default_factory=tuple)
    """Probability of each token at its peak frame (CTC) or when it was chosen (attention)."""

    confidence: float = 0.0
    """Geometric mean of the token confidences; of blank or `</s>` where there are no tokens."""

    truncated: bool = False
    """The length cap ended it, not the model."""

    token_starts: tuple[int, ...] = field(default_factory=tuple)
    """0-based encoder frame where each token begins in the best alignment; empty without CTC."""

    token_ends: tuple[int, ...] = field(default_factory=tuple)
    """The frame after each token's last."""

    bonus_score: float = 0.0
    """What words and hotwords add, see `FusionOptions`."""

    words: tuple[str, ...] | None = None
    """What the tokens spell by a lexicon, a word for each of the tokens' own; None without one."""

    def token_times(self, frame_shift_s: float = 0.04) -> list[tuple[float, float]]:
        """Start and end of each token in seconds; empty without CTC.

        A model trained with CTC says a token in few frames, which need not cover its sound.

        Args:
            frame_shift_s: seconds between encoder frames.
        """
        return [
            (start * frame_shift_s, end * frame_shift_s)
            for start, end in zip(self.token_starts, self.token_ends, strict=True)
        ]

    if not TYPE_CHECKING:  # for whom all fields are there

        def __getattr__(self, name: str) -> Any:
            """The fields that the extension still has."""
            values = self.__dict__
            unread = values.get("_unread")
            if unread is not None:
                if name in _NUMBERS:
                    values.update(zip(_NUMBERS, unread[0].numbers(), strict=True))
                elif name in _TOKENS or name in ("text", "words"):
                    _read_all(values, *unread)
            elif name == "words":  # of a pickle from before there were lexicons
                return values.get("words")
            if name in values:  # another thread may have been first
                return values[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {own.name: getattr(self, own.name) for own in fields(self)}


# As the extension's `numbers()` and `tokens()` give them.
_NUMBERS = (
    "score",
    "ctc_score",
    "attention_score",
    "lm_score",
    "confidence",
    "truncated",
    "bonus_score",
)
_TOKENS = ("token_ids", "timesteps", "token_confidences", "token_starts", "token_ends")

# A default that stands in the class would be found before the extension is asked.
for _name in (*_NUMBERS, "words"):
    if _name in vars(Hypothesis):
        delattr(Hypothesis, _name)


def from_raw(raw: RawHypothesis, pieces: Sequence[str] | None) -> Hypothesis:
    """The `Hypothesis` of the extension's, with its text by `with_spaces(tokens)`.

    Its fields are made when they are first read, since most of an n-best is never looked at.
    """
    hypothesis = object.__new__(Hypothesis)
    hypothesis.__dict__["_unread"] = (raw, pieces)
    return hypothesis


def _read_all(values: dict[str, Any], raw: RawHypothesis, pieces: Sequence[str] | None) -> None:
    """Put all fields into a hypothesis, and let go of the extension's."""
    values.update(zip(_NUMBERS, raw.numbers(), strict=True))
    values.update(zip(_TOKENS, raw.tokens(), strict=True))
    token_ids = values["token_ids"]
    words = raw.words()
    values["words"] = words
    if words is not None:
        values["text"] = " ".join(words)
    else:
        values["text"] = "" if pieces is None else "".join([pieces[i] for i in token_ids]).strip()
    values.pop("_unread", None)
