"""CTC prefix beam search, and rescoring of its n-best."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .. import _core
from .arrays import as_log_probs, check_batch, check_lengths, check_token_ids, check_vocabulary
from .hypothesis import Hypothesis, from_raw
from .language_model import NgramLanguageModel
from .lexicon import Lexicon
from .options import BeamOptions, FusionOptions, RescoringOptions
from .vocabulary import WORD_START, load_tokens, with_spaces

MOST_SPELLINGS = 100
"""Of a hotword, by a lexicon that has its words in several ways."""


class CtcBeamDecoder:
    """Prefix beam search over CTC log-probs, and attention rescoring of what it finds.

    The search sums over alignments (Graves et al. 2006, section 3.2; Hannun et al. 2014,
    algorithm 1) in double precision and over the full vocabulary. It returns what a search without
    any pruning but `beam_size` returns. A decoder keeps no state between calls, only the memory of
    its searches, and may be used from several threads at once.

    Args:
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None to decode to ids.
        options: the search; the defaults of `BeamOptions` where None.
        num_threads: utterances decoded at once; the cores this process may use where None.
        language_model: scores prefixes while the search runs; needs `tokens`.
        hotwords: boosts of phrases, in natural-log units and above 0: texts (whole words, where the
            vocabulary marks these), or tuples of token ids where `tokens` is None. Each occurrence
            of a phrase adds its boost to the score; while it is being spelled the share that is
            there is lent to the prefix, and given back if it does not go on.
        fusion: how much these count; the defaults of `FusionOptions` where None.
        lexicon: the only words that are searched for, by how the tokens spell them; hypotheses have
            these words. It needs `tokens`, and then hotwords are words of it, which make their
            sound more probable: among words that sound alike it is the language model that chooses.

    Raises:
        ValueError: num_threads is below 1; `tokens.txt` has an empty line; a hotword is empty, of
            the wrong kind, not in the lexicon, cannot be spelled with the tokens or has the blank's
            id, or its boost is not above 0; there is a language model, a lexicon or a word bonus
            and no `tokens`; a token is of more than one word where words count.
    """

    def __init__(
        self,
        tokens: Sequence[str] | str | os.PathLike[str] | None = None,
        options: BeamOptions | None = None,
        num_threads: int | None = None,
        *,
        language_model: NgramLanguageModel | None = None,
        hotwords: Mapping[str, float] | Mapping[tuple[int, ...], float] | None = None,
        fusion: FusionOptions | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        self.tokens = load_tokens(tokens)
        self._pieces = with_spaces(self.tokens)
        self.options = options if options is not None else BeamOptions()
        if num_threads is None:
            num_threads = available_cores()
        if num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be at least 1")
        self.num_threads = num_threads
        self.fusion = fusion if fusion is not None else FusionOptions()
        self._has_lexicon = lexicon is not None
        self._lm_weight = 0.0 if language_model is None else self.fusion.lm_weight
        self._core_options = self.options.to_core()
        self._largest_hotword_id = _largest_id(hotwords or {}, self.options.blank_id)
        if lexicon is not None:
            hotwords = _pronounced(hotwords or {}, lexicon)
        self._core_fusion = _fusion_model(
            self.tokens, language_model, hotwords or {}, self.fusion, lexicon
        )
        self._core_decoder = _core.CtcBatchDecoder(self._core_options, self._core_fusion)

    def decode(
        self, log_probs: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> list[list[Hypothesis]]:
        """The n-best hypotheses of every utterance of a batch, best first.

        Args:
            log_probs: float32 or float16 [batch, time, vocab], natural logarithms; -inf is a
                probability of zero. An array, or what speaks DLPack or the buffer protocol, is read
                where it is if its rows have no gaps; other types and layouts are converted.
            lengths: int64 [batch], frames of each utterance; None for all `time` frames. What lies
                beyond is not read.

        Returns:
            For every utterance up to `n_best` hypotheses: fewer where fewer prefixes are possible,
            one empty hypothesis with score 0.0 for length 0, and one with score -inf where the
            log-probs allow no alignment at all.

        Raises:
            ValueError: a shape does not fit, a length is out of range, `blank_id` is not in the
                vocabulary, a value is NaN or +inf, or a frame does not add up to 1 and
                `check_sums` is set; the message names utterance and frame.
        """
        batch, frames = check_batch(log_probs, lengths)
        self._check_vocabulary(batch.shape[2])
        results = self._core_decoder.decode(batch, frames, self.num_threads)
        return [[from_raw(raw, self._pieces) for raw in hypotheses] for hypotheses in results]

    def decode_top_k(
        self,
        token_ids: npt.ArrayLike,
        log_probs: npt.ArrayLike,
        blank_log_probs: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
        vocab_size: int | None = None,
    ) -> list[list[Hypothesis]]:
        """As `decode`, from the best tokens of every frame: less to move off a device.

        The search is that over log-probs where every token that is not named has a probability of
        zero.

        Args:
            token_ids: whole numbers [batch, time, k], in any order; the blank may be among them. Of
                equal ids in a frame the last counts.
            log_probs: float32 [batch, time, k], of these ids.
            blank_log_probs: float32 [batch, time].
            lengths: int64 [batch], see `decode`.
            vocab_size: ids are below it; the number of `tokens` where None.

        Raises:
            ValueError: as `decode`; or an id is not in the vocabulary.
        """
        ids = check_token_ids(token_ids)
        if vocab_size is None:
            if self.tokens is None:
                raise ValueError("vocab_size is needed where the decoder has no tokens")
            vocab_size = len(self.tokens)
        self._check_vocabulary(vocab_size, "vocab_size is {}")
        results = self._core_decoder.decode_top_k(
            ids,
            np.ascontiguousarray(log_probs, dtype=np.float32),
            np.ascontiguousarray(blank_log_probs, dtype=np.float32),
            vocab_size,
            check_lengths(lengths, len(ids) if ids.ndim else 0),
            self.num_threads,
        )
        return [[from_raw(raw, self._pieces) for raw in hypotheses] for hypotheses in results]

    def _check_vocabulary(self, vocab: int, what: str = "log_probs has {} columns") -> None:
        """Raise ValueError unless `vocab` ids have tokens, and those of hotwords are among them."""
        check_vocabulary(self.tokens, vocab, what)
        largest = self._largest_hotword_id
        if largest >= vocab:
            raise ValueError(f"{what.format(vocab)}, but a hotword has id {largest}")

    def read(self, hypothesis: Hypothesis) -> Hypothesis:
        """A hypothesis of another search with the words that its tokens spell by the lexicon.

        Of those that are spelled alike the language model chooses; what the lexicon lacks stays as
        it is spelled. Without a lexicon it is returned as it is.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        if not self._has_lexicon:
            return hypothesis
        assert self._core_fusion is not None
        words = tuple(self._core_fusion.words(hypothesis.token_ids))
        return replace(hypothesis, words=words, text=" ".join(words))

    def stream(self) -> CtcStream:
        """A search of one utterance whose log-probs come in chunks, set up as this decoder is."""
        return CtcStream(self)

    def rescore(
        self,
        hypotheses: Sequence[Hypothesis],
        token_log_probs: npt.ArrayLike,
        options: RescoringOptions | None = None,
        *,
        ctc_weight: float | None = None,
        lm_weight: float | None = None,
        length_bonus: float | None = None,
        length_penalty: float | None = None,
        repetition_penalty: float | None = None,
    ) -> list[Hypothesis]:
        """The hypotheses of one utterance with attention_score and score set, sorted again.

        Args:
            hypotheses: what `decode` returned for one utterance.
            token_log_probs: float32 [len(hypotheses), at least longest + 1]. Row i has, for
                hypothesis i with n tokens, ln p of token k given those before it at column k < n,
                and ln p of `</s>` at column n; what follows is padding and not read.
            options: how scores are combined. Where None, `ctc_weight` is 0.5, the length bonus and
                penalty and the language model's weight are the decoder's own, and the rest is off.
            ctc_weight, lm_weight, length_bonus, length_penalty, repetition_penalty: replace the
                field of this name in `options`.

        Raises:
            ValueError: a shape does not fit, an option is out of range, a value is NaN or +inf (the
                message names hypothesis and position), or a hypothesis has no `ctc_score` and
                ctc_weight is not 0.
        """
        if options is None:
            options = RescoringOptions(
                length_bonus=self.options.length_bonus,
                length_penalty=self.options.length_penalty,
                lm_weight=self._lm_weight,
            )
        overrides = {
            "ctc_weight": ctc_weight,
            "lm_weight": lm_weight,
            "length_bonus": length_bonus,
            "length_penalty": length_penalty,
            "repetition_penalty": repetition_penalty,
        }
        options = replace(options, **{k: v for k, v in overrides.items() if v is not None})
        for i, hypothesis in enumerate(hypotheses):
            if hypothesis.ctc_score is None and options.ctc_weight != 0.0:
                raise ValueError(
                    f"hypothesis {i} has no ctc_score; rescore what a CTC search returned, or set "
                    f"ctc_weight=0"
                )
        if not hypotheses:
            return []
        attention_scores, scores, order = _core.rescore(
            [hypothesis.token_ids for hypothesis in hypotheses],
            [hypothesis.ctc_score or 0.0 for hypothesis in hypotheses],
            [hypothesis.lm_score for hypothesis in hypotheses],
            [hypothesis.bonus_score for hypothesis in hypotheses],
            np.ascontiguousarray(token_log_probs, dtype=np.float32),
            options.to_core(),
        )
        return [
            replace(hypotheses[i], attention_score=attention_scores[i], score=scores[i])
            for i in order
        ]

    def rescore_logits(
        self,
        hypotheses: Sequence[Hypothesis],
        logits: npt.ArrayLike,
        sos_eos_id: int,
        options: RescoringOptions | None = None,
    ) -> list[Hypothesis]:
        """As `rescore`, from the attention decoder's logits.

        Only the log-softmax of what the hypotheses need is computed. Float32 without gaps is not
        copied.

        Args:
            hypotheses: see `rescore`.
            logits: float32 [len(hypotheses), at least longest + 1, vocab]; at position k, of the
                token after k others.
            sos_eos_id: id of `</s>`.
            options: see `rescore`.

        Raises:
            ValueError: as `rescore`; or an id is not in the vocabulary of the logits.
        """
        token_log_probs = _core.token_log_probs(
            [hypothesis.token_ids for hypothesis in hypotheses],
            np.ascontiguousarray(logits, dtype=np.float32),
            sos_eos_id,
        )
        return self.rescore(hypotheses, token_log_probs, options)


