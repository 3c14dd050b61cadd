"""Engines that run a model behind one protocol, and the recogniser that a deployer uses.

Importing this needs NumPy and the compiled decoder; an engine's library is imported with
the engine: `voxformer.runtime.torch_engine`, `voxformer.runtime.onnx_engine`.
"""

from voxformer.runtime.bundle import Bundle, BundleError, read_bundle
from voxformer.runtime.engine import Encoded, Engine, EngineError, StepSession, TopTokens
from voxformer.runtime.options import MODES, DecodingOptions, Mode, ModeError, Vocabulary
from voxformer.runtime.recognise import (
    batches_by_duration,
    decode,
    encode,
    length_cap,
    pad_batch,
    recognise_batch,
)
from voxformer.runtime.recognizer import Recognizer
from voxformer.runtime.transcript import FORMATS, Segment, Transcript, Word

__all__ = [
    "FORMATS",
    "MODES",
    "Bundle",
    "BundleError",
    "DecodingOptions",
    "Encoded",
    "Engine",
    "EngineError",
    "Mode",
    "ModeError",
    "Recognizer",
    "Segment",
    "StepSession",
    "TopTokens",
    "Transcript",
    "Vocabulary",
    "Word",
    "batches_by_duration",
    "decode",
    "encode",
    "length_cap",
    "pad_batch",
    "read_bundle",
    "recognise_batch",
]
