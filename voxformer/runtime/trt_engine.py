"""TensorRT engines of a bundle: whether they can run here. Running them is not built yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from voxformer.runtime.bundle import Bundle, sha256_of
from voxformer.runtime.engine import EngineError
from voxformer.runtime.trt_build import GRAPHS, installed_version, local_capability

ENGINES = "engines"


def find_engines(bundle: Bundle, capability: str | None = None) -> Path:
    """The folder of the bundle's engines for the GPU that is here, verified.

    Args:
        bundle: that has `engines/`.
        capability: of the GPU, such as `8.9`; found out where None, empty where there is none.

    Raises:
        EngineError: there is none for this device, library or graph; the message has the command
            that builds them.
    """
    folders = sorted((bundle.path / ENGINES).glob("*-*"))
    if not folders:
        raise EngineError(
            f"{bundle.path}: no TensorRT engines in it; `voxformer export --trt` makes them"
        )
    here = local_capability() if capability is None else capability
    reasons = []
    for folder in folders:
        reason = _why_not(folder, here)
        if reason is None:
            return folder
        reasons.append(f"{folder.name}: {reason}")
    raise EngineError(f"{bundle.path}: no TensorRT engine can run here; {'; '.join(reasons)}")


def _why_not(folder: Path, here: str) -> str | None:
    for name in GRAPHS:
        engine, sidecar = folder / f"{name}.engine", folder / f"{name}.json"
        if not engine.is_file() or not sidecar.is_file():
            return f"not built yet; `voxformer export --kit {folder}` builds it on its device"
        values: dict[str, Any] = json.loads(sidecar.read_text("utf-8"))
        target = values["target"]["name"]
        rebuild = f"`voxformer export --trt --target {target}`"
        if sha256_of(engine) != values["engine_sha256"]:
            return f"{engine.name} was changed; build it again with {rebuild}"
        if values["compute_capability"] != here:
            device = f"a GPU of compute capability {here}" if here else "no NVIDIA GPU"
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
