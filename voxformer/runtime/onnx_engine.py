"""ONNX Runtime behind the engine protocol."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from voxformer.decoding.ctc import available_cores
from voxformer.runtime.bundle import GRAPH_NAMES, Bundle
from voxformer.runtime.engine import (
    CPU_BATCH_SECONDS,
    DEVICE_BATCH_SECONDS,
    Encoded,
    EngineError,
    FloatArray,
    IntArray,
    TopTokens,
)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}

TOP_OUTPUTS = ("token_ids", "top_log_probs", "blank_log_probs")
"""Outputs of an encoder.onnx that was exported with `--ctc-topk`, in place of `log_probs`."""


class OnnxEngine:
    """Runs the three graphs of a bundle; the decoders are loaded when they are first needed.

    What it says of itself is described at `Engine`.

    Args:
        folder: where encoder.onnx, decoder.onnx and decoder_step.onnx are.
        sample_rate: of the waveforms, in Hz.
        frame_shift_s: seconds between encoder frames.
        provider: `cpu`, `cuda`, or the full name of an execution provider.
        threads: for the arithmetic of one operator; 0 takes the cores that this process may use.

    Raises:
        EngineError: ONNX Runtime, or the provider that was asked for, is not there.
    """

    def __init__(
        self,
        folder: str | Path,
        sample_rate: int,
        frame_shift_s: float,
        provider: str = "cpu",
        threads: int = 0,
    ) -> None:
        self._folder = Path(folder)
        self.sample_rate = sample_rate
        self.frame_shift_s = frame_shift_s
        self.threads = threads or available_cores()
        self._ort = _import_onnxruntime()
        self.provider = _checked_provider(self._ort, provider)
        self.name = f"onnxruntime ({self.provider})"
        # A session's threads help whoever calls it.
        on_cpu = self.provider == PROVIDERS["cpu"]
        self.lanes = self.threads if on_cpu else 1
        self.batch_seconds = CPU_BATCH_SECONDS if on_cpu else DEVICE_BATCH_SECONDS
        encoder, self._decoder_name, self._step_name = GRAPH_NAMES
        self._encoder = self._session(encoder)
        outputs = {output.name for output in self._encoder.get_outputs()}
        self._ctc_outputs = ("log_probs",) if "log_probs" in outputs else TOP_OUTPUTS
        self._decoder: Any = None
        self._step: Any = None
        self._loading = Lock()

    @classmethod
    def from_bundle(cls, bundle: Bundle, provider: str = "cpu", threads: int = 0) -> OnnxEngine:
        """The engine of a bundle."""
        return cls(bundle.path, bundle.sample_rate, bundle.frame_shift_s, provider, threads)

    def encode(self, waveforms: FloatArray, lengths: IntArray) -> Encoded:
        """See `Engine.encode`."""
        encoder_out, frames, *ctc = self._encoder.run(
            ["encoder_out", "encoder_lengths", *self._ctc_outputs],
            {
                "waveforms": np.ascontiguousarray(waveforms, dtype=np.float32),
                "lengths": np.ascontiguousarray(lengths, dtype=np.int64),
            },
        )
        return Encoded(encoder_out, frames, ctc[0] if len(ctc) == 1 else TopTokens(*ctc))

    def score(
        self, encoder_out: FloatArray, lengths: IntArray, tokens: IntArray, token_lengths: IntArray
    ) -> FloatArray:
        """See `Engine.score`."""
        with self._loading:
            if self._decoder is None:
                self._decoder = self._session(self._decoder_name)
        [scores] = self._decoder.run(
            ["token_log_probs"],
            {
                "encoder_out": encoder_out,
                "encoder_lengths": lengths,
                "tokens": np.ascontiguousarray(tokens, dtype=np.int64),
                "token_lengths": np.ascontiguousarray(token_lengths, dtype=np.int64),
            },
        )
        result: FloatArray = scores
        return result

    def start(self, encoded: Encoded) -> OnnxStepSession:
        """See `Engine.start`."""
        with self._loading:
            if self._step is None:
                self._step = self._session(self._step_name)
        return OnnxStepSession(self._step, encoded)

    def _session(self, name: str) -> Any:
        path = self._folder / name
        if not path.is_file():
            raise EngineError(f"{path}: missing; export the bundle again")
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3  # its warnings are about its own optimiser
        # A thread that waits for work by spinning takes a core from the search, from other lanes
        # and from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = self._ort.InferenceSession(
                str(path), sess_options=options, providers=[self.provider]
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineError(f"{path}: ONNX Runtime cannot load it: {reason}") from None
        # ONNX Runtime falls back to the CPU in silence when a provider's libraries are missing.
        if session.get_providers()[0] != self.provider:
            raise EngineError(
                f"ONNX Runtime could not start {self.provider} and fell back to "
                f"{session.get_providers()[0]}; check its driver and libraries, or ask for cpu"
            )
        return session


class OnnxStepSession:
    """See `StepSession`."""

    def __init__(self, session: Any, encoded: Encoded) -> None:
        self._session = session
        self._encoded = encoded
        self._utterances: IntArray | None = None
        self._rows_out: FloatArray | None = None
        self._rows_lengths: IntArray | None = None
        self._cache: FloatArray | None = None
        self._cache_shape = _cache_shape(session)

    def step(self, utterances: IntArray, parents: IntArray, tokens: IntArray) -> FloatArray:
        """See `StepSession.step`."""
        if self._utterances is None or not np.array_equal(utterances, self._utterances):
            self._utterances = utterances.copy()
            self._rows_out = self._encoded.encoder_out[utterances]
            self._rows_lengths = self._encoded.lengths[utterances]
        if self._cache is None:
            layers, heads, head_dim = self._cache_shape
            cache = np.zeros((layers, 2, len(tokens), heads, 0, head_dim), dtype=np.float32)
        else:
            cache = self._cache[:, :, parents]
        log_probs, self._cache = self._session.run(
            ["log_probs", "new_cache"],
            {
                "encoder_out": self._rows_out,
                "encoder_lengths": self._rows_lengths,
                "tokens": np.ascontiguousarray(tokens, dtype=np.int64),
                "cache": cache,
            },
        )
        result: FloatArray = log_probs
        return result


def _cache_shape(session: Any) -> tuple[int, int, int]:
    """Layers, heads and head_dim of the cache [layers, 2, rows, heads, past, head_dim]."""
    [shape] = [value.shape for value in session.get_inputs() if value.name == "cache"]
    return shape[0], shape[3], shape[5]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "running a bundle needs ONNX Runtime: pip install 'voxformer[onnx-cpu]' "
            f"(or onnx-gpu, never both): {error}"
        ) from None
    return onnxruntime


def _checked_provider(ort: Any, provider: str) -> str:
    name = PROVIDERS.get(provider.lower(), provider)
    available = ort.get_available_providers()
    if name not in available:
        fix = "; pip install 'voxformer[onnx-gpu]' instead of onnx-cpu" if "CUDA" in name else ""
        raise EngineError(f"this ONNX Runtime has no {name} (it has {', '.join(available)}){fix}")
    return name