class CtcStream:
    """Prefix beam search of one utterance whose log-probs come in chunks.

    Whatever the chunks, `partial` returns what `CtcBeamDecoder.decode` returns for all frames so
    far. The frames are kept for the times of the tokens, 4 bytes a token of the vocabulary each:
    12 MB a minute at 25 frames/s and 2,000 tokens. Made by `CtcBeamDecoder.stream`.

    Args:
        decoder: whose vocabulary, options, language model and hotwords it has.
    """

    def __init__(self, decoder: CtcBeamDecoder) -> None:
        self.tokens = decoder.tokens
        self._decoder = decoder
        self._pieces = decoder._pieces
        self.options = decoder.options
        self.finished = False
        self._stream = _core.CtcStream(decoder._core_options, decoder._core_fusion)

    def feed(self, log_probs: npt.ArrayLike) -> None:
        """Go on by some frames.

        Args:
            log_probs: float32 or float16 [time, vocab], natural logarithms; time may be 0.

        Raises:
            ValueError: the shape does not fit, `blank_id` is not in the vocabulary, a value is NaN
                or +inf (the message names the frame, counted from the start of the stream), or the
                stream is finished. None of the frames is taken then.
        """
        if self.finished:
            raise ValueError("the stream is finished; make another for the next utterance")
        chunk = as_log_probs(log_probs, "[time, vocab]")
        self._decoder._check_vocabulary(chunk.shape[1])
        self._stream.feed(chunk)

    def partial(self) -> list[Hypothesis]:
        """The n-best hypotheses of the frames so far, best first."""
        return [from_raw(raw, self._pieces) for raw in self._stream.partial()]

    def finish(self) -> list[Hypothesis]:
        """The same as `partial`; no more frames may follow."""
        self.finished = True
        return self.partial()


