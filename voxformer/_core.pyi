"""The compiled decoder: arrays in, plain tuples out. `voxformer.decoding` is its face."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

class RawHypothesis:
    # score, ctc_score, attention_score, lm_score, confidence, truncated, bonus_score
    def numbers(
        self,
    ) -> tuple[float, float | None, float | None, float, float, bool, float]: ...
    # by a lexicon; None without one
    def words(self) -> tuple[str, ...] | None: ...
    # token_ids, timesteps, token_confidences, token_starts, token_ends
    def tokens(
        self,
    ) -> tuple[
        tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[int, ...], tuple[int, ...]
    ]: ...

LogProbs: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]

class CtcBeamOptions:
    def __init__(
        self,
        *,
        beam_size: int,
        n_best: int,
        blank_id: int,
        length_bonus: float,
        length_penalty: float,
        beam_threshold: float,
        token_min_log_prob: float,
        prefixes_per_state: int,
        check_sums: bool,
    ) -> None: ...

class AttentionOptions:
    def __init__(
        self,
        *,
        beam_size: int,
        n_best: int,
        length_penalty: float,
        repetition_penalty: float,
        no_repeat_ngram: int,
        length_bonus: float,
    ) -> None: ...

class RescoringOptions:
    def __init__(
        self,
        *,
        ctc_weight: float,
        lm_weight: float,
        length_bonus: float,
        length_penalty: float,
        repetition_penalty: float,
    ) -> None: ...

class FusionOptions:
    def __init__(
        self,
        *,
        lm_weight: float,
        unknown_word_bonus: float,
        word_bonus: float,
        lm_over_tokens: bool,
    ) -> None: ...

class Lexicon:
    # pairs (word, spelling)
    def __init__(self, entries: Sequence[tuple[str, str]]) -> None: ...

class FusionModel:
    def __init__(
        self,
        *,
        language_model: NgramModel | None,
        tokens: Sequence[str],
        hotwords: Sequence[tuple[str, Sequence[int], float]],
        options: FusionOptions,
        lexicon: Lexicon | None = None,
    ) -> None: ...
    def words(self, token_ids: Sequence[int]) -> list[str]: ...

class CtcBatchDecoder:
    def __init__(self, options: CtcBeamOptions, fusion: FusionModel | None = None) -> None: ...
    def decode(
        self, log_probs: LogProbs, lengths: npt.NDArray[np.int64], num_threads: int
    ) -> list[list[RawHypothesis]]: ...
    def decode_top_k(
        self,
        token_ids: npt.NDArray[np.int32],
        log_probs: npt.NDArray[np.float32],
        blank_log_probs: npt.NDArray[np.float32],
        vocab_size: int,
        lengths: npt.NDArray[np.int64],
        num_threads: int,
    ) -> list[list[RawHypothesis]]: ...

class CtcStream:
    def __init__(self, options: CtcBeamOptions, fusion: FusionModel | None = None) -> None: ...
    def feed(self, log_probs: LogProbs) -> None: ...
    def partial(self) -> list[RawHypothesis]: ...

class AttentionBeamSearch:
    def __init__(
        self, sos_eos_id: int, blank_id: int, options: AttentionOptions, max_tokens: int
    ) -> None: ...
    @property
    def tokens(self) -> npt.NDArray[np.int64]: ...
    @property
    def done(self) -> bool: ...
    def advance(self, log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]: ...
    def finish(self) -> list[RawHypothesis]: ...

class NgramBuilder:
    def __init__(self, name: bytes) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def finish(self, source_size: int, source_mtime_ns: int) -> NgramModel: ...

class NgramState:
    @property
    def words(self) -> tuple[int, ...]: ...

# Gives its image as a read-only buffer: memoryview(model).
class NgramModel:
    @staticmethod
    def map(descriptor: int, name: bytes) -> NgramModel: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def order(self) -> int: ...
    @property
    def num_words(self) -> int: ...
    @property
    def num_ngrams(self) -> tuple[int, ...]: ...
    @property
    def has_unknown(self) -> bool: ...
    @property
    def source(self) -> tuple[int, int]: ...
    def find(self, word: bytes) -> int: ...
    def begin_state(self) -> NgramState: ...
    def empty_state(self) -> NgramState: ...
    def score(self, context: NgramState, word: int) -> tuple[float, NgramState]: ...
    def score_words(
        self, words: Sequence[bytes], bos: bool, eos: bool
    ) -> list[tuple[float, int, bool]]: ...

def token_log_probs(
    token_ids: Sequence[Sequence[int]], logits: npt.NDArray[np.float32], end_id: int
) -> npt.NDArray[np.float32]: ...
def align(log_probs: LogProbs, token_ids: Sequence[int], blank_id: int) -> RawHypothesis: ...
def rescore(
    token_ids: Sequence[Sequence[int]],
    ctc_scores: Sequence[float],
    lm_scores: Sequence[float],
    bonus_scores: Sequence[float],
    token_log_probs: npt.NDArray[np.float32],
    options: RescoringOptions,
) -> tuple[list[float], list[float], list[int]]: ...
