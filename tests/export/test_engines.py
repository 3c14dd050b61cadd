"""TensorRT engines and build kits: built by the real TensorRT-RTX where it is installed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from voxformer.export import ExportRefused, export_bundle
from voxformer.export.convert import Conversions
from voxformer.export.engines import TARGETS, load_target
from voxformer.runtime import EngineError, Recognizer, read_bundle, trt_build
from voxformer.runtime.trt_build import EngineBuildError, Target, axis_ranges, build_kit
from voxformer.runtime.trt_engine import find_engines

needs_rtx = pytest.mark.skipif(
    trt_build.installed_version("tensorrt-rtx") is None, reason="tensorrt-rtx is not installed"
)


def test_every_target_is_whole_and_in_order():
    assert {path.stem for path in TARGETS.glob("*.toml")} == {"rtx4090", "h100"}
    for name in ("rtx4090", "h100"):
        ranges = axis_ranges(load_target(name), 16000, 0.04)
        assert all(least <= optimum <= most for least, optimum, most in ranges.values())
        assert ranges["samples"][0] == 400  # a window of 25 ms
        assert ranges["frames"][0] == 1  # is one frame of the encoder
        assert ranges["frames"][2] >= 750  # 30 s
        assert ranges["past"][0] == 0  # a search begins with an empty cache
    with pytest.raises(
        EngineBuildError, match="no target 'v100'; there is h100, rtx4090 and local"
    ):
        load_target("v100")


def test_target_out_of_order_is_named():
    values = {
        "device": "x",
        "library": "tensorrt-rtx",
        "compute_capability": "8.9",
        "memory_gib": 24,
        "precisions": ["fp16"],
        "optimization_level": 3,
        "axes": {axis: [1, 2, 3] for axis in trt_build.AXES},
    }
    assert Target.from_mapping("x", values).axes["batch"] == (1, 2, 3)
    values["axes"]["rows"] = [4, 2, 3]
    with pytest.raises(EngineBuildError, match=r"target x: axes.rows is .*in order"):
        Target.from_mapping("x", values)


@needs_rtx
def test_engines_are_built_without_a_gpu_and_say_what_they_are(
    exports, model, vocabulary, config, tmp_path
):
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", targets=["rtx4090"])
    folder = out / "engines" / "rtx4090-fp16"
    for name in ("encoder", "decoder", "decoder_step"):
        engine = (folder / f"{name}.engine").read_bytes()
        sidecar = json.loads((folder / f"{name}.json").read_text("utf-8"))
        assert len(engine) == sidecar["bytes"] > 10_000
        assert sidecar["engine_sha256"] == hashlib.sha256(engine).hexdigest()
        assert (sidecar["compute_capability"], sidecar["precision"]) == ("8.9", "fp16")
        assert sidecar["library"] == "tensorrt-rtx"
        assert sidecar["run_on_device"] is False
        assert sidecar["parity_of_graphs"]["max_abs_difference"]["log_probs"] < 0.1
    encoder_sidecar = json.loads((folder / "encoder.json").read_text("utf-8"))
    profile = encoder_sidecar["profile"]
    assert profile["waveforms"] == [[1, 400], [16, 192000], [32, 480000]]
    assert json.loads((out / "bundle.json").read_text("utf-8"))["engines"] == {
        "rtx4090-fp16": "engines"
    }
    assert read_bundle(out).precision == "fp32"
    with pytest.raises(
        EngineError,
        match=r"built for NVIDIA GeForce RTX 4090 \(compute capability 8.9\), but here is .*; for",
    ):
        Recognizer.load(out, engine="tensorrt")
    bundle = read_bundle(out)
    assert find_engines(bundle, "8.9") == folder
    with pytest.raises(
        EngineError, match=r"here is a GPU of compute capability 9.0; .*--target local"
    ):
        find_engines(bundle, "9.0")
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    values["engine_graphs"]["rtx4090-fp16"]["decoder"] = "0" * 64
    (out / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"decoder.engine is of another graph than the bundle's"):
        find_engines(read_bundle(out), "8.9")
    (folder / "encoder.json").write_text("{}")
    with pytest.raises(EngineError, match=r"rtx4090-fp16: its sidecars are damaged .*build it"):
        find_engines(bundle, "8.9")
    (folder / "encoder.json").write_text(json.dumps(encoder_sidecar))
    with (folder / "decoder.engine").open("r+b") as file:
        file.write(b"\0\1\2")
    with pytest.raises(
        EngineError, match=r"decoder.engine was changed; build it again with .*rtx4090"
    ):
        find_engines(bundle, "8.9")


def test_a_precision_is_made_and_judged_once(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    """The bundle's fp16 graphs are those that engines of two targets are of."""
    monkeypatch.setattr(trt_build, "local_capability", lambda: "")
    said: list[str] = []
    targets = (
        ["h100"] if trt_build.installed_version("tensorrt-rtx") is None else ["h100", "rtx4090"]
    )
    out = export_bundle(
        model,
        vocabulary.tokens,
        config,
        tmp_path / "out",
        precision="fp16",
        targets=targets,
        timing_cache=tmp_path / "cache",
        say=said.append,
    )
    assert said.count("comparing the fp16 graphs with the model") == 1
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert values["precision"] == "fp16"
    for target in targets:
        digest = values["engine_graphs"][f"{target}-fp16"]["encoder"]
        assert digest == values["files"]["encoder.onnx"]["sha256"]
    # The bundle's decoders keep their common weights in a file, those of engines do not.
    for name in ("decoder.onnx", "decoder_step.onnx"):
        kept, own = (onnx.load(folder / name).graph for folder in (out, out / "engines/h100-fp16"))
        assert list(kept.node) == list(own.node)
        for mine, theirs in zip(kept.initializer, own.initializer, strict=True):
            assert (mine.name, mine.raw_data) == (theirs.name, theirs.raw_data)
    if "rtx4090" in targets:
        assert f"tensorrt-rtx has no timing cache: {tmp_path / 'cache'} is left alone" in said
    assert not (tmp_path / "cache").exists()


