"""`voxformer checkpoints`: look after a run's checkpoints, without a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from voxformer.cli.numbers import whole

EXAMPLE = "voxformer checkpoints verify checkpoints/stage4_fixed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("list", "verify", "prune"))
    parser.add_argument("folder", help="a run folder")
    parser.add_argument(
        "--keep", type=whole(1), default=3, help="step_N.pt files that prune leaves"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; `verify` exits with 2 when a file is damaged."""
    from voxformer.training.checkpoint import CheckpointError, numbered_checkpoints
    from voxformer.training.storage import remove_verified

    folder = Path(args.folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; name a run folder")
    files = sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise CheckpointError(f"{folder}: no checkpoints here")
    if args.action == "prune":
        for path in numbered_checkpoints(folder, "step")[: -args.keep]:
            remove_verified(path)
            print(f"{path.name}: deleted")
        return 0
    damaged = 0
    for path in files:
        size = path.stat().st_size / 2**20
        state = _state(path) if args.action == "verify" else ""
        damaged += state not in ("", "verified")
        print(f"{path.name:24} {size:9.1f} MiB  {state}".rstrip())
    return 2 if damaged else 0


def _state(path: Path) -> str:
    from voxformer.training.storage import DigestError, verify

    try:
        verify(path)
    except DigestError as error:
        return str(error)
    return "verified"
