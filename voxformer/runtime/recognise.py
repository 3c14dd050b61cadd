"""Waveforms to n-best hypotheses in any mode, over any engine.

The encoder pass is a step of its own (`encode`), so that several modes can share it; the n-best of
the CTC search (`decode` in mode `ctc_beam`) is what `rescoring` starts from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from voxformer.decoding import (
    AttentionBeamSearch,
    CtcBeamDecoder,
    Hypothesis,
    Lexicon,
    NgramLanguageModel,
    attention_decode,
    ctc_greedy,
    ctc_greedy_top_k,
)
from voxformer.runtime.bundle import MANIFEST_NAME
from voxformer.runtime.engine import Encoded, Engine, FloatArray, IntArray, TopTokens
from voxformer.runtime.options import (
    MODES,
    DecodingOptions,
    Mode,
    ModeError,
    SearchSetupError,
    Vocabulary,
)

NBest = list[list[Hypothesis]]

WINDOW_MS = 25

RESCORED_AT_ONCE = 1 << 23
"""Weights of one head in rescoring, of all lanes: utterances, hypotheses, tokens and frames
multiplied. All heads of a layer are in memory together, some times over: one piece of 30 s with 50
hypotheses of letters has about as many, and eight of them took 2.7 GB."""


def recognise_batch(
    engine: Engine,
    waveforms: FloatArray,
    lengths: IntArray,
    mode: Mode,
    options: DecodingOptions,
    vocabulary: Vocabulary,
) -> NBest:
    """Recognise a padded batch.

    Args:
        engine: runs the model.
        waveforms: float32 [batch, samples] in [-1, 1], at the engine's sample rate.
        lengths: int64 [batch], valid samples.
        mode: `ctc_greedy`, `ctc_beam`, `attention` or `rescoring`.
        options: of the searches.
        vocabulary: of the model.

    Returns:
        For each utterance its hypotheses, best first: one for `ctc_greedy`, up to `options.n_best`
        otherwise. Audio shorter than 25 ms gives one empty hypothesis.

    Raises:
        ValueError: an unknown mode, or options that contradict each other.
    """
    encoded = encode(engine, waveforms, lengths)
    durations = lengths / engine.sample_rate
    return decode(engine, encoded, durations.tolist(), mode, options, vocabulary)


def encode(engine: Engine, waveforms: FloatArray, lengths: IntArray) -> Encoded:
    """The encoder pass; waveforms shorter than one window (25 ms) are padded with zeros to one."""
    window = engine.sample_rate * WINDOW_MS // 1000
    missing = window - waveforms.shape[1]
    if missing > 0:
        waveforms = np.pad(waveforms, ((0, 0), (0, missing)))
    return engine.encode(waveforms, lengths)


def decode(
    engine: Engine,
    encoded: Encoded,
    durations: Sequence[float],
    mode: Mode,
    options: DecodingOptions,
    vocabulary: Vocabulary,
    first_pass: NBest | None = None,
) -> NBest:
    """Search an encoded batch; arguments and result as in `recognise_batch`.

    Args:
        engine: what encoded the batch.
        encoded: from `encode`.
        durations: seconds of audio of each utterance, for the length cap of `attention`.
        mode: see `recognise_batch`.
        options: see `recognise_batch`.
        vocabulary: see `recognise_batch`.
        first_pass: result of mode `ctc_beam` with the same options, if at hand, for `rescoring`.
    """
    if mode == "ctc_greedy":
        return _read([[best] for best in _greedy(encoded, vocabulary)], options, vocabulary)
    if mode == "ctc_beam":
        return _beam(_ctc_decoder(options, vocabulary), encoded, vocabulary)
    if mode == "rescoring":
        if first_pass is None:
            first_pass = decode(engine, encoded, durations, "ctc_beam", options, vocabulary)
        return _rescore(engine, encoded, first_pass, options, vocabulary)
    if mode == "attention":
        found = _attention(engine, encoded, durations, options, vocabulary)
        return _read(found, options, vocabulary)
    raise ModeError(f"unknown decoding mode {mode!r}; there are {', '.join(MODES)}")


def length_cap(frames: int, duration: float, max_tokens_per_second: float | None) -> int:
    """Most tokens that an attention hypothesis may have, at least 1.

    One per encoder frame is what CTC could write at best; `max_tokens_per_second` (from the
    training data) is usually tighter. A decoder that loops stops here.
    """
    cap = frames
    if max_tokens_per_second is not None:
        cap = min(cap, math.ceil(max_tokens_per_second * duration))
    return max(cap, 1)


def pad_batch(waveforms: Sequence[FloatArray]) -> tuple[FloatArray, IntArray]:
    """Waveforms of any lengths as one batch: float32 [batch, longest] and lengths int64 [batch]."""
    lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
    batch = np.zeros((len(waveforms), int(lengths.max(initial=0))), dtype=np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths


def batches_by_duration(
    durations: Sequence[float],
    batch_size: int,
    batch_seconds: float | None = None,
    most_padding: float = 1.0,
) -> list[list[int]]:
    """Indices of utterances in batches of like duration, longest first.

    Args:
        durations: seconds of each utterance.
        batch_size: utterances in a batch, at most.
        batch_seconds: seconds of a batch, padding counted, at most; one utterance always fits.
        most_padding: share of a batch that may be padding.
    """
    order = sorted(range(len(durations)), key=lambda index: (-durations[index], index))
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * durations[batch[0]] if batch else 0.0
        spoken = sum(durations[i] for i in batch) + durations[index]
        full = (
            len(batch) >= batch_size
            or (batch_seconds is not None and padded > batch_seconds)
            or padded - spoken > most_padding * padded
        )
        if not batch or full:
            batches.append([index])
        else:
            batch.append(index)
    return batches


def _greedy(encoded: Encoded, vocabulary: Vocabulary) -> list[Hypothesis]:
    tokens, blank_id = vocabulary.tokens, vocabulary.blank_id
    top = encoded.ctc
    if not isinstance(top, TopTokens):
        return ctc_greedy(top, encoded.lengths, tokens, blank_id)
    return ctc_greedy_top_k(
        top.token_ids, top.log_probs, top.blank_log_probs, encoded.lengths, tokens, blank_id
    )


def _beam(decoder: CtcBeamDecoder, encoded: Encoded, vocabulary: Vocabulary) -> NBest:
    top = encoded.ctc
    if not isinstance(top, TopTokens):
        return decoder.decode(top, encoded.lengths)
    ctc_outputs = len(vocabulary.tokens) - 1  # <sos/eos> is none
    return decoder.decode_top_k(
        top.token_ids, top.log_probs, top.blank_log_probs, encoded.lengths, ctc_outputs
    )


def _read(n_best: NBest, options: DecodingOptions, vocabulary: Vocabulary) -> NBest:
    """What searches found that know nothing of a lexicon, read by it where there is one."""
    if options.lexicon is None:
        return n_best
    read = _ctc_decoder(options, vocabulary).read
    return [[read(hypothesis) for hypothesis in hypotheses] for hypotheses in n_best]


def check_search(options: DecodingOptions, vocabulary: Vocabulary) -> None:
    """Make the searches' decoder, which reads the language model and the lexicon, if there are any.

    Raises:
        SearchSetupError: a language model, a lexicon or a hotword is not usable.
        OSError: the language model or the lexicon cannot be read.
    """
    _ctc_decoder(options, vocabulary)


def _ctc_decoder(options: DecodingOptions, vocabulary: Vocabulary) -> CtcBeamDecoder:
    """The decoder, kept from one batch to the next; files that have changed are read anew.

    Raises:
        SearchSetupError: a language model, a lexicon or a hotword is not usable.
    """
    stats = [os.stat(path) for path in (options.language_model, options.lexicon) if path]
    identities = tuple((status.st_size, status.st_mtime_ns) for status in stats)
    try:
        return _make_ctc_decoder(options, vocabulary, identities)
    except ValueError as error:
        raise SearchSetupError(str(error)) from None


@lru_cache(maxsize=2)
def _make_ctc_decoder(
    options: DecodingOptions, vocabulary: Vocabulary, identities: tuple[tuple[int, int], ...]
) -> CtcBeamDecoder:
    path = options.language_model
    return CtcBeamDecoder(
        vocabulary.tokens,
        options.beam(vocabulary.blank_id),
        num_threads=options.num_threads or None,
        language_model=None if path is None else _load_language_model(path),
        hotwords=dict(options.hotwords),
        fusion=options.fusion(),
        lexicon=None if options.lexicon is None else Lexicon.load(options.lexicon),
    )


def _load_language_model(path: str) -> NgramLanguageModel:
    """A bundle's own leaves no file in the bundle, which may be read-only and is vouched for."""
    of_a_bundle = (Path(path).parent / MANIFEST_NAME).is_file()
    return NgramLanguageModel.load(path, cache=not of_a_bundle)


