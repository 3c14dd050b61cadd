"""CTC decoding: greedy, prefix beam search, and rescoring of its n-best."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .. import _core
from .hypothesis import Hypothesis, from_raw
from .options import BeamOptions, RescoringOptions
from .vocabulary import load_tokens, text_of


class CtcBeamDecoder:
    """Prefix beam search over CTC log-probs, and attention rescoring of what it finds.

    The search sums over alignments (Graves et al. 2006, section 3.2; Hannun et al. 2014,
    algorithm 1) in double precision and over the full vocabulary. It returns what a search without
    any pruning but `beam_size` returns. A decoder holds no state between calls and may be used from
    several threads.

    Args:
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None to decode to ids.
        options: the search; the defaults of `BeamOptions` where None.
        num_threads: utterances decoded at once; the cores this process may use where None.

    Raises:
        ValueError: num_threads is below 1, or `tokens.txt` has an empty line.
    """

    def __init__(
        self,
        tokens: Sequence[str] | str | os.PathLike[str] | None = None,
        options: BeamOptions | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.tokens = load_tokens(tokens)
        self.options = options if options is not None else BeamOptions()
        if num_threads is None:
            num_threads = available_cores()
        if num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be at least 1")
        self.num_threads = num_threads
        self._core_options = self.options.to_core()

    def decode(
        self, log_probs: npt.ArrayLike, lengths: npt.ArrayLike | None = None
    ) -> list[list[Hypothesis]]:
        """The n-best hypotheses of every utterance of a batch, best first.

        Args:
            log_probs: float32 [batch, time, vocab], natural logarithms; -inf is a probability of
                zero. Other number types and layouts are converted.
            lengths: int64 [batch], frames of each utterance; None for all `time` frames. What lies
                beyond is not read.

        Returns:
            For every utterance up to `n_best` hypotheses: fewer where fewer prefixes are possible,
            one empty hypothesis with score 0.0 for length 0, and one with score -inf where the
            log-probs allow no alignment at all.

        Raises:
            ValueError: a shape does not fit, a length is out of range, `blank_id` is not in the
                vocabulary, or a value is NaN or +inf; the message names utterance and frame.
        """
        batch, frames = check_batch(log_probs, lengths)
        check_vocabulary(self.tokens, batch.shape[2])
        results = _core.decode(batch, frames, self._core_options, self.num_threads)
        return [[from_raw(raw, self.tokens) for raw in hypotheses] for hypotheses in results]

    def stream(self) -> CtcStream:
        """A search of one utterance whose log-probs come in chunks, with this decoder's options."""
        return CtcStream(self.tokens, self.options)

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
                penalty are those of the decoder's own options, and the rest is off.
            ctc_weight, lm_weight, length_bonus, length_penalty, repetition_penalty: replace the
                field of this name in `options`.

        Raises:
            ValueError: a shape does not fit, an option is out of range, a value is NaN or +inf (the
                message names hypothesis and position), or a hypothesis has no `ctc_score` and
                ctc_weight is not 0.
        """
        if options is None:
            options = RescoringOptions(
                length_bonus=self.options.length_bonus, length_penalty=self.options.length_penalty
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
            np.ascontiguousarray(token_log_probs, dtype=np.float32),
            options.to_core(),
        )
        return [
            replace(hypotheses[i], attention_score=attention_scores[i], score=scores[i])
            for i in order
        ]


class CtcStream:
    """Prefix beam search of one utterance whose log-probs come in chunks.

    Whatever the chunks, `partial` returns what `CtcBeamDecoder.decode` returns for all frames so
    far. The frames are kept for the times of the tokens, 4 bytes a token of the vocabulary each:
    12 MB a minute at 25 frames/s and 2,000 tokens.

    Args:
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None to decode to ids.
        options: the search; the defaults of `BeamOptions` where None.
    """

    def __init__(
        self,
        tokens: Sequence[str] | str | os.PathLike[str] | None = None,
        options: BeamOptions | None = None,
    ) -> None:
        self.tokens = load_tokens(tokens)
        self.options = options if options is not None else BeamOptions()
        self.finished = False
        self._stream = _core.CtcStream(self.options.to_core())

    def feed(self, log_probs: npt.ArrayLike) -> None:
        """Go on by some frames.

        Args:
            log_probs: float32 [time, vocab], natural logarithms; time may be 0.

        Raises:
            ValueError: the shape does not fit, `blank_id` is not in the vocabulary, a value is NaN
                or +inf (the message names the frame, counted from the start of the stream), or the
                stream is finished. None of the frames is taken then.
        """
        if self.finished:
            raise ValueError("the stream is finished; make another for the next utterance")
        chunk = np.ascontiguousarray(log_probs, dtype=np.float32)
        if chunk.ndim != 2:
            raise ValueError(f"log_probs has shape {chunk.shape}; expected [time, vocab]")
        check_vocabulary(self.tokens, chunk.shape[1])
        self._stream.feed(chunk)

    def partial(self) -> list[Hypothesis]:
        """The n-best hypotheses of the frames so far, best first."""
        return [from_raw(raw, self.tokens) for raw in self._stream.partial()]

    def finish(self) -> list[Hypothesis]:
        """The same as `partial`; no more frames may follow."""
        self.finished = True
        return self.partial()


def ctc_greedy(
    log_probs: npt.ArrayLike,
    lengths: npt.ArrayLike | None = None,
    tokens: Sequence[str] | str | os.PathLike[str] | None = None,
    blank_id: int = 0,
) -> list[Hypothesis]:
    """The most probable token of every frame, repeats merged and blanks taken out.

    This is best-path decoding (Graves et al. 2006, section 3.2): the tokens of the best single
    alignment, which need not be the most probable tokens.

    Args:
        log_probs: float32 [batch, time, vocab], natural logarithms.
        lengths: int64 [batch], frames of each utterance; None for all `time` frames.
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None for ids only.
        blank_id: column of the blank.

    Returns:
        One hypothesis per utterance. `ctc_score` and `score` are ln p of the best path; among
        equally probable tokens of a frame the lowest id counts.

    Raises:
        ValueError: as `CtcBeamDecoder.decode`.
    """
    batch, frames = check_batch(log_probs, lengths)
    vocabulary = load_tokens(tokens)
    check_vocabulary(vocabulary, batch.shape[2])
    num_utterances, num_frames, vocab = batch.shape
    if num_utterances and not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id is {blank_id}, but log_probs has tokens 0 to {vocab - 1}")
    if len(frames) == 0:
        frames = np.full(num_utterances, num_frames, dtype=np.int64)
    hypotheses = []
    for i in range(num_utterances):
        if not 0 <= frames[i] <= num_frames:
            raise ValueError(
                f"utterance {i}: its length is {frames[i]}, but log_probs has {num_frames} frames"
            )
        utterance = batch[i, : frames[i]]
        check_values(utterance, i)
        hypotheses.append(_best_path(utterance, blank_id, vocabulary))
    return hypotheses


def ctc_align(log_probs: npt.ArrayLike, hypothesis: Hypothesis, blank_id: int = 0) -> Hypothesis:
    """The hypothesis with frames and confidences from its best alignment to CTC log-probs.

    For hypotheses that did not come from a CTC search; the others have them. The alignment is the
    most probable path that reads as the hypothesis (Viterbi in the lattice of Graves et al. 2006,
    figure 3).

    Args:
        log_probs: float32 [time, vocab] of one utterance, natural logarithms.
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
    raw = _core.align(
        np.ascontiguousarray(log_probs, dtype=np.float32), hypothesis.token_ids, blank_id
    )
    aligned = from_raw(raw, None)
    return replace(
        hypothesis,
        timesteps=aligned.timesteps,
        token_starts=aligned.token_starts,
        token_ends=aligned.token_ends,
        token_confidences=aligned.token_confidences,
        confidence=aligned.confidence,
    )


