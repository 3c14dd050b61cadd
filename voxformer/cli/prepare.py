"""`voxformer prepare`: a corpus as JSONL manifests."""

from __future__ import annotations

import argparse
import sys

from voxformer.cli.numbers import whole

EXAMPLE = "voxformer prepare librispeech LibriSpeech/ --out data/librispeech"

KINDS = ("librispeech", "manifest", "kaldi", "synthetic", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "source",
        nargs="?",
        help="the corpus; `synthetic` reads from this text, or makes spoken commands without one; "
        "`noise` has none",
    )
    parser.add_argument("--out", required=True, help="folder for the manifests")
    parser.add_argument(
        "--name",
        help="with `manifest`: name of the new one without .jsonl; default as the source; with "
        "`synthetic` and a text: default synthetic-train; with `noise`: default noise-train",
    )
    parser.add_argument(
        "--sentences",
        type=whole(1),
        default=2000,
        metavar="N",
        help="with `synthetic` and a text: utterances to make (default: 2000)",
    )
    parser.add_argument(
        "--recordings",
        type=whole(1),
        default=300,
        metavar="N",
        help="with `noise`: recordings in which nobody speaks (default: 300)",
    )
    parser.add_argument(
        "--dev-speakers",
        type=whole(0),
        default=0,
        metavar="N",
        help="with `manifest`: hold out N speakers; writes train.jsonl and dev.jsonl",
    )


def run(args: argparse.Namespace) -> int:
    """Write the manifests and say what was left out."""
    from voxformer.data import prepare
    from voxformer.data.manifest import DataError

    if args.kind == "noise" and args.source is not None:
        raise DataError(
            f"prepare noise: takes no corpus, and {args.source} was named; leave it out"
        )
    if args.kind not in ("synthetic", "noise") and args.source is None:
        raise DataError(f"prepare {args.kind}: name the corpus: voxformer prepare {args.kind} SRC")
    if args.kind == "manifest":
        prepared = prepare.prepare_manifest(args.source, args.out, args.name, args.dev_speakers)
    elif args.kind == "synthetic":
        prepared = prepare.prepare_synthetic(
            args.source, args.out, name=args.name, sentences=args.sentences
        )
    elif args.kind == "noise":
        prepared = prepare.prepare_noise(args.out, name=args.name, recordings=args.recordings)
    else:
        prepared = getattr(prepare, f"prepare_{args.kind}")(args.source, args.out)
    for utterance_id, reason in prepared.bad:
        print(f"left out {utterance_id}: {reason}", file=sys.stderr)
    for name, path in prepared.manifests.items():
        print(f"{name}: {path}")
    return 0
