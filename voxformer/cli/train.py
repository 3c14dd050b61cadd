"""`voxformer train`: one stage, from a config to checkpoints."""

from __future__ import annotations

import argparse

from voxformer.cli.overrides import add_overrides

EXAMPLE = "voxformer train --config stage4_fixed.yaml --set data.train_manifest=train.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--config", required=True, help="a file, or the name of a config in configs/ or packaged"
    )
    add_overrides(parser, "of the config")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run's own latest.pt if there is one"
    )


def run(args: argparse.Namespace) -> int:
    """Train; the exit code is the run's."""
    from voxformer.config import load_config

    config, path = load_config(args.config, args.overrides)
    from voxformer.training.loop import train
    from voxformer.training.setup import run_folder

    if args.resume:
        config.training.resume_from = str(run_folder(config, path.stem) / "latest.pt")
    return train(config, path.stem)
