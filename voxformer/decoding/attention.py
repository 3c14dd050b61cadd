"""Autoregressive decoding with an attention decoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .hypothesis import Hypothesis, from_raw
from .options import AttentionOptions
from .vocabulary import load_tokens, with_spaces

IdArray: TypeAlias = npt.NDArray[np.int64]
StepFunction: TypeAlias = Callable[[IdArray, IdArray, IdArray, int], npt.ArrayLike]


class AttentionBeamSearch:
    """Beam search of one utterance; whoever drives it owns the decoder and its caches.

    Each step keeps the `beam_size` best continuations of the active hypotheses, by the sum of ln p
    after penalties plus length bonuses. Those that take `</s>` are finished and leave the beam. The
    search is done when no active hypothesis can come before the worst of the finished n-best, even
    if all that follows were certain. Not for several threads at once.

    Args:
        sos_eos_id: the id that opens a sentence and, predicted, ends it.
        blank_id: the CTC blank, never predicted.
        options: the search; the defaults of `AttentionOptions` where None.
        max_tokens: no hypothesis gets more tokens. One that has as many is closed with `</s>`, and
            is `truncated` unless `</s>` was its most probable continuation.

    Raises:
        ValueError: an id or max_tokens is negative, or the two ids are the same.
    """

    def __init__(
        self,
        sos_eos_id: int,
        blank_id: int,
        options: AttentionOptions | None = None,
        max_tokens: int = 200,
    ) -> None:
        self.options = options if options is not None else AttentionOptions()
        self._search = _core.AttentionBeamSearch(
            sos_eos_id, blank_id, self.options.to_core(), max_tokens
        )

    @property
    def tokens(self) -> IdArray:
        """int64 [active]: each active hypothesis' last token, at first `[sos_eos_id]`."""
        return self._search.tokens

    @property
    def done(self) -> bool:
        """Whether no hypothesis is active."""
        return self._search.done

    def advance(self, log_probs: npt.ArrayLike) -> IdArray:
        """Go on by one token.

        Args:
            log_probs: float32 [active, vocab], ln p of each active hypothesis' next token.

        Returns:
            int64 [active now]: for each hypothesis that is active now, the row that it continues,
            by which the caller reorders its caches.

        Raises:
            ValueError: the search is done, a shape does not fit, or a value is NaN or +inf; the
                message names hypothesis and position.
        """
        return self._search.advance(np.ascontiguousarray(log_probs, dtype=np.float32))

    def finish(
        self, tokens: Sequence[str] | str | os.PathLike[str] | None = None
    ) -> list[Hypothesis]:
        """The n-best finished hypotheses, best first.

        If none has finished, because the model never allowed `</s>` or because the caller stops
        early, these are the active ones, `truncated` and with no `</s>` in their scores.

        Args:
            tokens: the vocabulary by token id, the path of a `tokens.txt`, or None for ids only.
        """
        pieces = with_spaces(load_tokens(tokens))
        return [from_raw(raw, pieces) for raw in self._search.finish()]


def attention_decode(
    step: StepFunction,
    searches: Sequence[AttentionBeamSearch],
    tokens: Sequence[str] | str | os.PathLike[str] | None = None,
) -> list[list[Hypothesis]]:
    """Drive the searches of several utterances with one batched decoder until all are done.

    Args:
        step: called as `step(tokens, parents, utterance, position)` and returns float32
            [rows, vocab], ln p of each row's next token. `tokens` int64 [rows] is what the decoder
            reads; `parents` int64 [rows] is the row of the previous call that each row continues
            (at the first call, its own number), by which caches are gathered; `utterance` int64
            [rows] is each row's place in `searches`; `position` counts calls from 0 and is the
            number of tokens that every row has. Rows of an utterance are together and in its
            search's order; utterances that are done have none.
        searches: one for each utterance, as made.
        tokens: the vocabulary by token id, the path of a `tokens.txt`, or None for ids only.

    Returns:
        What `finish` returns for every search.

    Raises:
        ValueError: `step` returned a shape that does not fit, NaN or +inf.
    """
    vocabulary = load_tokens(tokens)
    active = [i for i, search in enumerate(searches) if not search.done]
    parents = np.arange(sum(len(searches[i].tokens) for i in active), dtype=np.int64)
    position = 0
    while active:
        rows = [len(searches[i].tokens) for i in active]
        log_probs = np.asarray(
            step(
                np.concatenate([searches[i].tokens for i in active]),
                parents,
                np.repeat(np.asarray(active, dtype=np.int64), rows),
                position,
            ),
            dtype=np.float32,
        )
        if log_probs.ndim != 2 or len(log_probs) != sum(rows):
            raise ValueError(
                f"step returned shape {log_probs.shape} for {sum(rows)} rows; expected "
                f"[rows, vocab]"
            )
        first = 0
        gathered = []
        for i, count in zip(active, rows, strict=True):
            try:
                gathered.append(first + searches[i].advance(log_probs[first : first + count]))
            except ValueError as error:
                raise ValueError(f"utterance {i}: {error}") from error
            first += count
        parents = np.concatenate(gathered)
        active = [i for i in active if not searches[i].done]
        position += 1
    return [search.finish(vocabulary) for search in searches]