def ctc_align(log_probs: npt.ArrayLike, hypothesis: Hypothesis, blank_id: int = 0) -> Hypothesis:
    """The hypothesis with frames and confidences from its best alignment to CTC log-probs.

    For hypotheses that did not come from a CTC search; the others have them. The alignment is the
    most probable path that reads as the hypothesis (Viterbi in the lattice of Graves et al. 2006,
    figure 3).

    Args:
        log_probs: float32 or float16 [time, vocab] of one utterance, natural logarithms.
        hypothesis: whose `token_ids` are aligned; its other fields stay.
        blank_id: column of the blank.

    Returns:
        The hypothesis with timesteps, token_starts, token_ends and token_confidences, which are
        empty, and confidence, which is 0, where its tokens cannot be aligned: too few frames, or
        probabilities of zero.

    Raises:
        ValueError: the shape does not fit, an id is not in the vocabulary, or a value is NaN or
            +inf; the message names the frame.
    """
    frames = as_log_probs(log_probs, "[time, vocab]")
    raw = _core.align(frames, hypothesis.token_ids, blank_id)
    aligned = from_raw(raw, None)
    return replace(
        hypothesis,
        timesteps=aligned.timesteps,
        token_starts=aligned.token_starts,
        token_ends=aligned.token_ends,
        token_confidences=aligned.token_confidences,
        confidence=aligned.confidence,
    )


