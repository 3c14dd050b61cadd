"""From a bundle's fp32 graphs to engines for a target, or to a kit that builds them elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import onnx

from voxformer.runtime.bundle import GRAPH_NAMES, sha256_of
from voxformer.runtime.trt_build import (
    KIT_NAME,
    MODULES,
    EngineBuildError,
    Target,
    build_engines,
    installed_version,
    local_capability,
)

from .convert import Conversions, Say
from .errors import ExportRefused
from .precision import Precision
from .top_k import keep_best

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TARGETS = Path(__file__).with_name("targets")
DEFAULT_TARGETS = ("rtx4090", "h100")
ENGINES = "engines"

KIT_README = """A build kit: graphs that passed the gate, and what to build from them.

On a host with a {device} and TensorRT:

    pip install 'voxformer[trt]'
    voxformer export --kit .

That checks the graphs' digests and the device, and writes *.engine with a *.json beside each. Copy
these into {folder} of the bundle.
"""


def load_target(name: str) -> Target:
    """A target by name; `local` is the GPU that is there.

    Raises:
        EngineBuildError: there is no such target, or no GPU.
    """
    if name == "local":
        capability = local_capability()
        if not capability:
            raise EngineBuildError("--target local: no NVIDIA GPU is here; name rtx4090 or h100")
        values = tomllib.loads((TARGETS / "rtx4090.toml").read_text("utf-8"))
        library = next((known for known in MODULES if installed_version(known)), "tensorrt")
        own = {"device": "this device", "library": library, "compute_capability": capability}
        return Target.from_mapping(name, {**values, **own})
    path = TARGETS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in TARGETS.glob("*.toml")))
        raise EngineBuildError(f"no target {name!r}; there is {known} and local")
    return Target.from_mapping(name, tomllib.loads(path.read_text("utf-8")))


def add_engines(
    conversions: Conversions,
    bundle: Path,
    targets: Sequence[Target],
    say: Say,
    timing_cache: Path | None = None,
    ctc_topk: int | None = None,
) -> dict[str, Any]:
    """Build each target's engines, or write its kit, into a bundle.

    Args:
        conversions: of the fp32 graphs, which have passed the gate.
        bundle: the folder that gets `engines/<target>-<precision>/`.
        targets: to build for.
        say: called with a line for each step.
        timing_cache: see `build_engines`.
        ctc_topk: tokens of a frame that leave the encoder; all where None.

    Returns:
        For bundle.json: `engines`, what each folder holds, and `engine_graphs`, the digests of the
        graphs that its engines are of.

    Raises:
        ExportRefused: a graph of a target's precision does not pass the gate, unless it is forced:
            then the sidecars say so, and the runtime warns.
        EngineBuildError: an engine cannot be built.
    """
    made: dict[str, str] = {}
    digests: dict[str, dict[str, str]] = {}
    reference = conversions.judge.reference
    rates = reference.sample_rate, reference.frame_shift_s
    blank_id = conversions.judge.vocabulary.blank_id
    for target in targets:
        for precision in target.precisions:
            graphs, verdict = conversions.to(cast("Precision", precision))
            measured = {} if verdict is None else {"parity_of_graphs": verdict.parity}
            if verdict is not None and verdict.failure is not None:
                if not conversions.force:
                    raise ExportRefused(
                        f"{verdict.failure}; no {precision} engine is built of such graphs "
                        "(--force builds it all the same)"
                    )
                measured["parity_of_graphs"] = {**verdict.parity, "failure": verdict.failure}
                say(f"WRONG, {precision} engines because of --force: {verdict.failure}")
            out = bundle / ENGINES / f"{target.name}-{precision}"
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                for name in GRAPH_NAMES:
                    shutil.copyfile(graphs / name, folder / name)
                if ctc_topk is not None:
                    keep_best(folder / GRAPH_NAMES[0], ctc_topk, blank_id)
                _write_axes(folder)
                digests[out.name] = {
                    Path(name).stem: sha256_of(folder / name) for name in GRAPH_NAMES
                }
                if can_build(target):
                    build_engines(
                        folder, out, target, precision, *rates, timing_cache, measured, say
                    )
                    made[out.name] = "engines"
                else:
                    say(f"no {target.device} is here: writing a build kit, {ENGINES}/{out.name}")
                    _write_kit(folder, out, target, precision, rates, measured)
                    made[out.name] = "kit"
    return {"engines": made, "engine_graphs": digests}


def can_build(target: Target) -> bool:
    """TensorRT-RTX builds anywhere; TensorRT builds for the device that is there."""
    return target.library == "tensorrt-rtx" or target.compute_capability == local_capability()


def _write_axes(folder: Path) -> None:
    """Sizes and names of the inputs' axes, so that a build needs no ONNX package."""
    axes = {}
    for name in GRAPH_NAMES:
        graph = onnx.load(folder / name).graph
        axes[Path(name).stem] = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in graph.input
        }
    (folder / "axes.json").write_text(json.dumps(axes, indent=2) + "\n", encoding="utf-8")


def _write_kit(
    graphs: Path,
    out: Path,
    target: Target,
    precision: str,
    rates: tuple[int, float],
    more: dict[str, Any],
) -> None:
    out.mkdir(parents=True)
    for name in (*GRAPH_NAMES, "axes.json"):
        shutil.copyfile(graphs / name, out / name)
    kit = {
        "format": "voxformer-build-kit",
        "target": {**asdict(target), "precisions": list(target.precisions)},
        "precision": precision,
        "sample_rate": rates[0],
        "frame_shift_s": rates[1],
        "files": {name: sha256_of(out / name) for name in (*GRAPH_NAMES, "axes.json")},
        **more,
    }
    (out / KIT_NAME).write_text(json.dumps(kit, indent=2) + "\n", encoding="utf-8")
    readme = KIT_README.format(device=target.device, folder=f"{ENGINES}/{out.name}")
    (out / "README.txt").write_text(readme, encoding="utf-8")
