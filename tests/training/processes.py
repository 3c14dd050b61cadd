"""Runs `train` in several processes on this machine, as torchrun would."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from voxformer.cli import main
from voxformer.config import RunConfig

# Importing torch anew would take each process seconds.
_context = multiprocessing.get_context("fork")


def start(
    configs: Sequence[RunConfig],
    output: Path,
    before: Callable[[int], None] | None = None,
    **environment: str,
) -> list[BaseProcess]:
    """Train with one process a config; what each prints goes to `output/<rank>.txt`.

    Args:
        configs: of each process, by rank.
        output: a folder.
        before: called in each process with its rank.
        environment: changes to the environment of all.
    """
    return fork(len(configs), _train, configs, output, before, environment)


def fork(count: int, function: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Run `function(rank, *arguments)` in so many processes that can find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes: list[BaseProcess] = []
    for rank in range(count):
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = _context.Process(target=_run, args=(variables, function, rank, *arguments))
        with warnings.catch_warnings():
            # Python 3.12 warns of threads at every fork; torch has one here, as the tests ask.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            process.start()
        processes.append(process)
    return processes


def finish(processes: Sequence[BaseProcess], timeout_s: float = 120.0) -> list[int | None]:
    """Exit codes, negative for signals; None for what still runs after the time, and is killed."""
    for process in processes:
        process.join(timeout_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def _run(variables: dict[str, str], function: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(variables)
    function(*arguments)


def _train(
    rank: int,
    configs: Sequence[RunConfig],
    output: Path,
    before: Callable[[int], None] | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    printed = (output / f"{rank}.txt").open("w")
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
    sys.stdout = sys.stderr = printed
    if before is not None:
        before(rank)
    path = output / f"process{rank}" / "run.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(configs[rank].model_dump(mode="json")))
    sys.exit(main(["train", "--config", str(path)]))