def _largest_id(
    hotwords: Mapping[str, float] | Mapping[tuple[int, ...], float], blank_id: int
) -> int:
    """The largest token id of hotwords that are tuples of them; -1 where there is none.

    Raises:
        ValueError: the blank is among them, which no hypothesis holds.
    """
    spelled = [phrase for phrase in hotwords if isinstance(phrase, tuple)]
    for phrase in spelled:
        if blank_id in phrase:
            raise ValueError(f"hotword {phrase!r} has blank_id {blank_id}, which is never written")
    return max((token_id for phrase in spelled for token_id in phrase), default=-1)


def _fusion_model(
    tokens: list[str] | None,
    language_model: NgramLanguageModel | None,
    hotwords: Mapping[str, float] | Mapping[tuple[int, ...], float],
    options: FusionOptions,
    lexicon: Lexicon | None,
) -> _core.FusionModel | None:
    """The extension's counterpart of what scores prefixes; None where nothing does."""
    phrases: list[tuple[str, tuple[int, ...], float]] = []
    for phrase, boost in hotwords.items():
        if isinstance(phrase, str) == (tokens is None):
            expected = "tuples of token ids" if tokens is None else "texts"
            raise ValueError(f"hotword {phrase!r}: with these tokens, hotwords are {expected}")
        if isinstance(phrase, str):
            phrases.append((" ".join(phrase.replace(WORD_START, " ").split()), (), boost))
        else:
            phrases.append(("", phrase, boost))
    nothing = language_model is None and lexicon is None and not phrases
    if nothing and options.word_bonus == 0.0:
        return None
    return _core.FusionModel(
        language_model=None if language_model is None else language_model.to_core(),
        tokens=tokens or [],
        hotwords=phrases,
        options=options.to_core(),
        lexicon=None if lexicon is None else lexicon.to_core(),
    )


def _pronounced(
    hotwords: Mapping[str, float] | Mapping[tuple[int, ...], float], lexicon: Lexicon
) -> dict[str, float]:
    """Hotwords as they are spelled with tokens, in every way that the lexicon has.

    Raises:
        ValueError: the lexicon lacks a word, or has too many ways.
    """
    spelled: dict[str, float] = {}
    for phrase, boost in hotwords.items():
        if not isinstance(phrase, str):
            raise ValueError(f"hotword {phrase!r}: with a lexicon, hotwords are texts")
        if not boost > 0.0:
            raise ValueError(f"hotword {phrase!r} has boost {boost}; it must be above 0")
        words = phrase.replace(WORD_START, " ").split()
        ways = [lexicon.spellings(word) for word in words]
        for word, known in zip(words, ways, strict=True):
            if not known:
                raise ValueError(
                    f"hotword {phrase!r}: the lexicon lacks {word!r}; add a line for it"
                )
        if math.prod(map(len, ways)) > MOST_SPELLINGS:
            raise ValueError(
                f"hotword {phrase!r}: the lexicon spells it in more than {MOST_SPELLINGS} ways"
            )
        for way in itertools.product(*ways):
            # Of phrases that sound alike the largest boost counts.
            sound = " ".join(way)
            spelled[sound] = max(boost, spelled.get(sound, boost))
    return spelled


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
