"""Write down what wheels of TensorRT, TensorRT-RTX and cuda-bindings offer of what VoxFormer calls.

    pip download --no-deps -d build/api tensorrt-cu12-bindings==10.0.1 ...
    python packaging/tensorrt_api.py build/api/*.whl

makes tests/runtime/tensorrt_api.json: for each library and version the signatures, as the bindings
themselves state them, of every name in `USED`. Bindings are imported without the library that they
bind (NVIDIA serves it from elsewhere, and it wants a GPU): libraries of its names whose functions
do nothing, made with the C compiler, satisfy the loader. Wheels must be of the Python that runs
this; cuda-bindings needs cuda-pathfinder beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "tests" / "runtime" / "tensorrt_api.json"

MODULES = {
    "tensorrt_bindings": "tensorrt",
    "tensorrt_rtx_bindings": "tensorrt-rtx",
    "cuda.bindings.runtime": "cuda-bindings",
}

TENSORRT = {
    "Builder": "create_network create_builder_config create_optimization_profile "
    "build_serialized_network",
    "OnnxParser": "parse_from_file get_error",
    "ParserError": "desc",
    "INetworkDefinition": "num_inputs get_input",
    "ITensor": "name",
    "IBuilderConfig": "add_optimization_profile builder_optimization_level create_timing_cache "
    "set_timing_cache progress_monitor",
    "IOptimizationProfile": "set_shape",
    "ITimingCache": "serialize",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "Logger": "ERROR",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype "
    "get_tensor_shape num_optimization_profiles get_tensor_profile_shape "
    "create_execution_context",
    "IExecutionContext": "set_input_shape set_tensor_address infer_shapes get_tensor_shape "
    "execute_async_v3 set_optimization_profile_async",
    "TensorIOMode": "INPUT OUTPUT",
    "": "nptype __version__",
}

CUDA = {
    "": "cudaGetDeviceCount cudaSetDevice cudaDeviceGetAttribute cudaMalloc cudaFree "
    "cudaMallocHost cudaFreeHost cudaMemcpyAsync cudaMemcpy2DAsync cudaStreamCreateWithFlags "
    "cudaStreamSynchronize cudaStreamWaitEvent cudaEventCreateWithFlags cudaEventRecord "
    "cudaGetErrorString cudaStreamNonBlocking cudaEventDisableTiming",
    "cudaMemcpyKind": "cudaMemcpyHostToDevice cudaMemcpyDeviceToHost cudaMemcpyDeviceToDevice",
    "cudaDeviceAttr": "cudaDevAttrComputeCapabilityMajor cudaDevAttrComputeCapabilityMinor",
    "cudaError_t": "cudaErrorInsufficientDriver cudaErrorNoDevice cudaErrorMemoryAllocation",
}

USED = {"tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT, "cuda-bindings": CUDA}

SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+\(.*\)(?: -> .+)?)$", re.MULTILINE)


def main() -> int:
    """Read the wheels and write the file."""
    wheels = [Path(argument).resolve() for argument in sys.argv[1:]]
    if not wheels or not all(wheel.is_file() for wheel in wheels):
        print(__doc__, file=sys.stderr)
        return 2
    found: dict[str, dict[str, list[str]]] = {}
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            [module] = [name for name in MODULES if _has(folder, name)]
            for extension in folder.rglob("*.so"):
                _stand_in_for_libraries(extension, folder / "stand-ins")
            environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "stand-ins")}
            environment["PYTHONPATH"] = str(folder)
            asked = json.dumps(USED[MODULES[module]])
            command = [sys.executable, "-W", "ignore", __file__, "--inside", module, asked]
            printed = subprocess.check_output(command, env=environment, text=True)
            version = wheel.name.split("-")[1]
            found[f"{MODULES[module]} {version}"] = json.loads(printed)
    OUT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {OUT}")
    return 0


def _has(folder: Path, module: str) -> bool:
    return next(folder.glob(f"{module.replace('.', '/')}*"), None) is not None


def _stand_in_for_libraries(extension: Path, out: Path) -> None:
    """Libraries of the names that an extension needs, whose functions do nothing."""
    out.mkdir(exist_ok=True)
    listed = subprocess.check_output(["readelf", "-dW", "--dyn-syms", str(extension)], text=True)
    missing = set(re.findall(r" GLOBAL +DEFAULT +UND +(\w+)$", listed, re.MULTILINE))
    functions = [name for name in sorted(missing) if not name.startswith(("Py", "_Py"))]
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions)
    for name in re.findall(r"NEEDED.*\[(lib(?:nv|tensorrt)[^\]]+)\]", listed):
        command = ["cc", "-shared", "-w", f"-Wl,-soname,{name}", "-o", str(out / name), "-xc", "-"]
        subprocess.run(command, check=True, input=source, text=True)


def inside(module_name: str, asked: dict[str, str]) -> dict[str, list[str]]:
    """What a module says of names: signatures of functions, nothing for others."""
    import importlib

    sys.setdlopenflags(os.RTLD_LAZY)
    module = importlib.import_module(module_name)
    found = {}
    for owner, names in asked.items():
        holder = getattr(module, owner, None) if owner else module
        for name in names.split():
            if hasattr(holder, name):
                document = getattr(holder, name).__doc__ or ""
                signatures = [line for line in SIGNATURE.findall(document) if "*args" not in line]
                wanted = [line for line in signatures if line.startswith(f"{name}(")]
                found[f"{owner}.{name}".lstrip(".")] = wanted
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(inside(sys.argv[2], json.loads(sys.argv[3]))))
        sys.exit(0)
    sys.exit(main())
