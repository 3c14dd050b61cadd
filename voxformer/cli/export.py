"""`voxformer export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse

EXAMPLE = "voxformer export --checkpoint checkpoints/an4/best.pt --manifest an4-valid.jsonl"


class ExportUsageError(ValueError):
    """Something was asked for that this version cannot make."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--checkpoint", metavar="CKPT", help="default: newest run's best.pt")
    parser.add_argument("--out", metavar="BUNDLE", help="default: bundles/<name of the run>")
    parser.add_argument(
        "--manifest",
        help="speech on which the bundle must reach the model's WER (default: the run's "
        "data.valid_manifest)",
    )
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    parser.add_argument("--trt", action="store_true", help="build TensorRT engines as well")
    parser.add_argument("--target", choices=("rtx4090", "h100", "local"), help="of --trt")
    parser.add_argument(
        "--exporter",
        choices=("dynamo", "trace"),
        default="dynamo",
        help="PyTorch's exporter; trace takes seconds instead of minutes and is deprecated there",
    )


def run(args: argparse.Namespace) -> int:
    """Export and say where the bundle is."""
    if args.trt or args.target:
        raise ExportUsageError("TensorRT engines are not built by this version; leave out --trt")
    if args.precision != "fp32":
        raise ExportUsageError(f"--precision {args.precision} is not in this version; use fp32")
    from pathlib import Path

    from voxformer.evaluation.models import newest_checkpoint
    from voxformer.export import Provenance, export_bundle
    from voxformer.training.checkpoint import load_model_checkpoint

    checkpoint = Path(args.checkpoint) if args.checkpoint else newest_checkpoint()
    loaded = load_model_checkpoint(checkpoint)
    manifest = args.manifest or loaded.config.data.valid_manifest
    if manifest is None:
        print("no --manifest and no data.valid_manifest: error rates are not compared")
    out = export_bundle(
        loaded.model,
        loaded.tokens,
        loaded.config,
        args.out or Path("bundles") / checkpoint.resolve().parent.name,
        manifest,
        max_tokens_per_second=loaded.metadata["max_tokens_per_second"],
        provenance=Provenance.from_metadata(checkpoint, loaded.metadata),
        exporter=args.exporter,
        say=print,
    )
    print(f"wrote {out}")
    return 0
