"""Word error rate and real-time factor of a bundle, by engine and decoding mode.

    python benchmarks/rtf.py --model bundles/an4 --manifest an4-test.jsonl --json rtf.json

RTF is processing time over audio time, RTFx its inverse, both pooled over the set, in one process.
Inside the clock: padding, front end, encoder, search and text. Outside: reading and resampling the
recordings, loading the model, and a warm-up over batches from the longest to the shortest. The
modes share one encoder pass, and rescoring the search of ctc_beam; their time counts in each mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.data import read_manifest
from voxformer.evaluation import Evaluation, evaluate
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import (
    ModelError,
    OpenModel,
    newest_bundle,
    open_bundle,
    open_checkpoint,
)
from voxformer.evaluation.results import write_json
from voxformer.runtime import MODES, Bundle, read_bundle
from voxformer.runtime.bundle import sha256_of
from voxformer.runtime.options import check_mode

ENGINES = ("torch", "onnxruntime")
WARM_UP_BATCHES = 5


def main() -> int:
    args = _arguments()
    bundle = read_bundle(args.model or newest_bundle())
    manifest = args.manifest or bundle.values["provenance"]["manifest"]
    if manifest is None:
        raise ModelError(f"{bundle.path} was exported without a manifest; name one with --manifest")
    utterances = read_manifest(manifest)
    modes = [mode for mode in bundle.modes if mode in (args.modes or MODES)]
    for mode in args.modes or ():
        check_mode(mode, bundle.modes)
    print(
        f"{bundle.path} on {manifest}: {len(utterances)} utterances, batches of {args.batch_size}"
    )
    results: list[dict[str, Any]] = []
    for name, model in _models(args, bundle):
        evaluation = evaluate(
            model.engine,
            model.vocabulary,
            utterances,
            modes,
            replace(bundle.decoding, num_threads=args.threads),
            batch_size=args.batch_size,
            warm_up=WARM_UP_BATCHES,
        )
        print(_table(evaluation))
        results.append({"name": name, **evaluation.to_json(utterances=False)})
    if args.json:
        values = {
            "bundle": str(bundle.path),
            "manifest": str(manifest),
            "batch_size": args.batch_size,
            "decoding": bundle.decoding.to_json(),
            "warm_up_batches": WARM_UP_BATCHES,
            "process": "one process",
            **circumstances(),
            "engines": results,
        }
        write_json(args.json, values)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="BUNDLE", help="default: the newest one")
    parser.add_argument("--checkpoint", metavar="CKPT", help="for torch (default: the bundle's)")
    parser.add_argument("--manifest", help="default: the one that the bundle was exported with")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="write results and circumstances here")
    return parser.parse_args()


def _models(args: argparse.Namespace, bundle: Bundle) -> Iterator[tuple[str, OpenModel]]:
    """Each engine in turn, loaded when its turn comes."""
    for name in args.engine:
        if name == "onnxruntime":
            yield name, open_bundle(bundle, args.provider, args.threads)
        else:
            yield name, open_checkpoint(_checkpoint(args, bundle), args.provider, args.threads)


def _checkpoint(args: argparse.Namespace, bundle: Bundle) -> Path:
    """The checkpoint that the bundle was made from, or the one that was named."""
    if args.checkpoint:
        return Path(args.checkpoint)
    provenance = bundle.values["provenance"]
    path = provenance["checkpoint"]
    if path is None or not Path(path).is_file():
        raise ModelError(
            f"the checkpoint of {bundle.path} ({path}) is not here; name it with --checkpoint, or "
            "leave torch out with --engine onnxruntime"
        )
    if provenance["checkpoint_sha256"] != sha256_of(Path(path)):
        raise ModelError(
            f"{path} has changed since {bundle.path} was exported from it; export again, or name "
            "the checkpoint with --checkpoint"
        )
    return Path(path)


def _table(evaluation: Evaluation) -> str:
    audio = f"{evaluation.audio_seconds:.1f} s of audio"
    header = (
        f"{'mode':<11} {'WER %':>7} {'95 % interval':>15} {'oracle %':>9} {'reordered':>9} "
        f"{'time s':>8} {'RTF':>8} {'RTFx':>8}"
    )
    lines = [f"\n{evaluation.engine}, {evaluation.threads} threads, {audio}", header]
    for mode, result in evaluation.modes.items():
        low, high = result.interval
        reordered = str(result.reordered) if mode == "rescoring" else "-"
        lines.append(
            f"{mode:<11} {100 * result.wer:>7.2f} {f'{100 * low:.2f}-{100 * high:.2f}':>15} "
            f"{100 * result.oracle.wer:>9.2f} {reordered:>9} {result.seconds:>8.2f} "
            f"{result.rtf:>8.4f} {1 / result.rtf:>8.1f}"
        )
    lines += [f"skipped {name}: {reason}" for name, reason in evaluation.skipped]
    return "\n".join(lines)


if __name__ == "__main__":
    leave(main)
