"""Builds TensorRT engines from a bundle's graphs; one code for `tensorrt` and `tensorrt-rtx`.

Networks are strongly typed: the precision is that of the graph. TensorRT-RTX builds for the compute
capability that it is told, on a host without a GPU; TensorRT builds for the GPU that is there.
Needs neither PyTorch nor ONNX, so that a build kit can be built where engines run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voxformer.nvml import Nvml
from voxformer.runtime.bundle import sha256_of
from voxformer.text.atomic import write_atomically

GRAPHS = ("encoder", "decoder", "decoder_step")
KIT_NAME = "kit.json"

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL = {"tensorrt": "voxformer[trt]", "tensorrt-rtx": "voxformer[trt-rtx]"}
PACKAGES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12")}

Range = tuple[float, float, float]
Say = Callable[[str], None]


class EngineBuildError(ValueError):
    """An engine cannot be built here; the message says why, and what to do."""


@dataclass(frozen=True)
class Target:
    """What engines are built for.

    Attributes:
        name: `rtx4090`, `h100` or `local`.
        device: its full name.
        library: `tensorrt` or `tensorrt-rtx`.
        compute_capability: such as `8.9`; empty for the device that is there.
        memory_gib: of the device.
        precisions: of graphs to build from.
        optimization_level: of the builder, 0 to 5.
        axes: least, optimum and most of `batch`, `seconds`, `n_best`, `tokens` and `rows`.
    """

    name: str
    device: str
    library: str
    compute_capability: str
    memory_gib: float
    precisions: tuple[str, ...]
    optimization_level: int
    axes: Mapping[str, Range]

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any]) -> Target:
        """From a target's TOML file or a kit.

        Raises:
            EngineBuildError: something is missing or out of order.
        """
        try:
            target = cls(
                name=name,
                device=str(values["device"]),
                library=str(values["library"]),
                compute_capability=str(values["compute_capability"]),
                memory_gib=float(values["memory_gib"]),
                precisions=tuple(values["precisions"]),
                optimization_level=int(values["optimization_level"]),
                axes={axis: tuple(values["axes"][axis]) for axis in AXES},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineBuildError(f"target {name}: {error!r} is missing or wrong") from None
        if target.library not in MODULES:
            raise EngineBuildError(f"target {name}: library must be one of {', '.join(MODULES)}")
        for axis, (least, optimum, most) in target.axes.items():
            if not 0 < least <= optimum <= most:
                raise EngineBuildError(
                    f"target {name}: axes.{axis} is {[least, optimum, most]}; it must be least, "
                    "optimum and most, in order and above 0"
                )
        return target


AXES = ("batch", "seconds", "n_best", "tokens", "rows")


def axis_ranges(
    target: Target, sample_rate: int, frame_shift_s: float
) -> dict[str, tuple[int, int, int]]:
    """Least, optimum and most of every named axis of the graphs.

    Args:
        target: says how many utterances, how long, how many hypotheses.
        sample_rate: of the waveforms, in Hz.
        frame_shift_s: seconds between encoder frames.
    """
    seconds, tokens = target.axes["seconds"], target.axes["tokens"]

    def whole(values: Sequence[float]) -> tuple[int, int, int]:
        least, optimum, most = map(round, values)
        return least, optimum, most

    least, optimum, most = (value / frame_shift_s for value in seconds)
    # The shortest recording has one frame, whatever part of a frame shift it lasts.
    frames = max(1, int(least)), max(1, round(optimum)), math.ceil(most) + 1
    return {
        "batch": whole(target.axes["batch"]),
        "samples": whole([value * sample_rate for value in seconds]),
        "frames": frames,
        "n": whole(target.axes["n_best"]),
        "length": whole(tokens),
        "rows": whole(target.axes["rows"]),
        # An autoregressive search begins with an empty cache.
        "past": (0, round(tokens[1]), round(tokens[2])),
    }


@dataclass(frozen=True)
class Library:
    """An imported TensorRT and what it is.

    Attributes:
        name: `tensorrt` or `tensorrt-rtx`.
        module: of its bindings.
        version: of the library.
    """

    name: str
    module: Any
    version: str

    @classmethod
    def load(cls, name: str) -> Library:
        """Import it.

        Raises:
            EngineBuildError: it is not installed, or does not start.
        """
        try:
            module = importlib.import_module(MODULES[name])
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise EngineBuildError(
                f"building engines needs {name}: pip install '{INSTALL[name]}' ({reason})"
            ) from None
        return cls(name, module, str(module.__version__))


def build_engines(
    graphs: Path,
    out: Path,
    target: Target,
    precision: str,
    sample_rate: int,
    frame_shift_s: float,
    timing_cache: Path | None = None,
    more: Mapping[str, Any] | None = None,
    say: Say = lambda message: None,
) -> list[Path]:
    """Build the engines of three graphs, each with a sidecar that says what it is.

    Args:
        graphs: a folder with encoder.onnx, decoder.onnx and decoder_step.onnx.
        out: the folder for `<name>.engine` and `<name>.json`; it is made.
        target: what to build for.
        precision: of the graphs.
        sample_rate: of the waveforms, in Hz.
        frame_shift_s: seconds between encoder frames.
        timing_cache: a file that is read and written, which makes another build of TensorRT faster;
            TensorRT-RTX has none, and measures on the device instead.
        more: for the sidecars: parity and WER of the graphs.
        say: called with a line for each step.

    Raises:
        EngineBuildError: the library is missing, refuses a graph, or cannot build for the target.
    """
    library = Library.load(target.library)
    if timing_cache is not None and library.name == "tensorrt-rtx":
        say(f"tensorrt-rtx has no timing cache: {timing_cache} is left alone")
        timing_cache = None
    out.mkdir(parents=True, exist_ok=True)
    ranges = axis_ranges(target, sample_rate, frame_shift_s)
    built = []
    for name in GRAPHS:
        source = graphs / f"{name}.onnx"
        say(f"building {out.name}/{name}.engine with {library.name} {library.version}")
        began = time.perf_counter()
        engine, profile = _build(library, source, target, ranges, timing_cache, say)
        seconds = time.perf_counter() - began
        path = out / f"{name}.engine"
        write_atomically(path, engine)
        sidecar = {
            "engine_sha256": hashlib.sha256(engine).hexdigest(),
            "bytes": len(engine),
            "onnx_sha256": sha256_of(source),
            "library": library.name,
            "library_version": library.version,
            "driver_version": Nvml().ask("nvmlSystemGetDriverVersion"),
            "target": {**asdict(target), "precisions": list(target.precisions)},
            "compute_capability": target.compute_capability or local_capability(),
            "precision": precision,
            "profile": profile,
            "build_seconds": round(seconds, 2),
            "run_on_device": False,
            **(more or {}),
        }
        write_atomically(path.with_suffix(".json"), json.dumps(sidecar, indent=2) + "\n")
        say(f"  {len(engine) / 2**20:.1f} MiB in {seconds:.1f} s")
        built.append(path)
    return built


def _build(
    library: Library,
    source: Path,
    target: Target,
    ranges: Mapping[str, tuple[int, int, int]],
    timing_cache: Path | None,
    say: Say,
) -> tuple[bytes, dict[str, list[list[int]]]]:
    trt = library.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        error = parser.get_error(0)
        raise EngineBuildError(f"{source.name}: {library.name} cannot take it: {error.desc()}")
    config = builder.create_builder_config()
    config.builder_optimization_level = target.optimization_level
    if library.name == "tensorrt-rtx":
        _set_capability(trt, config, target)
    elif target.compute_capability and target.compute_capability != local_capability():
        raise EngineBuildError(
            f"TensorRT builds for the GPU that is there ({local_capability() or 'none'}), not for "
            f"{target.compute_capability}; write a kit, and build it on {target.device}"
        )
    profile = builder.create_optimization_profile()
    shapes: dict[str, list[list[int]]] = {}
    axes = _input_axes(source)
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes[tensor.name] = _shapes(tensor.name, axes[tensor.name], ranges)
        profile.set_shape(tensor.name, *map(tuple, shapes[tensor.name]))
    config.add_optimization_profile(profile)
    cache = _timing_cache(config, timing_cache)
    monitor = _monitor(trt, say)
    if monitor is not None:
        config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineBuildError(
            f"{source.name}: {library.name} {library.version} could not build it for "
            f"{target.device}; its own messages are above"
        )
    if timing_cache is not None and cache is not None:
        write_atomically(timing_cache, bytes(cache.serialize()))
    return bytes(engine), shapes


def _network_flags(trt: Any) -> int:
    """Strongly typed, where the library still asks; TensorRT 11 knows nothing else."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    typed = getattr(flags, "STRONGLY_TYPED", None)
    return 0 if typed is None else 1 << int(typed)


