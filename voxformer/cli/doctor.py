"""`voxformer doctor`: what is installed, which engines can run here, and what to do."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "voxformer doctor --checkpoint-dir /data/checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="where runs are to be kept (default: checkpoints)",
    )


def run(args: argparse.Namespace) -> int:
    """Print a line for each finding, and what to do below it; 2 when the decoder is missing."""
    from voxformer.diagnosis import diagnose

    fixes, broken = 0, False
    for line in diagnose(args.checkpoint_dir):
        print(f"{line.name:12} {line.text}")
        if line.fix:
            print(f"{'':12} -> {line.fix}")
        fixes += bool(line.fix)
        broken = broken or line.broken
    if fixes:
        print(f"{fixes} {'lines have' if fixes > 1 else 'line has'} something to do, marked ->")
    else:
        print("nothing to do")
    return 2 if broken else 0