def _rescore(
    engine: Engine,
    encoded: Encoded,
    first_pass: NBest,
    options: DecodingOptions,
    vocabulary: Vocabulary,
) -> NBest:
    decoder = _ctc_decoder(options, vocabulary)
    rescoring = options.rescoring()
    rescored: NBest = []
    limit = RESCORED_AT_ONCE // engine.lanes
    for rows in _rescored_together(encoded.lengths, first_pass, limit):
        scores = _scores(engine, encoded, rows, first_pass[rows])
        rescored += [
            # Without a frame the decoder has heard nothing that it could have an opinion on.
            decoder.rescore(hypotheses, scores[row, : len(hypotheses)], rescoring)
            if encoded.lengths[rows][row]
            else hypotheses
            for row, hypotheses in enumerate(first_pass[rows])
        ]
    return rescored


def _rescored_together(lengths: IntArray, first_pass: NBest, limit: int) -> Iterator[slice]:
    """Neighbours whose attention weights, padding counted, keep to a limit."""
    frames = int(lengths.max(initial=1))
    first, widest = 0, 0
    for row, hypotheses in enumerate(first_pass):
        longest = max(len(hypothesis.token_ids) for hypothesis in hypotheses) + 1
        widest = max(widest, len(hypotheses) * longest)
        if row > first and (row + 1 - first) * widest * frames > limit:
            yield slice(first, row)
            first, widest = row, len(hypotheses) * longest
    yield slice(first, len(first_pass))


