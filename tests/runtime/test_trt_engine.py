"""TensorRT engines on a GPU of main memory give what ONNX Runtime gives, and misuse no call.

There is no device here: what is tested is all of the engine's own logic, against fakes of the calls
that need one, and that these calls are those of the real bindings.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from voxformer.runtime import (
    MODES,
    DecodingOptions,
    EngineError,
    Recognizer,
    pad_batch,
    read_bundle,
    recognise_batch,
    trt_build,
)
from voxformer.runtime import trt_engine as trt_engine_module
from voxformer.runtime.bundle import BundleWarning
from voxformer.runtime.cuda import Cuda
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.trt_engine import TrtEngine

from .fake_gpu import (
    FakeCuda,
    FakeTensorRT,
    ICudaEngine,
    IExecutionContext,
    Runtime,
    cudaError_t,
)

API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text("utf-8"))
OPTIONS = DecodingOptions(beam_size=5, n_best=4, max_tokens_per_second=6.0)

RANGES = {
    "batch": (1, 2, 5),
    "samples": (400, 16000, 32000),
    "frames": (1, 25, 51),
    "n": (1, 2, 3),
    "length": (1, 5, 40),
    "rows": (1, 10, 50),
    "past": (0, 5, 40),
}


def write_engines(folder, bundle, *ranges):
    """Engines that the fake reads: a graph of the bundle, and profiles."""
    folder.mkdir(parents=True)
    for name in trt_build.GRAPHS:
        path = bundle / f"{name}.onnx"
        import onnx

        inputs = onnx.load(path).graph.input
        profiles = [
            {
                value.name: trt_build._shapes(
                    value.name,
                    [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
                    chosen,
                )
                for value in inputs
            }
            for chosen in ranges or (RANGES,)
        ]
        text = json.dumps({"onnx": str(path), "profiles": profiles})
        (folder / f"{name}.engine").write_text(text)
        (folder / f"{name}.json").write_text(json.dumps({"target": {"name": "fake"}}))
    return folder


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def trt_engine(bundle, cuda, tmp_path):
    folder = write_engines(tmp_path / "fake-fp32", bundle)
    return TrtEngine(folder, 16000, 0.04, Cuda(cuda), FakeTensorRT(cuda))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_hypotheses_equal_onnxruntime(bundle, trt_engine, cuda, vocabulary, noise, mode, seed):
    cuda.random = np.random.default_rng(seed)
    onnx_engine = OnnxEngine.from_bundle(read_bundle(bundle), threads=1)
    for lengths in ((16000, 23999, 401, 8000), (31999,), (0, 12000)):
        batch = pad_batch(noise(*lengths))
        expected = recognise_batch(onnx_engine, *batch, mode, OPTIONS, vocabulary)
        found = recognise_batch(trt_engine, *batch, mode, OPTIONS, vocabulary)
        for left, right in zip(expected, found, strict=True):
            assert [h.token_ids for h in left] == [h.token_ids for h in right]
            np.testing.assert_allclose([h.score for h in left], [h.score for h in right], atol=1e-4)


def test_results_outlive_the_next_batch(trt_engine, vocabulary, noise):
    """Memory is used again only when nothing holds what is in it."""
    first = trt_engine.encode(*pad_batch(noise(16000, 9000)))
    kept = first.log_probs.copy()
    view = first.log_probs[:1]
    for _ in range(3):
        trt_engine.encode(*pad_batch(noise(15000, 16000)))
    np.testing.assert_array_equal(first.log_probs, kept)
    np.testing.assert_array_equal(view, kept[:1])
    tokens, lengths = np.ones((2, 1, 2), np.int64), np.array([[2], [1]])
    scores = trt_engine.score(first.encoder_out, first.lengths, tokens, lengths)
    alone = trt_engine.encode(*pad_batch(noise(16000, 9000)))
    again = trt_engine.score(alone.encoder_out, alone.lengths, tokens, lengths)
    np.testing.assert_array_equal(scores, again)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_allocated_once_batches_have_been_seen(
    trt_engine, cuda, vocabulary, noise, mode
):
    batches = [pad_batch(noise(*lengths)) for lengths in ((16000, 12000), (15500, 9000, 8000))]
    for batch in batches:
        recognise_batch(trt_engine, *batch, mode, OPTIONS, vocabulary)
    gc.collect()
    seen = cuda.allocations
    for batch in 3 * batches:
        recognise_batch(trt_engine, *batch, mode, OPTIONS, vocabulary)
    assert cuda.allocations == seen


def test_more_hypotheses_than_the_profile_holds_are_scored_in_turns(bundle, trt_engine, noise):
    onnx_engine = OnnxEngine.from_bundle(read_bundle(bundle), threads=1)
    batch = pad_batch(noise(16000, 9000))
    random = np.random.default_rng(0)
    tokens = random.integers(1, 11, (2, 8, 4))
    lengths = random.integers(0, 5, (2, 8))
    encoded, reference = trt_engine.encode(*batch), onnx_engine.encode(*batch)
    found = trt_engine.score(encoded.encoder_out, encoded.lengths, tokens, lengths)
    expected = onnx_engine.score(reference.encoder_out, reference.lengths, tokens, lengths)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    part = trt_engine.score(encoded.encoder_out[1:], encoded.lengths[1:], tokens[1:], lengths[1:])
    np.testing.assert_allclose(part, expected[1:], atol=1e-4)  # not at an aligned address


def test_a_shape_finds_its_profile(bundle, cuda, tmp_path, noise):
    small = {**RANGES, "samples": (400, 8000, 8000)}
    large = {**RANGES, "samples": (8001, 16000, 32000)}
    folder = write_engines(tmp_path / "fake-fp32", bundle, small, large)
    engine = TrtEngine(folder, 16000, 0.04, Cuda(cuda), FakeTensorRT(cuda))
    for lengths in ((7000,), (30000, 100), (8000,)):
        found = engine.encode(*pad_batch(noise(*lengths)))
        assert np.isfinite(found.log_probs).all()
    assert len(engine._encoder._contexts) == 2
    with pytest.raises(
        EngineError,
        match=r"encoder.engine: this engine's waveforms may be \[1, 8001\] to \[5, 32000\], not "
        r"\[1, 32001\]; use smaller batches .*export --trt --target fake",
    ) as error:
        engine.encode(*pad_batch(noise(32001)))
    assert "\n" not in str(error.value)


def test_an_engine_that_the_library_refuses_names_the_command(bundle, cuda, tmp_path):
    folder = write_engines(tmp_path / "fake-fp32", bundle)
    (folder / "encoder.engine").write_bytes(b"of another library")
    with pytest.raises(EngineError, match=r"refuses it.*`voxformer export --trt --target fake`"):
        TrtEngine(folder, 16000, 0.04, Cuda(cuda), FakeTensorRT(cuda))


def test_no_room_is_one_line_and_spare_blocks_are_given_up_first(bundle, tmp_path, noise):
    cuda = FakeCuda(room=8 << 20)
    folder = write_engines(tmp_path / "fake-fp32", bundle)
    engine = TrtEngine(folder, 16000, 0.04, Cuda(cuda), FakeTensorRT(cuda))
    for samples in range(2000, 32000, 1500):  # all sizes together would not fit
        engine.encode(*pad_batch(noise(samples, samples, samples)))
    cuda.room = 1 << 18
    with pytest.raises(EngineError, match=r"cudaErrorMemoryAllocation: use smaller batches"):
        engine.encode(*pad_batch(noise(32000, 32000, 32000, 32000, 32000)))


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ({"devices": 0}, "no NVIDIA GPU is visible here; use engine onnxruntime"),
        ({"status": cudaError_t.cudaErrorNoDevice}, "no NVIDIA GPU is visible"),
        ({"status": cudaError_t.cudaErrorInsufficientDriver}, "there is no NVIDIA driver, or"),
    ],
)
def test_no_device_says_what_to_do(fake, message):
    with pytest.raises(EngineError, match=message):
        Cuda(FakeCuda(**fake))


def test_capability_is_asked_of_cuda(cuda):
    assert Cuda(cuda).capability == "8.9"


def test_real_bindings_on_a_machine_without_a_gpu():
    """The real cuda-bindings, up to the first call that needs a device."""
    pytest.importorskip("cuda.bindings.runtime")
    if trt_build.local_capability():
        pytest.skip("a GPU is here")
    with pytest.raises(EngineError, match=r"CUDA: cudaGetDeviceCount: .*NVIDIA"):
        Cuda.load()


def test_bundle_without_engines_says_how_to_get_them(bundle):
    with pytest.raises(EngineError, match="no TensorRT engines in it; `voxformer export --trt`"):
        Recognizer.load(bundle, engine="tensorrt")


def parameters(signature):
    """Names of a signature as bindings write it: `f(self: A, name: str, x: int = 0) -> bool`."""
    inner = signature[signature.index("(") + 1 : signature.rindex(")")]
    parts = [part.split("=")[0].split(":")[0].split() for part in inner.split(", ")]
    return [part[-1] for part in parts if part and part[-1] != "self"]


FAKES = [
    ("tensorrt", Runtime, "Runtime"),
    ("tensorrt", ICudaEngine, "ICudaEngine"),
    ("tensorrt", IExecutionContext, "IExecutionContext"),
    ("cuda-bindings", FakeCuda, ""),
]


@pytest.mark.parametrize("version", API)
def test_fakes_have_no_call_that_the_real_bindings_lack(version):
    library = version.split(" ")[0].replace("tensorrt-rtx", "tensorrt")
    checked = 0
    for of, fake, owner in FAKES:
        if of != library:
            continue
        for name, function in inspect.getmembers(fake, inspect.isfunction):
            if name.startswith("_") or name == "check":
                continue
            signatures = API[version][f"{owner}.{name}".lstrip(".")]
            taken = [p for p in inspect.signature(function).parameters if p != "self"]
            assert any(parameters(s)[: len(taken)] == taken for s in signatures), (version, name)
            checked += 1
    assert checked >= 10


def called(module):
    """Names of attributes that a module's source reads of anything."""
    tree = ast.parse(inspect.getsource(module))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_builder_calls_exist_in_every_version():
    """What trt_build reads of the bindings, and in which arguments."""
    owners = ("Builder", "OnnxParser", "ParserError", "INetworkDefinition", "ITensor")
    owners = (*owners, "IBuilderConfig", "IOptimizationProfile", "ITimingCache")
    used = called(trt_build)
    for version, names in API.items():
        if not version.startswith("tensorrt"):
            continue
        for name in names:
            if name.split(".")[0] in owners:
                assert name.split(".")[-1] in used, name
        [signature] = names["IBuilderConfig.set_timing_cache"]
        assert parameters(signature) == ["cache", "ignore_mismatch"]
        [signature] = names["IOptimizationProfile.set_shape"]
        assert len(parameters(signature)) == 4
        assert all(name in names for name in ("IProgressMonitor.phase_start", "nptype"))
    assert {version.split(" ")[1].split(".")[0] for version in API if "rtx" not in version} >= {
        "10",
        "11",
        "12",
        "13",
    }


