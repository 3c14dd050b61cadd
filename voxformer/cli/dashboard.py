"""`voxformer dashboard`: a live page over one run folder or several."""

from __future__ import annotations

import argparse

from voxformer.cli.numbers import whole

EXAMPLE = "voxformer dashboard checkpoints/stage4 --port 3000"

SHORTEST_TOKEN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or a folder of them")
    parser.add_argument("--port", type=whole(0), default=3000, help="0 takes any free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; beyond loopback needs a token"
    )
    parser.add_argument(
        "--token",
        help="what browsers must know; made and printed where --host needs one and none is given",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; the page's address is the first line printed."""
    import secrets

    from voxformer.dashboard.access import is_loopback
    from voxformer.dashboard.app import serve
    from voxformer.dashboard.runs import DashboardError, open_runs

    if args.port > 65535:
        raise DashboardError(f"--port {args.port}: the highest is 65535")
    token = args.token
    if token is None and not is_loopback(args.host):
        token = secrets.token_urlsafe(24)
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise DashboardError(f"--token: needs at least {SHORTEST_TOKEN} ASCII characters")
    serve(open_runs(args.runs), args.host, args.port, token)
    return 0
