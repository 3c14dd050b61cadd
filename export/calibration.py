"""What the graphs of a bundle meet on real speech: their inputs, and the range of every tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater, TensorsData

from voxformer.audio import read_audio
from voxformer.data import Utterance
from voxformer.runtime.bundle import GRAPH_NAMES
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.options import DecodingOptions, Mode, Vocabulary
from voxformer.runtime.recognise import pad_batch, recognise_batch

CALIBRATION_UTTERANCES = 64
"""Of the manifest, spread evenly over it."""

MOST_RUNS = 64
"""Of a graph that are kept, spread evenly: a step runs for every token."""

Feeds = dict[str, Any]


class RecordingEngine(OnnxEngine):
    """Keeps what its graphs were fed."""

    def __init__(self, folder: str | Path, sample_rate: int, frame_shift_s: float) -> None:
        self.feeds: dict[str, list[Feeds]] = {name: [] for name in GRAPH_NAMES}
        super().__init__(folder, sample_rate, frame_shift_s)

    def _session(self, name: str) -> Any:
        return _RecordingSession(super()._session(name), self.feeds[name])


class _RecordingSession:
    def __init__(self, session: Any, feeds: list[Feeds]) -> None:
        self._session, self._feeds = session, feeds

    def run(self, outputs: Sequence[str], feeds: Feeds) -> Any:
        self._feeds.append({name: value.copy() for name, value in feeds.items()})
        return self._session.run(outputs, feeds)

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()


@dataclass(frozen=True)
class Calibration:
    """By graph: its inputs in runs on real speech, and the ranges of its tensors in these."""

    feeds: Mapping[str, Sequence[Feeds]]
    ranges: Mapping[str, TensorsData]

    def largest(self, graph: str, within: Collection[str], count: int = 5) -> dict[str, float]:
        """Of the tensors named, those with the largest absolute values, and these values."""
        sizes = {}
        for name, data in self.ranges[graph].items():
            if name in within:
                lowest, highest = data.range_value
                sizes[name] = max(abs(float(lowest.min())), abs(float(highest.max())))
        first = sorted(sizes, key=lambda name: -sizes[name])[:count]
        return {name: round(sizes[name], 3) for name in first}


def calibrate(
    folder: Path,
    sample_rate: int,
    frame_shift_s: float,
    utterances: Sequence[Utterance],
    vocabulary: Vocabulary,
    options: DecodingOptions,
    modes: Sequence[Mode],
) -> Calibration:
    """Recognise speech with fp32 graphs and note what they meet.

    Args:
        folder: with the fp32 graphs.
        sample_rate: of the waveforms, in Hz.
        frame_shift_s: seconds between encoder frames.
        utterances: up to `CALIBRATION_UTTERANCES` of them are recognised.
        vocabulary: of the model.
        options: of the searches.
        modes: that the model was trained for; the decoders meet what `rescoring` and `attention`
            ask of them, or nothing where they are not trained.
    """
    engine = RecordingEngine(folder, sample_rate, frame_shift_s)
    stride = max(1, -(-len(utterances) // CALIBRATION_UTTERANCES))
    for utterance in utterances[::stride]:
        samples = read_audio(utterance.audio_path, sample_rate)
        for mode in ("rescoring", "attention") if "rescoring" in modes else ("ctc_greedy",):
            recognise_batch(engine, *pad_batch([samples]), mode, options, vocabulary)
    feeds = {name: _thinned(engine.feeds[name]) for name in GRAPH_NAMES}
    ranges = {name: _ranges(folder / name, feeds[name]) for name in GRAPH_NAMES if feeds[name]}
    return Calibration(feeds, ranges)


def _thinned(feeds: list[Feeds]) -> list[Feeds]:
    return feeds[:: max(1, -(-len(feeds) // MOST_RUNS))]


def _ranges(path: Path, feeds: Sequence[Feeds]) -> TensorsData:
    with tempfile.TemporaryDirectory() as folder:
        calibrater = MinMaxCalibrater(path)
        calibrater.augmented_model_path = str(Path(folder) / path.name)
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(_Reader(feeds))
        return calibrater.compute_data()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)