def _scores(engine: Engine, encoded: Encoded, rows: slice, first_pass: NBest) -> FloatArray:
    """float32 [utterances, n, longest + 1] of some utterances of a batch; see `Engine.score`."""
    most = max(len(hypotheses) for hypotheses in first_pass)
    longest = max(len(h.token_ids) for hypotheses in first_pass for h in hypotheses)
    # At least one position wide: some engines refuse empty dimensions.
    tokens = np.zeros((len(first_pass), most, max(longest, 1)), dtype=np.int64)
    token_lengths = np.zeros((len(first_pass), most), dtype=np.int64)
    for row, hypotheses in enumerate(first_pass):
        for column, hypothesis in enumerate(hypotheses):
            count = len(hypothesis.token_ids)
            tokens[row, column, :count] = hypothesis.token_ids
            token_lengths[row, column] = count
    encoder_out, lengths = encoded.encoder_out, encoded.lengths[rows]
    if len(first_pass) < len(encoded.lengths):
        encoder_out = encoder_out[rows]
    weights = tokens.shape[0] * (tokens.shape[2] + 1) * int(encoded.lengths.max(initial=1))
    together = max(1, RESCORED_AT_ONCE // engine.lanes // weights)
    parts = [
        engine.score(
            encoder_out,
            lengths,
            tokens[:, first : first + together],
            token_lengths[:, first : first + together],
        )
        for first in range(0, most, together)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _attention(
    engine: Engine,
    encoded: Encoded,
    durations: Sequence[float],
    options: DecodingOptions,
    vocabulary: Vocabulary,
) -> NBest:
    search_options = options.attention()
    heard = np.flatnonzero(encoded.lengths).astype(np.int64)
    searches = [
        AttentionBeamSearch(
            vocabulary.sos_eos_id,
            vocabulary.blank_id,
            search_options,
            length_cap(int(encoded.lengths[row]), durations[row], options.max_tokens_per_second),
        )
        for row in heard.tolist()
    ]
    session = engine.start(encoded)

    def step(tokens: IntArray, parents: IntArray, search: IntArray, position: int) -> FloatArray:
        return session.step(heard[search], parents, tokens)

    results: NBest = [[Hypothesis((), "", score=0.0, confidence=1.0)] for _ in encoded.lengths]
    for row, hypotheses in zip(
        heard, attention_decode(step, searches, vocabulary.tokens), strict=True
    ):
        results[row] = hypotheses
    return results
