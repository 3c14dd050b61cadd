"""TensorRT engines of a bundle: which of them can run here, and running them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np

from voxformer.runtime.bundle import Bundle, BundleWarning, sha256_of
from voxformer.runtime.cuda import Cuda, DeviceArray
from voxformer.runtime.engine import (
    DEVICE_BATCH_SECONDS,
    Encoded,
    EngineError,
    FloatArray,
    IntArray,
    TopTokens,
)
from voxformer.runtime.onnx_engine import TOP_OUTPUTS
from voxformer.runtime.trt_build import (
    GRAPHS,
    EngineBuildError,
    Library,
    installed_version,
)
from voxformer.runtime.trt_session import TrtSession, Value

ENGINES = "engines"


class TrtEngine:
    """Runs the three engines of a bundle; the decoders are loaded when they are first needed.

    What the encoder gives stays on the device for the decoders; CTC log-probs, lengths and scores
    come back to the host. What it says of itself is described at `Engine`.

    Args:
        folder: with `<name>.engine` and `<name>.json`.
        sample_rate: of the waveforms, in Hz.
        frame_shift_s: seconds between encoder frames.
        cuda: the device.
        trt: the module `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineError: an engine cannot be loaded.
    """

    def __init__(
        self, folder: Path, sample_rate: int, frame_shift_s: float, cuda: Cuda, trt: Any
    ) -> None:
        self.name = f"{trt.__name__} ({folder.name})"
        self.sample_rate = sample_rate
        self.frame_shift_s = frame_shift_s
        self.threads = 1  # the arithmetic is on the device, which is one
        self.lanes = 1
        self.batch_seconds = DEVICE_BATCH_SECONDS
        self._folder = folder
        self._cuda = cuda
        self._trt = trt
        self._encoder = self._session("encoder")
        self._decoder: TrtSession | None = None
        self._step: TrtSession | None = None

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> TrtEngine:
        """The engine of a bundle for the device that is here.

        Raises:
            EngineError: a library, a device, or an engine for them is missing; the message has the
                command that helps.
        """
        try:
            cuda = Cuda.load()
        except EngineError as error:
            find_engines(bundle, "", str(error))
            raise
        folder = find_engines(bundle, cuda.capability)
        sidecar = _sidecar(folder, GRAPHS[0])
        library = sidecar["library"]
        if failure := sidecar.get("parity_of_graphs", {}).get("failure"):
            warnings.warn(f"{folder}: built with --force: {failure}", BundleWarning, stacklevel=2)
        try:
            trt = Library.load(library).module
        except EngineBuildError as error:
            raise EngineError(str(error)) from None
        return cls(folder, bundle.sample_rate, bundle.frame_shift_s, cuda, trt)

    def encode(self, waveforms: FloatArray, lengths: IntArray) -> Encoded:
        """See `Engine.encode`; `encoder_out` is a `DeviceArray`."""
        on_host = [name for name in self._encoder.outputs if name != "encoder_out"]
        made = self._encoder.run({"waveforms": waveforms, "lengths": lengths}, on_host)
        host = made.host
        ctc = host.get("log_probs")
        return Encoded(
            made.device["encoder_out"],
            host["encoder_lengths"],
            TopTokens(*(host[name] for name in TOP_OUTPUTS)) if ctc is None else ctc,
        )

    def score(
        self, encoder_out: Any, lengths: IntArray, tokens: IntArray, token_lengths: IntArray
    ) -> FloatArray:
        """See `Engine.score`; more hypotheses than the profile holds are scored in turns."""
        if self._decoder is None:
            self._decoder = self._session("decoder")
        most = self._decoder.most("tokens")[1]
        parts: list[FloatArray] = []
        for first in range(0, tokens.shape[1], most):
            chosen = slice(first, first + most)
            feeds = {
                "encoder_out": encoder_out,
                "encoder_lengths": lengths,
                "tokens": tokens[:, chosen],
                "token_lengths": token_lengths[:, chosen],
            }
            made = self._decoder.enqueue(feeds, ["token_log_probs"])
            parts.append(made.host["token_log_probs"])
        self._decoder.finish()
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def start(self, encoded: Encoded) -> TrtStepSession:
        """See `Engine.start`."""
        if self._step is None:
            self._step = self._session("decoder_step")
        return TrtStepSession(self._cuda, self._step, encoded)

    def _session(self, name: str) -> TrtSession:
        target = _sidecar(self._folder, name)["target"]["name"]
        return TrtSession(self._cuda, self._trt, self._folder / f"{name}.engine", _rebuild(target))


class TrtStepSession:
    """See `StepSession`; the cache stays on the device."""

    def __init__(self, cuda: Cuda, session: TrtSession, encoded: Encoded) -> None:
        self._session = session
        self._encoded = encoded
        self._utterances: IntArray | None = None
        self._rows_out: DeviceArray | None = None
        self._cache: DeviceArray | None = None
        self._cuda = cuda

    def step(self, utterances: IntArray, parents: IntArray, tokens: IntArray) -> FloatArray:
        """See `StepSession.step`."""
        session = self._session
        if self._utterances is None or not np.array_equal(utterances, self._utterances):
            self._utterances = utterances.copy()
            self._rows_out = session.gather(self._encoded.encoder_out, utterances, 0)
        if self._cache is None:
            layers, pair, _, heads, _, head_dim = session.shapes["cache"]
            shape = (layers, pair, len(tokens), heads, 0, head_dim)
            cache = self._cuda.device_array(shape, session.dtypes["cache"])
        elif np.array_equal(parents, np.arange(self._cache.shape[2])):
            cache = self._cache
        else:
            cache = session.gather(self._cache, parents, 2)
        feeds: dict[str, Value] = {
            "encoder_out": cast("DeviceArray", self._rows_out),
            "encoder_lengths": self._encoded.lengths[utterances],
            "tokens": tokens,
            "cache": cache,
        }
        made = session.run(feeds, ["log_probs"])
        self._cache = made.device["new_cache"]
        return made.host["log_probs"]


def find_engines(bundle: Bundle, capability: str, why_none: str = "") -> Path:
    """The folder of the bundle's engines for the GPU that is here, verified.

    Args:
        bundle: that has `engines/`.
        capability: of the GPU, such as `8.9`; empty where there is none.
        why_none: what CUDA says of that.

    Raises:
        EngineError: there is none for this device, library or graph; the message has the command
            that builds them.
    """
    folders = sorted((bundle.path / ENGINES).glob("*-*"))
    if not folders:
        raise EngineError(
            f"{bundle.path}: no TensorRT engines in it; `voxformer export --trt` makes them"
        )
    reasons = []
    for folder in folders:
        graphs = bundle.values.get("engine_graphs", {}).get(folder.name, {})
        try:
            reason = _why_not(folder, graphs, capability, why_none)
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"its sidecars are damaged ({error!r}); build it again"
        if reason is None:
            return folder
        reasons.append(f"{folder.name}: {reason}")
    raise EngineError(f"{bundle.path}: no TensorRT engine can run here; {'; '.join(reasons)}")


def _why_not(folder: Path, graphs: dict[str, str], here: str, why_none: str) -> str | None:
    for name in GRAPHS:
        engine, sidecar = folder / f"{name}.engine", folder / f"{name}.json"
        if not engine.is_file() or not sidecar.is_file():
            return f"not built yet; `voxformer export --kit {folder}` builds it on its device"
        values = _sidecar(folder, name)
        rebuild = _rebuild(values["target"]["name"])
        if sha256_of(engine) != values["engine_sha256"]:
            return f"{engine.name} was changed; build it again with {rebuild}"
        if graphs and values["onnx_sha256"] != graphs[name]:
            return f"{engine.name} is of another graph than the bundle's; build it with {rebuild}"
        if values["compute_capability"] != here:
            reason = f" ({why_none})" if why_none else ""
            device = f"a GPU of compute capability {here}" if here else f"no NVIDIA GPU{reason}"
            return (
                f"built for {values['target']['device']} (compute capability "
                f"{values['compute_capability']}), but here is {device}; for this device: "
                "`voxformer export --trt --target local`, or use engine onnxruntime"
            )
        installed = installed_version(values["library"])
        if installed is None or not installed.startswith(values["library_version"]):
            return (
                f"built by {values['library']} {values['library_version']}, installed is "
                f"{installed or 'none'}; build it again with {rebuild}"
            )
    return None


def _sidecar(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return values


def _rebuild(target: str) -> str:
    return f"`voxformer export --trt --target {target}`"
