"""What a figure was measured with: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voxformer import __version__
from voxformer.nvml import Nvml

PACKAGES = ("numpy", "torch", "onnxruntime", "onnxruntime-gpu")


def circumstances() -> dict[str, Any]:
    """`machine`, `versions` and `commit`, as results keep them beside their figures."""
    return {"machine": _machine(), "versions": _versions(), "commit": _commit()}


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "system": platform.system(),
        "load_at_end": os.getloadavg()[0],
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    """Name, power limit in W and driver of each NVIDIA GPU; None for what it does not tell."""
    nvml = Nvml()
    found = []
    for gpu in nvml.gpus():
        limit = nvml.ask("nvmlDeviceGetPowerManagementLimit", gpu)
        found.append(
            {
                "name": nvml.ask("nvmlDeviceGetName", gpu),
                "power_limit_w": None if limit is None else limit / 1000,
                "driver": nvml.ask("nvmlSystemGetDriverVersion"),
            }
        )
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _versions() -> dict[str, str]:
    versions = {"voxformer": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The checkout's commit, with a plus if it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "csrc").is_dir():  # installed: a repository around it is somebody else's
        return None
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
