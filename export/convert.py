"""From fp32 graphs that are the model to graphs of another precision that still are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from voxformer.data import Utterance
from voxformer.evaluation import Evaluation
from voxformer.runtime.bundle import GRAPH_NAMES
from voxformer.runtime.engine import Engine
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.options import DecodingOptions, Mode, Vocabulary
from voxformer.runtime.torch_engine import TorchEngine

from .calibration import Calibration, RecordingEngine, calibrate
from .departure import Departure, first_departure
from .errors import ExportRefused
from .half import LARGEST, half_values, to_half
from .int8 import by_sensitivity, matrices, to_int8
from .parity import (
    OUTPUTS,
    Case,
    case_differences,
    cases,
    compare_numbers,
    compare_wer,
    recognise,
)
from .precision import LIMITS, Precision
from .spectrum import work_out_spectrum

KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
"""Of the matrices, those that multiply in fp32, the most sensitive first: tried in this order."""

RANKED_ON = 8
"""Inputs of a graph that its matrices are ranked by."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Judge:
    """The gate: a model, and the speech that its graphs are compared on.

    Attributes:
        reference: the trained model.
        vocabulary: of the model.
        options: of the searches.
        modes: that the model was trained for.
        utterances: to compare error rates on; none are compared without.
    """

    reference: TorchEngine
    vocabulary: Vocabulary
    options: DecodingOptions
    modes: Sequence[Mode]
    utterances: Sequence[Utterance]

    def verdict(
        self, exported: OnnxEngine, precision: Precision, earlier: Mapping[str, Any] | None = None
    ) -> Verdict:
        """What the gate has to say of exported graphs.

        Args:
            exported: the graphs.
            precision: whose limits count.
            earlier: of a verdict on graphs that these were made from; what is not measured again
                stays in the new one's `parity`.
        """
        limits = LIMITS[precision]
        numbers = compare_numbers(self.reference, exported, limits)
        parity = {**(earlier or {}), **numbers.to_json(limits, self.reference.sample_rate)}
        if numbers.failure is not None or not self.utterances:
            return Verdict(parity, None, numbers.failure, numbers.failed)
        evaluation = self._heard_by(exported)
        parity["wer"], failure = compare_wer(self._expected, evaluation, limits)
        parity["wer_tolerance"] = limits.wer
        return Verdict(parity, evaluation, failure, None)

    @cached_property
    def _expected(self) -> Evaluation:
        return self._heard_by(self.reference)

    def _heard_by(self, engine: Engine) -> Evaluation:
        return recognise(engine, self.vocabulary, self.utterances, self.options, self.modes)


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    parity: for bundle.json.
    evaluation: of the exported graphs on the judge's speech.
    failure: what is wrong, or None.
    failed: the case and the output that are.
    """

    parity: dict[str, Any]
    evaluation: Evaluation | None
    failure: str | None
    failed: tuple[Case, str] | None


class Conversions:
    """The graphs of a model in each precision that is asked for, converted and judged once.

    Args:
        graphs: a folder with the fp32 graphs, which have passed the gate.
        judge: the gate.
        room: an empty folder for the others.
        say: called with a line for each step.
        force: see `convert`.
    """

    def __init__(
        self, graphs: Path, judge: Judge, room: Path, say: Say, force: bool = False
    ) -> None:
        self.judge = judge
        self._graphs = graphs
        self._room = room
        self._say = say
        self.force = force
        self._made: dict[Precision, Verdict] = {}

    def to(self, precision: Precision) -> tuple[Path, Verdict | None]:
        """A folder with the graphs, and what the gate says of them; None of fp32.

        Raises:
            ExportRefused: see `convert`.
        """
        if precision == "fp32":
            return self._graphs, None
        folder = self._room / precision
        if precision not in self._made:
            folder.mkdir()
            for name in GRAPH_NAMES:
                shutil.copyfile(self._graphs / name, folder / name)
            self._made[precision] = convert(folder, self.judge, precision, self._say, self.force)
        return folder, self._made[precision]


def convert(
    folder: Path, judge: Judge, precision: Precision, say: Say, force: bool = False
) -> Verdict:
    """Replace the fp32 graphs of a folder, and say what the gate says of the new ones.

    int8 leaves a larger share of matrices in fp32 until the gate is content.

    Args:
        folder: with the fp32 graphs, which have passed the gate.
        judge: the gate.
        precision: `fp16` or `int8`.
        say: called with a line for each step.
        force: what the gate refuses is written, so that int8 keeps nothing in fp32.

    Raises:
        ExportRefused: int8 has no speech to be calibrated on.
    """
    with tempfile.TemporaryDirectory() as temporary:
        originals = Path(temporary)
        for name in GRAPH_NAMES:
            shutil.move(folder / name, originals / name)
        calibration = None
        if judge.utterances:
            say(f"calibrating on {len(judge.utterances)} utterances or fewer")
            calibration = calibrate(
                originals,
                judge.reference.sample_rate,
                judge.reference.frame_shift_s,
                judge.utterances,
                judge.vocabulary,
                judge.options,
                judge.modes,
            )
        if precision == "fp16":
            return _convert_fp16(originals, folder, judge, calibration, say)
        if calibration is None:
            raise ExportRefused("int8 is calibrated on real speech; name some with --manifest")
        shares = KEPT_SHARES[:1] if force else KEPT_SHARES
        return _convert_int8(originals, folder, judge, calibration, shares, say)


def _convert_fp16(
    originals: Path, folder: Path, judge: Judge, calibration: Calibration | None, say: Say
) -> Verdict:
    report: dict[str, Any] = {"largest_half": LARGEST}
    for name in GRAPH_NAMES:
        model = onnx.load(originals / name)
        converted = to_half(model)
        _save(converted, folder / name)
        if calibration is not None and calibration.feeds[name]:
            report[name] = calibration.largest(name, within=half_values(model))
    say("comparing the fp16 graphs with the model")
    return _judged(originals, folder, judge, "fp16", {"largest_activations": report})


def _convert_int8(
    originals: Path,
    folder: Path,
    judge: Judge,
    calibration: Calibration,
    shares: Sequence[float],
    say: Say,
) -> Verdict:
    ranked: dict[str, list[str]] = {}
    for share in shares:
        kept: dict[str, list[str]] = {}
        for name, output in zip(GRAPH_NAMES, OUTPUTS, strict=True):
            model = onnx.load(originals / name)
            if not calibration.feeds[name]:  # a decoder that is not trained is not asked
                _save(model, folder / name)
                kept[name] = matrices(model)
                continue
            ranges = calibration.ranges[name]
            if share > 0.0 and name not in ranked:
                say(f"measuring which matrices of {name} are sensitive")
                feeds = calibration.feeds[name][:RANKED_ON]
                ranked[name] = by_sensitivity(model, ranges, feeds, _graph_output(output))
            nodes = ranked.get(name) or matrices(model)
            kept[name] = nodes[: round(share * len(nodes))]
            chosen = [node for node in matrices(model) if node not in kept[name]]
            converted = to_int8(model, ranges, chosen, kept[name])
            if name == GRAPH_NAMES[0]:  # the encoder's, which has the front end
                work_out_spectrum(converted, judge.reference.sample_rate)
            _save(converted, folder / name)
        say(f"comparing the int8 graphs with the model, {share:.0%} of products kept in fp32")
        verdict = _judged(originals, folder, judge, "int8", {"kept_fp32": kept})
        if verdict.failure is None:
            break
        say(f"{verdict.failure}")
    return verdict


def _judged(
    originals: Path, folder: Path, judge: Judge, precision: Precision, more: dict[str, Any]
) -> Verdict:
    reference = judge.reference
    exported = OnnxEngine(folder, reference.sample_rate, reference.frame_shift_s)
    verdict = judge.verdict(exported, precision)
    verdict.parity.update(more)
    if verdict.failed is None:
        return verdict
    departure = _departure(originals, folder, judge, precision, *verdict.failed)
    if departure is None:
        return verdict
    verdict.parity["departure"] = str(departure)
    failure = f"{verdict.failure}; {departure}"
    return Verdict(verdict.parity, verdict.evaluation, failure, verdict.failed)


def _departure(
    originals: Path, folder: Path, judge: Judge, precision: Precision, case: Case, output: str
) -> Departure | None:
    """The first node of a converted graph that computes something else in a case."""
    reference = judge.reference
    recorder = RecordingEngine(originals, reference.sample_rate, reference.frame_shift_s)
    number = [known.name for known in cases(reference.sample_rate)].index(case.name)
    case_differences(recorder, recorder, case, number, LIMITS[precision])
    name = GRAPH_NAMES[OUTPUTS.index(output)]
    return first_departure(
        onnx.load(originals / name),
        onnx.load(folder / name),
        recorder.feeds[name][-1],
        LIMITS[precision].relative,
    )


def _graph_output(output: str) -> str:
    """The step's output is called log_probs in its graph, as the encoder's is."""
    return output.removeprefix("step_")


def _save(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportRefused(f"{path.name}: not valid ONNX: {str(error).splitlines()[0]}") from None
    onnx.save(model, path)
