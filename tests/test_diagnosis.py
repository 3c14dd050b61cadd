"""`voxformer doctor`: real interpreters, folders and file systems, good and bad."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxformer import diagnosis
from voxformer.cli import main


def doctor(*arguments: str, **environment: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and (text, fix) of each line by its name, of a process of its own."""
    script = "import sys; from voxformer.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    found: dict[str, tuple[str, str]] = {}
    last = ""
    for line in done.stdout.splitlines()[:-1]:
        name, text = line[:12].strip(), line[13:]
        if name:
            found[name] = (text, "")
            last = name
        else:
            assert text.startswith("-> ")
            found[last] = (found[last][0], text[3:])
    fixes = sum(bool(fix) for _, fix in found.values())
    said = done.stdout.splitlines()[-1]
    assert said == "nothing to do" if fixes == 0 else said.startswith(f"{fixes} line")
    return done.returncode, found


def test_names_interpreter_builds_and_space(tmp_path: Path) -> None:
    import torch

    code, found = doctor("--checkpoint-dir", str(tmp_path / "runs" / "new"))
    assert code == 0
    assert found["python"][0] == f"{sys.version.split()[0]} at {sys.executable}"
    assert found["environment"][0].startswith(sys.prefix)
    assert found["torch"][0].startswith(torch.__version__)
    assert ("CPU build" in found["torch"][0]) == (torch.version.cuda is None)
    assert "CPUExecutionProvider" in found["onnxruntime"][0]
    total = shutil.disk_usage(tmp_path).total / 2**30
    assert f"free of {total:.1f} GiB at {tmp_path}/runs/new" in found["checkpoints"][0]
    assert not (tmp_path / "runs").exists()
    assert "/dev/shm" in found["shared mem"][0]
    assert f"of {os.cpu_count()} cores usable" in found["cpu"][0]


def test_other_environment_of_the_shell_is_told_apart(tmp_path: Path) -> None:
    _, found = doctor(VIRTUAL_ENV=str(tmp_path))
    text, fix = found["environment"]
    assert text == f"{sys.prefix}, but {tmp_path} is active in this shell"
    assert f"{tmp_path}/bin/python" in fix


def test_command_of_another_python_is_told_apart(tmp_path: Path) -> None:
    own = Path(sys.executable).parent
    if not (own / "voxformer").exists():
        pytest.skip("VoxFormer is not installed as a command here")
    other = tmp_path / "voxformer"
    other.write_text("#!/bin/sh\n")
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    _, found = doctor(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["command"] == (
        f"`voxformer` in this shell is {other}, of another Python",
        f"run {own}/voxformer, or put {own} first in PATH",
    )
    _, found = doctor(PATH=f"{own}:{tmp_path}:{os.environ['PATH']}")
    assert "command" not in found


def test_system_python_without_an_environment_is_told(tmp_path: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    if not base.exists():
        pytest.skip("the base interpreter is somewhere else")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from voxformer import diagnosis\n"
        "for line in diagnosis.interpreter(): print(line.name, line.text, line.fix)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    root = str(Path(diagnosis.__file__).parents[1])
    command = [str(base), "-S", "-c", script, root]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "numpy" in done.stderr:
        pytest.skip("VoxFormer cannot be imported without its packages")
    assert "none: packages go into the system's Python python3 -m venv" in done.stdout


def test_package_that_does_not_load_is_a_finding_with_its_fix(tmp_path: Path) -> None:
    for name in ("torch", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('libcudart.so.13: no such file')\n")
    _, found = doctor(PYTHONPATH=str(tmp_path))
    for name in ("torch", "onnxruntime"):
        text, fix = found[name]
        assert text == "does not load: libcudart.so.13: no such file"
        assert fix == f"pip install --force-reinstall {name}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_little_disk_or_shared_memory_is_told(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = diagnosis.shared_memory(small_disk)
    assert line.text == f"0.0 GiB free of 0.0 GiB at {small_disk}"
    assert "--shm-size" in line.fix
    assert "num_workers: 0" in diagnosis.shared_memory(tmp_path / "none").fix
    assert diagnosis.shared_memory(small_disk, enough=1 << 20).fix == ""
    assert main(["doctor", "--checkpoint-dir", str(small_disk / "runs")]) == 0
    shown = capsys.readouterr().out
    assert f"0.0 GiB free of 0.0 GiB at {small_disk}/runs\n{'':12} -> make space" in shown


def test_cuda_provider_that_would_not_load_is_named(tmp_path: Path) -> None:
    library = tmp_path / "libonnxruntime_providers_cuda.so"
    for name in (library.name, "libonnxruntime_providers_shared.so"):
        (tmp_path / name).write_bytes(b"no library")
    assert "--provider cuda will not work" in diagnosis.cuda_provider_fault(library)
