"""The gate: graphs that are not the model are not written (invariant 5).

Numbers are compared on batches of several uneven utterances, on shapes far from the traced one, and
step by step; if there is speech, what counts is compared as well: the word error rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxformer.data import Utterance
from voxformer.evaluation import Evaluation, evaluate
from voxformer.runtime import DecodingOptions, Mode, TopTokens, Vocabulary, encode
from voxformer.runtime.engine import Encoded, Engine, FloatArray, IntArray
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.torch_engine import TorchEngine

from .errors import ExportRefused
from .precision import LIMITS, Limits

WER_MODES: tuple[Mode, ...] = ("ctc_greedy", "rescoring")

OUTPUTS = ("log_probs", "token_log_probs", "step_log_probs")
"""What is compared: of encoder.onnx, decoder.onnx and decoder_step.onnx."""

STEPS = 6

FAINT = -10.0
"""A log-prob from which on its difference is compared with its size."""


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


@dataclass(frozen=True)
class Numbers:
    """How far the exported graphs are from the model.

    Attributes:
        differences: by case and output, in nats; infinite where a graph could not be compared.
        failure: what is wrong with the first case that is out of its limits, or None.
        failed: that case and output.
    """

    differences: Mapping[str, Mapping[str, float]]
    failure: str | None = None
    failed: tuple[Case, str] | None = None

    def to_json(self, limits: Limits, sample_rate: int) -> dict[str, Any]:
        """For bundle.json: limits, every case with its lengths, the largest difference of each."""
        lengths = {case.name: list(case.lengths) for case in cases(sample_rate)}
        worst = {
            output: max((found.get(output, 0.0) for found in self.differences.values()), default=0)
            for output in OUTPUTS
        }
        return {
            "tolerance": limits.difference,
            "least_probability": limits.least_probability,
            "cases": {
                name: {"samples": lengths[name], **found}
                for name, found in self.differences.items()
            },
            "max_abs_difference": worst,
        }


def compare_numbers(
    reference: TorchEngine, exported: OnnxEngine, limits: Limits = LIMITS["fp32"], seed: int = 1
) -> Numbers:
    """Compare both engines on every case, up to the first that is out of its limits.

    Args:
        reference: the trained model.
        exported: its graphs.
        limits: of their precision.
        seed: of the waveforms and hypotheses.
    """
    differences: dict[str, dict[str, float]] = {}
    for number, case in enumerate(cases(reference.sample_rate)):
        try:
            found = case_differences(reference, exported, case, number, limits, seed)
        except ExportRefused as error:
            return Numbers(differences, f"case {case.name!r}: {error}", (case, OUTPUTS[0]))
        except Exception as error:
            # A constant where an axis should be shows as an error of ONNX Runtime's own kind.
            reason = str(error).strip().splitlines()[0]
            failure = f"case {case.name!r}: the graphs cannot run: {reason}"
            return Numbers(differences, failure, None)
        differences[case.name] = found
        for output, difference in found.items():
            # NaN is a difference, too.
            if not difference <= limits.difference:
                failure = (
                    f"case {case.name!r}: {output} differ from the model's by {difference:.2g}, "
                    f"at most {limits.difference:g} is allowed"
                )
                return Numbers(differences, failure, (case, output))
    return Numbers(differences)


def case_differences(
    reference: Engine,
    exported: Engine,
    case: Case,
    number: int,
    limits: Limits,
    seed: int = 1,
) -> dict[str, float]:
    """The largest difference of each output in one case.

    Raises:
        ExportRefused: lengths or shapes differ.
    """
    random = np.random.default_rng([seed, number])
    waveforms = _waveforms(case, reference.sample_rate, random)
    lengths = np.array(case.lengths, dtype=np.int64)
    expected = encode(reference, waveforms, lengths)
    found = encode(exported, waveforms, lengths)
    if not np.array_equal(expected.lengths, found.lengths):
        raise ExportRefused(
            f"encoder lengths are {found.lengths.tolist()}, the model's {expected.lengths.tolist()}"
        )
    decoders = _decoder_outputs(reference, exported, expected, found, case, random)
    if isinstance(found.ctc, TopTokens):
        log_probs = _top_difference(expected.log_probs, found.ctc, limits)
    else:
        log_probs = _difference(expected.log_probs, found.ctc, limits)
    differences = {name: _difference(*both, limits) for name, both in decoders.items()}
    return {"log_probs": log_probs, **differences}


def check_numbers(
    reference: TorchEngine, exported: OnnxEngine, limits: Limits = LIMITS["fp32"]
) -> dict[str, Any]:
    """`compare_numbers`, for bundle.json.

    Raises:
        ExportRefused: a case is out of its limits.
    """
    numbers = compare_numbers(reference, exported, limits)
    if numbers.failure is not None:
        raise ExportRefused(f"{numbers.failure}; the export is wrong, nothing was written")
    return numbers.to_json(limits, reference.sample_rate)


def recognise(
    engine: Engine,
    vocabulary: Vocabulary,
    utterances: Sequence[Utterance],
    options: DecodingOptions,
    trained: Sequence[Mode],
) -> Evaluation:
    """What an engine makes of speech, in `WER_MODES` as far as they are trained."""
    modes = [mode for mode in WER_MODES if mode in trained]
    return evaluate(engine, vocabulary, utterances, modes, options)


def compare_wer(
    expected: Evaluation, found: Evaluation, limits: Limits = LIMITS["fp32"]
) -> tuple[dict[str, Any], str | None]:
    """Compare word error rates of the model and of its graphs on the same speech.

    Returns:
        Both error rates of each mode for bundle.json, and what is wrong: a mode whose rates differ
        by more than the limit and by more than one word.
    """
    rates: dict[str, Any] = {}
    failure = None
    for mode, left in expected.modes.items():
        right = found.modes[mode]
        apart = abs(left.wer - right.wer) > limits.wer
        if apart and abs(left.words.errors - right.words.errors) > 1:
            failure = (
                f"{mode}: WER of the exported graphs is {right.wer:.2%}, the model's "
                f"{left.wer:.2%} on {len(left.utterances)} utterances"
            )
        rates[mode] = {"torch": left.wer, "onnxruntime": right.wer}
    return rates, failure


def _decoder_outputs(
    reference: Engine,
    exported: Engine,
    expected: Encoded,
    found: Encoded,
    case: Case,
    random: np.random.Generator,
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Rescoring in one pass and autoregressive steps, each engine on its own encoder output."""
    batch = len(case.lengths)
    pieces = expected.log_probs.shape[2] - 1
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
    fed[0] = pieces + 1  # <sos/eos>
    stepped = [
        _steps(engine, encoded, utterances, parents, fed)
        for engine, encoded in ((reference, expected), (exported, found))
    ]
    return {
        "token_log_probs": (scores[0], scores[1]),
        "step_log_probs": (stepped[0], stepped[1]),
    }


