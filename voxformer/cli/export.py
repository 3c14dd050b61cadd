"""`voxformer export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from voxformer.cli.numbers import whole
from voxformer.cli.search import add_lm_arguments, check_lm_options, lm_options

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
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of weights and arithmetic; int8 is calibrated on the manifest (default: fp32)",
    )
    parser.add_argument(
        "--ctc-topk",
        type=whole(1),
        metavar="K",
        help="let only the best K tokens of a frame and the blank leave the encoder, where moving "
        "the whole CTC matrix off a device takes time",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write a bundle that the gate refuses; whoever loads it is warned",
    )
    parser.add_argument(
        "--trt",
        action="store_true",
        help="build TensorRT engines as well, or a kit where the target's device is needed",
    )
    parser.add_argument(
        "--target",
        choices=("rtx4090", "h100", "local"),
        help="of --trt (default: rtx4090, which is built anywhere, and h100)",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="what TensorRT has measured on this device: read and written, for faster builds",
    )
    parser.add_argument("--kit", metavar="DIR", help="build the engines of a kit, and no more")
    add_lm_arguments(
        parser.add_argument_group("language model and lexicon that become part of the bundle"),
        without=False,
    )
    parser.add_argument(
        "--exporter",
        choices=("dynamo", "trace"),
        default="dynamo",
        help="PyTorch's exporter; trace takes seconds instead of minutes and is deprecated there",
    )


def run(args: argparse.Namespace) -> int:
    """Export and say where the bundle is."""
    if args.lm is None:
        check_lm_options(args)
    if args.kit:
        for flag in ("lm", "lexicon"):
            if getattr(args, flag) is not None:
                raise ExportUsageError(
                    f"--{flag} is for a bundle: name it when the bundle is exported"
                )
        from voxformer.runtime.trt_build import build_kit

        for path in build_kit(args.kit, args.timing_cache, say=print):
            print(f"wrote {path}")
        return 0
    if args.target and not args.trt:
        raise ExportUsageError("--target is for TensorRT engines: add --trt")
    if args.timing_cache and not args.trt:
        raise ExportUsageError("--timing-cache is for TensorRT engines: add --trt or --kit DIR")
    from voxformer.export.engines import DEFAULT_TARGETS

    targets = ([args.target] if args.target else list(DEFAULT_TARGETS)) if args.trt else []
    from voxformer.evaluation.models import newest_checkpoint
    from voxformer.export import export_checkpoint

    checkpoint = args.checkpoint or newest_checkpoint()
    out = export_checkpoint(
        checkpoint,
        args.out,
        args.manifest,
        precision=args.precision,
        ctc_topk=args.ctc_topk,
        targets=targets,
        timing_cache=args.timing_cache,
        force=args.force,
        search=lm_options(args),
        exporter=args.exporter,
        say=print,
    )
    print(f"wrote {out}")
    return 0
