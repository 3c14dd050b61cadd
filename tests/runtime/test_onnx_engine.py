"""The bundle's engine gives what PyTorch gives, and never another provider than was asked for."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from voxformer.runtime import (
    MODES,
    DecodingOptions,
    EngineError,
    Recognizer,
    encode,
    pad_batch,
    read_bundle,
    recognise_batch,
)
from voxformer.runtime.onnx_engine import OnnxEngine

OPTIONS = DecodingOptions(beam_size=5, n_best=4, max_tokens_per_second=6.0)


@pytest.fixture(scope="module")
def onnx_engine(bundle):
    return OnnxEngine.from_bundle(read_bundle(bundle), threads=1)


@pytest.mark.parametrize("mode", MODES)
def test_hypotheses_equal_pytorch(engine, onnx_engine, vocabulary, noise, mode):
    batch = pad_batch(noise(16000, 23999, 401, 8000))
    expected = recognise_batch(engine, *batch, mode, OPTIONS, vocabulary)
    found = recognise_batch(onnx_engine, *batch, mode, OPTIONS, vocabulary)
    for left, right in zip(expected, found, strict=True):
        assert [h.token_ids for h in left] == [h.token_ids for h in right]
        np.testing.assert_allclose([h.score for h in left], [h.score for h in right], atol=1e-3)


def test_batch_mates_do_not_change_the_encoder_output(onnx_engine, noise):
    waveforms = noise(16000, 9411, 30011)
    together = encode(onnx_engine, *pad_batch(waveforms))
    for row, waveform in enumerate(waveforms):
        alone = encode(onnx_engine, *pad_batch([waveform]))
        frames = alone.lengths[0]
        assert together.lengths[row] == frames
        np.testing.assert_allclose(
            together.log_probs[row, :frames], alone.log_probs[0, :frames], atol=1e-4
        )


def test_provider_that_is_not_there_is_an_error_that_names_the_fix(bundle):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"no CUDAExecutionProvider.*onnx-gpu"):
        Recognizer.load(bundle, provider="cuda")


def test_silent_fallback_is_an_error(bundle, monkeypatch):
    """ONNX Runtime offers CUDA but starts without it: CUDA's libraries are missing."""
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(EngineError, match="fell back to CPUExecutionProvider"),
    ):
        Recognizer.load(bundle, provider="cuda")


def test_graph_that_cannot_be_loaded_is_one_line(bundle, tmp_path):
    for name in ("encoder.onnx", "decoder.onnx", "decoder_step.onnx"):
        (tmp_path / name).write_bytes(b"not ONNX")
    with pytest.raises(EngineError, match=r"encoder\.onnx: ONNX Runtime cannot load it") as error:
        OnnxEngine(tmp_path, 16000, 0.04)
    assert "\n" not in str(error.value)
    with pytest.raises(EngineError, match=r"encoder\.onnx: missing"):
        OnnxEngine(tmp_path / "nowhere", 16000, 0.04)
