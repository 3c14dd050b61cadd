"""From log-probabilities to text: the Python face of the C++ decoder. Needs NumPy alone.

Ways to a `Hypothesis`: `ctc_greedy` and `ctc_greedy_top_k`; `CtcBeamDecoder`, whose `decode`,
`decode_top_k` and `stream` read CTC log-probs and whose `rescore` lets an attention decoder rank
what they found; and `attention_decode`, which drives an attention decoder token by token.
`ctc_align` finds the times of given tokens, `NgramLanguageModel` scores words, and a
`Lexicon` has them by their pronunciations.
"""

from .attention import AttentionBeamSearch, attention_decode
from .ctc import CtcBeamDecoder, CtcStream, ctc_align
from .greedy import ctc_greedy, ctc_greedy_top_k
from .hypothesis import Hypothesis
from .language_model import NgramLanguageModel, WordScore
from .lexicon import Lexicon
from .options import AttentionOptions, BeamOptions, FusionOptions, RescoringOptions
from .vocabulary import load_tokens, text_of

__all__ = [
    "AttentionBeamSearch",
    "AttentionOptions",
    "BeamOptions",
    "CtcBeamDecoder",
    "CtcStream",
    "FusionOptions",
    "Hypothesis",
    "Lexicon",
    "NgramLanguageModel",
    "RescoringOptions",
    "WordScore",
    "attention_decode",
    "ctc_align",
    "ctc_greedy",
    "ctc_greedy_top_k",
    "load_tokens",
    "text_of",
]
