"""The gate: graphs that are not the model are not written (invariant 5).

Numbers are compared on batches of several uneven utterances, on shapes far from the traced one, and
step by step; if there is speech, what counts is compared as well: the word error rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxformer.data import Utterance
from voxformer.evaluation import Evaluation, evaluate
from voxformer.runtime import DecodingOptions, Mode, Vocabulary, encode
from voxformer.runtime.engine import Encoded, Engine, FloatArray, IntArray
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.torch_engine import TorchEngine

from .errors import ExportRefused

TOLERANCE = 1e-3
"""Largest difference of a log-prob, in nats, for fp32."""

WER_TOLERANCE = 0.001
"""Largest difference of WER (a fraction: 0.1 points), unless it is one word."""

WER_MODES: tuple[Mode, ...] = ("ctc_greedy", "rescoring")

STEPS = 6


@dataclass(frozen=True)
class Case:
    """A batch to compare: valid samples of each utterance; the batch is padded to the longest."""

    name: str
    lengths: tuple[int, ...]
    n_best: int
    tokens: int


def cases(sample_rate: int) -> list[Case]:
    """Shapes other than the traced one: one, many, shortest, odd and long."""
    window = sample_rate * 25 // 1000
    second = sample_rate
    return [
        Case("uneven", (3 * second + 17, second, 2 * second + 4001, window + 1), 4, 7),
        Case("one", (second + 333,), 1, 1),
        Case("shortest", (window,), 2, 3),
        Case("with an empty one", (window + 961, 0, window // 2), 3, 2),
        Case("odd", (second * 5 // 3, second // 3, second * 7 // 9), 5, 11),
        Case("long", (16 * second + 1, 9 * second), 2, 40),
    ]


def check_numbers(reference: TorchEngine, exported: OnnxEngine, seed: int = 1) -> dict[str, Any]:
    """Compare both engines on every case.

    Args:
        reference: the trained model.
        exported: its graphs.
        seed: of the waveforms and hypotheses.

    Returns:
        For bundle.json: the tolerance, the cases, the largest difference of each output.

    Raises:
        ExportRefused: a length differs, or a log-prob differs by more than `TOLERANCE`.
    """
    worst = dict.fromkeys(("log_probs", "token_log_probs", "step_log_probs"), 0.0)
    tried = cases(reference.sample_rate)
    for number, case in enumerate(tried):
        random = np.random.default_rng([seed, number])
        waveforms = _waveforms(case, reference.sample_rate, random)
        lengths = np.array(case.lengths, dtype=np.int64)
        expected = encode(reference, waveforms, lengths)
        try:
            found = encode(exported, waveforms, lengths)
            if not np.array_equal(expected.lengths, found.lengths):
                raise ExportRefused(
                    f"case {case.name!r}: encoder lengths are {found.lengths.tolist()}, "
                    f"the model's {expected.lengths.tolist()}"
                )
            differences = {
                "log_probs": _difference(expected.log_probs, found.log_probs),
                **_decoder_differences(reference, exported, expected, found, case, random),
            }
        except ExportRefused:
            raise
        except Exception as error:
            # A constant where an axis should be shows as an error of ONNX Runtime's own kind.
            reason = str(error).strip().splitlines()[0]
            raise ExportRefused(f"case {case.name!r}: the graphs cannot run: {reason}") from error
        for output, difference in differences.items():
            # NaN is a difference, too.
            if not difference <= TOLERANCE:
                raise ExportRefused(
                    f"case {case.name!r}: {output} differ from the model's by {difference:.2g}, "
                    f"at most {TOLERANCE:g} is allowed; the export is wrong, nothing was written"
                )
            worst[output] = max(worst[output], difference)
    return {
        "tolerance": TOLERANCE,
        "cases": {case.name: list(case.lengths) for case in tried},
        "max_abs_difference": worst,
    }


def check_wer(
    reference: Engine,
    exported: Engine,
    vocabulary: Vocabulary,
    utterances: Sequence[Utterance],
    options: DecodingOptions,
    trained: Sequence[Mode],
) -> tuple[Evaluation, dict[str, Any]]:
    """Compare word error rates on speech, in `WER_MODES` as far as they are trained.

    Returns:
        The exported graphs' evaluation, and both error rates of each mode for bundle.json.

    Raises:
        ExportRefused: they differ by more than `WER_TOLERANCE` and by more than one word.
    """
    modes = [mode for mode in WER_MODES if mode in trained]
    expected = evaluate(reference, vocabulary, utterances, modes, options)
    found = evaluate(exported, vocabulary, utterances, modes, options)
    rates: dict[str, Any] = {}
    for mode in modes:
        left, right = expected.modes[mode], found.modes[mode]
        apart = abs(left.wer - right.wer) > WER_TOLERANCE
        if apart and abs(left.words.errors - right.words.errors) > 1:
            raise ExportRefused(
                f"{mode}: WER of the exported graphs is {right.wer:.2%}, the model's "
                f"{left.wer:.2%} on {len(utterances)} utterances; nothing was written"
            )
        rates[mode] = {"torch": left.wer, "onnxruntime": right.wer}
    return found, rates


def _decoder_differences(
    reference: TorchEngine,
    exported: OnnxEngine,
    expected: Encoded,
    found: Encoded,
    case: Case,
    random: np.random.Generator,
) -> dict[str, float]:
    """Rescoring in one pass and autoregressive steps, each engine on its own encoder output."""
    batch = len(case.lengths)
    pieces = reference.model.config.vocab_size
    tokens = random.integers(1, pieces + 1, size=(batch, case.n_best, case.tokens))
    token_lengths = random.integers(0, case.tokens + 1, size=(batch, case.n_best))
    token_lengths[0, 0] = case.tokens
    scores = [
        engine.score(encoded.encoder_out, encoded.lengths, tokens, token_lengths)
        for engine, encoded in ((reference, expected), (exported, found))
    ]
    utterances = np.repeat(np.arange(batch), 2)
    parents = random.permutation(2 * batch)
    # Rows change places within an utterance only, as in a search.
    parents = parents[np.argsort(utterances[parents], kind="stable")]
    fed = random.integers(1, pieces + 1, size=(STEPS, 2 * batch))
    fed[0] = reference.model.sos_eos_id
    stepped = [
        _steps(engine, encoded, utterances, parents, fed)
        for engine, encoded in ((reference, expected), (exported, found))
    ]
    return {
        "token_log_probs": _difference(*scores),
        "step_log_probs": _difference(*stepped),
    }


def _steps(
    engine: Engine, encoded: Encoded, utterances: IntArray, parents: IntArray, fed: IntArray
) -> FloatArray:
    session = engine.start(encoded)
    return np.stack([session.step(utterances, parents, tokens) for tokens in fed])


def _difference(expected: FloatArray, found: FloatArray) -> float:
    if expected.shape != found.shape:
        raise ExportRefused(f"an output has shape {found.shape}, the model's has {expected.shape}")
    return float(np.abs(expected - found).max(initial=0.0))


def _waveforms(case: Case, sample_rate: int, random: np.random.Generator) -> FloatArray:
    """Tones in noise, and louder noise where a graph that ignores lengths would listen."""
    longest = max(case.lengths)
    time = np.arange(longest) / sample_rate
    batch = np.empty((len(case.lengths), longest), dtype=np.float32)
    for row, length in zip(batch, case.lengths, strict=True):
        pitch = random.uniform(80, 300)
        tone = np.sin(2 * np.pi * pitch * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 4
        row[:] = 0.3 * tone + 0.05 * random.standard_normal(longest)
        row[length:] = 0.5 * random.standard_normal(longest - length)
    return batch