def _steps(
    engine: Engine, encoded: Encoded, utterances: IntArray, parents: IntArray, fed: IntArray
) -> FloatArray:
    session = engine.start(encoded)
    return np.stack([session.step(utterances, parents, tokens) for tokens in fed])


def _difference(expected: FloatArray, found: FloatArray, limits: Limits) -> float:
    """The largest, of what is likely enough for one of them; NaN where one is.

    The rounding of a log-prob is relative to the logits that it is made from, and a model that was
    trained without a normalised output (CTC-CRF) has large ones: below `FAINT` a difference counts
    by as much less as the log-prob is larger.
    """
    if expected.shape != found.shape:
        raise ExportRefused(f"an output has shape {found.shape}, the model's has {expected.shape}")
    differences = np.abs(expected - found) / np.maximum(1.0, expected / FAINT)
    if limits.least_probability > 0.0:
        least = np.log(limits.least_probability)
        differences[(expected < least) & (found < least)] = 0.0
    return float(differences.max(initial=0.0))


def _top_difference(expected: FloatArray, found: TopTokens, limits: Limits) -> float:
    """As `_difference`, of the best tokens of each frame; infinite where these cannot be they.

    Tokens that are equally good, to the tolerance, may stand for one another: what counts is how
    much better than the worst token of a frame one is that was left out.
    """
    batch, frames, outputs = expected.shape
    k = found.token_ids.shape[2]
    shapes = {found.token_ids.shape, found.log_probs.shape, (*found.blank_log_probs.shape, k)}
    if shapes != {(batch, frames, k)}:
        raise ExportRefused(
            f"the best tokens have shape {found.token_ids.shape}, the model's log_probs "
            f"{expected.shape}"
        )
    ids = found.token_ids.astype(np.int64)
    ordered = np.sort(ids, axis=2)
    if ids.size == 0:
        return 0.0
    if ordered.min() < 0 or ordered.max() >= outputs or (np.diff(ordered, axis=2) == 0).any():
        return float("inf")
    chosen = np.take_along_axis(expected, ids, axis=2)
    best = -np.sort(-expected, axis=2)[:, :, :k]
    return float(
        np.max(
            [
                _difference(chosen, found.log_probs, limits),
                # Two tokens change places when each is off by half of what lies between them.
                _difference(best, -np.sort(-chosen, axis=2), limits) / 2,
                _difference(expected[:, :, 0], found.blank_log_probs, limits),
            ]
        )
    )


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