def _set_capability(trt: Any, config: Any, target: Target) -> None:
    name = f"SM{target.compute_capability.replace('.', '')}" if target.compute_capability else ""
    capability = getattr(trt.ComputeCapability, name or "CURRENT", None)
    if capability is None:
        known = [known for known in trt.ComputeCapability.__members__ if known.startswith("SM")]
        raise EngineBuildError(
            f"tensorrt-rtx {trt.__version__} does not build for {target.device} "
            f"({target.compute_capability}); it knows {', '.join(known)}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _timing_cache(config: Any, path: Path | None) -> Any:
    """What earlier builds measured, if there is a file; an empty one else."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineBuildError(
            f"{path}: not a timing cache of this device and library; name another file with "
            "--timing-cache, or delete it"
        )
    return cache


def _monitor(trt: Any, say: Say) -> Any:
    """Says which phase of the build has begun, where the library reports it."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                say(f"  {phase} ({steps} steps)")

        def step_complete(self, phase: str, step: int) -> bool:
            return True

        def phase_finish(self, phase: str) -> None:
            return None

    return Monitor()


def _shapes(
    name: str, axes: Sequence[str | int], ranges: Mapping[str, tuple[int, int, int]]
) -> list[list[int]]:
    """Least, optimum and largest shape of an input."""
    try:
        triples = [(axis,) * 3 if isinstance(axis, int) else ranges[axis] for axis in axes]
    except KeyError as error:
        raise EngineBuildError(
            f"input {name} has the axis {error}, which no target names"
        ) from None
    return [[triple[which] for triple in triples] for which in range(3)]


def _input_axes(source: Path) -> dict[str, list[str | int]]:
    """Sizes and names of the axes of a graph's inputs, as `axes.json` beside it has them."""
    path = source.with_name("axes.json")
    values: dict[str, dict[str, list[str | int]]] = json.loads(path.read_text("utf-8"))
    return values[source.stem]


def local_capability() -> str:
    """Compute capability of the first NVIDIA GPU here, or empty."""
    nvml = Nvml()
    found = [nvml.ask("nvmlDeviceGetCudaComputeCapability", gpu) for gpu in nvml.gpus()[:1]]
    return ".".join(map(str, found[0])) if found and found[0] else ""


def build_kit(
    folder: str | Path, timing_cache: Path | None = None, say: Say = lambda message: None
) -> list[Path]:
    """Build the engines of a kit that `voxformer export --trt` wrote, into its folder.

    Args:
        folder: of the kit.
        timing_cache: see `build_engines`.
        say: called with a line for each step.

    Raises:
        EngineBuildError: it is no kit, a file of it was changed, or an engine cannot be built here.
    """
    folder = Path(folder)
    try:
        kit = json.loads((folder / KIT_NAME).read_text("utf-8"))
        target = Target.from_mapping(kit["target"]["name"], kit["target"])
        files, precision = kit["files"], kit["precision"]
        sample_rate, frame_shift_s = int(kit["sample_rate"]), float(kit["frame_shift_s"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise EngineBuildError(f"{folder / KIT_NAME}: not a build kit: {error!r}") from None
    for name, digest in files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise EngineBuildError(f"{folder / name}: missing or changed; copy the kit again")
    more = {key: kit[key] for key in ("parity_of_graphs",) if key in kit}
    return build_engines(
        folder, folder, target, precision, sample_rate, frame_shift_s, timing_cache, more, say
    )


def installed_version(library: str) -> str | None:
    """Of a library's package, without importing it."""
    for package in PACKAGES[library]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
