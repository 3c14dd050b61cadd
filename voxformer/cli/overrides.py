"""`--set`, as every command that reads a config has it."""

from __future__ import annotations

import argparse


def add_overrides(parser: argparse.ArgumentParser, where: str) -> None:
    """Let the user override values; they come as `args.overrides`.

    Args:
        parser: of the command.
        where: what has the values, for the help.
    """
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"override a value {where}; may be repeated",
    )