def test_real_bindings_take_arguments_of_our_types():
    """Without a GPU each call of the real CUDA runtime is refused by CUDA, not by the bindings."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if trt_build.local_capability():
        pytest.skip("a GPU is here, and the addresses are made up")
    stream, event = runtime.cudaStream_t(0), runtime.cudaEvent_t(0)
    assert int(stream) == 0
    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    attribute = runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
    calls = {
        "cudaGetDeviceCount": (),
        "cudaSetDevice": (0,),
        "cudaDeviceGetAttribute": (attribute, 0),
        "cudaMalloc": (256,),
        "cudaMallocHost": (256,),
        "cudaFree": (4096,),
        "cudaFreeHost": (4096,),
        "cudaMemcpyAsync": (4096, 8192, 16, kind, stream),
        "cudaMemcpy2DAsync": (4096, 64, 8192, 64, 16, 2, kind, stream),
        "cudaStreamCreateWithFlags": (runtime.cudaStreamNonBlocking,),
        "cudaEventCreateWithFlags": (runtime.cudaEventDisableTiming,),
        "cudaEventRecord": (event, stream),
        "cudaStreamWaitEvent": (stream, event, 0),
        "cudaStreamSynchronize": (stream,),
    }
    used = {name for name, _ in inspect.getmembers(FakeCuda, inspect.isfunction)}
    assert set(calls) == {name for name in used if name.startswith("cuda")} - {"cudaGetErrorString"}
    for name, arguments in calls.items():
        code = getattr(runtime, name)(*arguments)[0]
        assert code != runtime.cudaError_t.cudaSuccess
        assert runtime.cudaGetErrorString(code)[1].decode()


def test_engines_of_graphs_that_were_refused_are_warned_of(bundle, monkeypatch, tmp_path):
    folder = write_engines(tmp_path / "fake-fp16", bundle)

    def load(name):
        raise trt_build.EngineBuildError(f"no {name}")

    monkeypatch.setattr(trt_build.Library, "load", load)
    values = {"library": "tensorrt", "parity_of_graphs": {"failure": "far apart"}}
    (folder / "encoder.json").write_text(json.dumps(values))
    monkeypatch.setattr(Cuda, "load", lambda: SimpleNamespace(capability="8.9"))
    monkeypatch.setattr(trt_engine_module, "find_engines", lambda bundle, capability: folder)
    with (
        pytest.warns(BundleWarning, match="fake-fp16: built with --force: far apart"),
        pytest.raises(EngineError, match="no tensorrt"),
    ):
        TrtEngine.from_bundle(read_bundle(bundle))
