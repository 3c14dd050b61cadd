"""`voxformer checkpoints`: look after a run's checkpoints, without a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from voxformer.cli.numbers import fraction, whole

EXAMPLE = """voxformer checkpoints verify checkpoints/stage4_fixed
  voxformer checkpoints mirror checkpoints/stage4_fixed sftp://me@host/runs/stage4_fixed
  voxformer checkpoints pull sftp://me@host/runs/stage4_fixed checkpoints/stage4_fixed
  voxformer checkpoints average checkpoints/stage4_fixed mean.pt --keep 5
  voxformer checkpoints mix checkpoints/seed1/best.pt checkpoints/seed2/best.pt mean.pt
  voxformer checkpoints mix stage2/best.pt stage3/best.pt joined.pt --share 0 --decoder-share 1
  voxformer checkpoints slim checkpoints/stage4_fixed/best.pt small.pt --half
  voxformer checkpoints unpack models/read-english start.pt"""

FORMS = {
    "mirror": "DIR URL",
    "pull": "URL DIR",
    "average": "DIR OUT",
    "mix": "FILE FILE OUT",
    "slim": "FILE OUT",
    "unpack": "BUNDLE OUT",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = ("list", "verify", "prune", "mirror", "pull", "average", "mix", "slim", "unpack")
    parser.add_argument("action", choices=actions)
    parser.add_argument(
        "places",
        nargs="+",
        metavar="DIR",
        help="a run folder; " + ", ".join(f"{action}: {form}" for action, form in FORMS.items()),
    )
    parser.add_argument(
        "--keep",
        type=whole(1),
        default=3,
        help="step_N.pt files that prune and mirror leave, and that average takes",
    )
    parser.add_argument(
        "--share", type=fraction, default=0.5, help="mix: of the second file's weights"
    )
    parser.add_argument(
        "--decoder-share",
        type=fraction,
        help="mix: of the second file's attention decoder, if that is to differ",
    )
    parser.add_argument(
        "--half", action="store_true", help="slim: matrices as float16, half the size"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; `verify` exits with 2 when a file is damaged."""
    from voxformer.training.storage import FolderError

    form = FORMS.get(args.action, "DIR")
    if len(args.places) != len(form.split()):
        raise FolderError(f"{args.action} takes {form}")
    if args.action == "pull":
        return _pull(args.places[0], Path(args.places[1]))
    if args.action == "mix":
        first, second, out = map(Path, args.places)
        return _mix(first, second, out, args.share, args.decoder_share)
    if args.action == "slim":
        return _slim(Path(args.places[0]), Path(args.places[1]), args.half)
    if args.action == "unpack":
        return _unpack(Path(args.places[0]), Path(args.places[1]))
    folder = Path(args.places[0])
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; name a run folder")
    files = sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FolderError(f"{folder}: no checkpoints here")
    if args.action == "mirror":
        return _mirror(folder, args.places[1], args.keep)
    if args.action == "average":
        return _average(folder, Path(args.places[1]), args.keep)
    if args.action == "prune":
        return _prune(folder, args.keep)
    damaged = 0
    for path in files:
        size = path.stat().st_size / 2**20
        state = _state(path) if args.action == "verify" else ""
        damaged += state not in ("", "verified")
        print(f"{path.name:24} {size:9.1f} MiB  {state}".rstrip())
    return 2 if damaged else 0


def _prune(folder: Path, keep: int) -> int:
    """Delete older steps; the newest that verifies stays wherever it stands among them."""
    from voxformer.training.space import newest_that_verifies
    from voxformer.training.storage import numbered_checkpoints, remove_verified

    steps = numbered_checkpoints(folder, "step")
    newest = newest_that_verifies(reversed(steps))
    for path in steps[:-keep]:
        if path == newest:
            print(f"{path.name}: kept, the newest that verifies")
        else:
            remove_verified(path)
            print(f"{path.name}: deleted")
    return 0


def _average(folder: Path, out: Path, count: int) -> int:
    from voxformer.training.averaging import average_checkpoints
    from voxformer.training.storage import numbered_checkpoints

    steps = numbered_checkpoints(folder, "step")[-count:]
    average_checkpoints(steps, out)
    print(f"{out}: mean of {', '.join(path.name for path in steps)}")
    return 0


def _mix(first: Path, second: Path, out: Path, share: float, decoder_share: float | None) -> int:
    from voxformer.training.averaging import mix_checkpoints

    mix_checkpoints(first, second, share, out, decoder_share)
    decoder = "" if decoder_share is None else f"; {decoder_share:.0%} of its decoder"
    print(f"{out}: {1 - share:.0%} of {first}, {share:.0%} of {second}{decoder}")
    return 0


def _slim(path: Path, out: Path, half: bool) -> int:
    from voxformer.training.averaging import slim_checkpoint

    slim_checkpoint(path, out, half)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB of {path.stat().st_size / 2**20:.1f}")
    return 0


def _unpack(bundle: Path, out: Path) -> int:
    from voxformer.export.unpack import unpack_bundle

    difference = unpack_bundle(bundle, out)
    print(f"{out}: the weights of {bundle}; log-probs differ by {difference:.2g} nats at most")
    return 0


def _mirror(folder: Path, url: str, keep: int) -> int:
    from voxformer.config import MirrorConfig
    from voxformer.training.mirror import Mirror
    from voxformer.training.remote import checked

    settings = MirrorConfig(url=checked(url), keep_last_n=keep)  # type: ignore[call-arg]
    mirror = Mirror(settings, folder)
    for name in mirror.copy():
        print(f"{name}: sent, verified there")
    print(f"{url}: up to date, newest step_{mirror.state.step}.pt")
    return 0


def _pull(url: str, folder: Path) -> int:
    from voxformer.training.mirror import pull_url
    from voxformer.training.remote import checked
    from voxformer.training.setup import locked, make_run_folder
    from voxformer.training.storage import FolderError, holds_checkpoints

    checked(url)
    make_run_folder(folder)
    with locked(folder):
        if holds_checkpoints(folder):
            raise FolderError(f"{folder}: already holds checkpoints; name another folder")
        pulled = pull_url(url, folder)
    for path in pulled.files:
        print(f"{path.relative_to(folder)}: fetched, verified")
    return 0


def _state(path: Path) -> str:
    from voxformer.training.storage import DigestError, verify

    try:
        verify(path)
    except DigestError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return "verified"