class StubbornConfig:
    """A builder's configuration that takes no cache."""

    def create_timing_cache(self, serialized_timing_cache):
        self.given = serialized_timing_cache
        return object()

    def set_timing_cache(self, cache, ignore_mismatch):
        return self.given == b"" and not ignore_mismatch


def test_a_timing_cache_of_another_device_is_named(tmp_path):
    path = tmp_path / "cache"
    assert trt_build._timing_cache(StubbornConfig(), None) is None
    assert trt_build._timing_cache(StubbornConfig(), path) is not None
    path.write_bytes(b"of a T4")
    with pytest.raises(EngineBuildError, match=r"cache: not a timing cache of this device"):
        trt_build._timing_cache(StubbornConfig(), path)


def test_a_target_that_cannot_be_built_here_gets_a_kit(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(trt_build, "local_capability", lambda: "")
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", targets=["h100"])
    folder = out / "engines" / "h100-fp16"
    kit = json.loads((folder / "kit.json").read_text("utf-8"))
    assert kit["target"]["compute_capability"] == "9.0"
    assert onnx.load(folder / "encoder.onnx").graph.input[0].name == "waveforms"
    assert "voxformer export --kit ." in (folder / "README.txt").read_text("utf-8")
    with pytest.raises(EngineBuildError, match=r"needs tensorrt: pip install|not for 9.0"):
        build_kit(folder)
    (folder / "axes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        EngineBuildError, match=r"axes.json: missing or changed; copy the kit again"
    ):
        build_kit(folder)
    with pytest.raises(EngineBuildError, match="not a build kit"):
        build_kit(tmp_path)


@pytest.mark.parametrize("force", [False, True])
def test_engines_of_graphs_that_the_gate_refuses_are_made_by_force_alone(
    exports, model, vocabulary, config, tmp_path, monkeypatch, force
):
    monkeypatch.setattr(trt_build, "local_capability", lambda: "")
    original = Conversions.to

    def refused(self, precision):
        graphs, verdict = original(self, precision)
        return graphs, verdict and replace(verdict, failure="far apart")

    monkeypatch.setattr(Conversions, "to", refused)
    out, said = tmp_path / "out", []
    given = (model, vocabulary.tokens, config, out)
    if not force:
        with pytest.raises(ExportRefused, match="far apart; no fp16 engine is built"):
            export_bundle(*given, targets=["h100"])
        assert not out.exists()
        return
    export_bundle(*given, targets=["h100"], force=True, say=said.append)
    assert "WRONG, fp16 engines because of --force: far apart" in said
    kit = json.loads((out / "engines" / "h100-fp16" / "kit.json").read_text("utf-8"))
    assert kit["parity_of_graphs"]["failure"] == "far apart"


@needs_rtx
def test_a_graph_that_the_library_refuses_is_an_error_of_one_line(tmp_path):
    odd = onnx.helper.make_node("Unheard", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [odd], "odd", [value("x", 1, ["batch"])], [value("y", 1, ["batch"])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(EngineBuildError, match=r"encoder.onnx: tensorrt-rtx cannot take it"):
        trt_build.build_engines(
            tmp_path, tmp_path / "out", load_target("rtx4090"), "fp32", 16000, 0.04
        )


def test_builder_calls_exist_in_the_real_bindings():
    """Every name and argument that the builder uses, in whichever library is installed."""
    found = 0
    for name in trt_build.MODULES:
        if trt_build.installed_version(name) is None:
            continue
        found += 1
        trt = trt_build.Library.load(name).module
        for owner, attribute in (
            (trt.Builder, "create_network"),
            (trt.Builder, "create_builder_config"),
            (trt.Builder, "create_optimization_profile"),
            (trt.Builder, "build_serialized_network"),
            (trt.OnnxParser, "parse_from_file"),
            (trt.OnnxParser, "get_error"),
            (trt.IBuilderConfig, "add_optimization_profile"),
            (trt.IBuilderConfig, "builder_optimization_level"),
            (trt.IBuilderConfig, "create_timing_cache"),
            (trt.IBuilderConfig, "set_timing_cache"),
            (trt.IBuilderConfig, "progress_monitor"),
            (trt.IOptimizationProfile, "set_shape"),
            (trt.ITimingCache, "serialize"),
            (trt, "IProgressMonitor"),
            (trt.Logger, "ERROR"),
        ):
            assert hasattr(owner, attribute), (name, owner, attribute)
        assert "ignore_mismatch" in trt.IBuilderConfig.set_timing_cache.__doc__
    if not found:
        pytest.skip("neither tensorrt nor tensorrt-rtx is installed")


def test_unknown_axis_is_named():
    with pytest.raises(EngineBuildError, match="input x has the axis 'odd'"):
        trt_build._shapes("x", ["odd"], {"batch": (1, 2, 3)})
    assert trt_build._shapes("x", ["batch", 7], {"batch": (1, 2, 3)}) == [[1, 7], [2, 7], [3, 7]]
    assert np.array(trt_build._shapes("x", [4], {})).shape == (3, 1)