def _best_path(
    log_probs: npt.NDArray[np.float32], blank_id: int, tokens: Sequence[str] | None
) -> Hypothesis:
    if len(log_probs) == 0:
        return Hypothesis((), "", score=0.0, ctc_score=0.0, confidence=1.0)
    path = log_probs.argmax(axis=1)
    path_log_probs = log_probs.max(axis=1).astype(np.float64)
    score = float(path_log_probs.sum())

    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    spoken = path[starts] != blank_id
    token_ids = tuple(int(i) for i in path[starts[spoken]])
    # A token's run of frames peaks where it is most probable; argmax takes the first of equals.
    timesteps = tuple(
        int(start + path_log_probs[start:end].argmax())
        for start, end in zip(starts[spoken], ends[spoken], strict=True)
    )
    peaks = np.minimum(path_log_probs[list(timesteps)] if timesteps else path_log_probs, 0.0)
    return Hypothesis(
        token_ids,
        "" if tokens is None else text_of(token_ids, tokens),
        score=score,
        ctc_score=score,
        timesteps=timesteps,
        token_starts=tuple(int(start) for start in starts[spoken]),
        token_ends=tuple(int(end) for end in ends[spoken]),
        token_confidences=tuple(float(p) for p in np.exp(peaks)) if timesteps else (),
        confidence=float(np.exp(peaks.mean())),
    )


def check_batch(
    log_probs: npt.ArrayLike, lengths: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """`log_probs` as C-contiguous float32 and `lengths` as int64, empty for None.

    Raises:
        ValueError: a number of dimensions, a type or the number of lengths does not fit.
    """
    batch = np.ascontiguousarray(log_probs, dtype=np.float32)
    if batch.ndim != 3:
        raise ValueError(f"log_probs has shape {batch.shape}; expected [batch, time, vocab]")
    if lengths is None:
        return batch, np.empty(0, dtype=np.int64)
    frames = np.asarray(lengths)
    if frames.shape != batch.shape[:1]:
        raise ValueError(
            f"lengths has shape {frames.shape}; expected [{len(batch)}], one for each utterance"
        )
    if frames.dtype.kind not in "iu" and frames.size > 0:
        raise ValueError(f"lengths has type {frames.dtype}; expected whole numbers of frames")
    return batch, np.ascontiguousarray(frames, dtype=np.int64)


def check_vocabulary(tokens: Sequence[str] | None, vocab: int) -> None:
    """Raise ValueError unless every column of the log-probs has a token."""
    if tokens is not None and len(tokens) < vocab:
        raise ValueError(
            f"log_probs has {vocab} columns, but there are only {len(tokens)} tokens; the model "
            f"and the vocabulary do not belong together"
        )


def check_values(log_probs: npt.NDArray[np.float32], utterance: int) -> None:
    """Raise ValueError, naming the frame, if a value of [time, vocab] is NaN or +inf."""
    bad = np.isnan(log_probs) | np.isposinf(log_probs)
    if bad.any():
        frame, token = np.argwhere(bad)[0]
        what = "NaN" if np.isnan(log_probs[frame, token]) else "+inf"
        raise ValueError(
            f"utterance {utterance}, frame {frame}: log_probs is {what} for token {token}; natural "
            f"logarithms of probabilities are expected"
        )


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
