"""`voxformer evaluate`: word error rates of a checkpoint or a bundle."""

from __future__ import annotations

import argparse
import sys

from voxformer.cli.numbers import fraction, whole
from voxformer.cli.search import add_search_arguments, with_search_arguments

EXAMPLE = "voxformer evaluate --model bundles/an4 --manifest an4-test.jsonl --mode all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", required=True, metavar="CKPT|BUNDLE")
    parser.add_argument("--manifest", required=True, help="JSONL manifest with texts")
    parser.add_argument(
        "--mode",
        action="append",
        choices=("ctc_greedy", "ctc_beam", "attention", "rescoring", "all"),
        help="decoding mode, may be repeated (default: rescoring; ctc_beam for a model of stage 2)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the whole report, machine and versions here"
    )
    parser.add_argument("--errors", metavar="FILE", help="write every error, aligned, here")
    parser.add_argument("--batch-size", type=whole(1), default=16, help="utterances in a batch")
    parser.add_argument("--beam-size", type=whole(1), help="instead of the model's own")
    parser.add_argument(
        "--ctc-weight", type=fraction, help="of rescoring, instead of the model's own"
    )
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads (default: all)")
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    from dataclasses import replace

    from voxformer.data import read_manifest
    from voxformer.evaluation import evaluate
    from voxformer.evaluation.circumstances import circumstances
    from voxformer.evaluation.models import open_model
    from voxformer.evaluation.report import error_report, summary
    from voxformer.evaluation.results import write_json
    from voxformer.runtime.options import check_mode, default_mode
    from voxformer.text.atomic import write_atomically

    utterances = read_manifest(args.manifest)
    model = open_model(args.model, args.provider, args.threads)
    options = with_search_arguments(model.options, args)
    model.check_writes_words(options)
    if model.random_field and options.language_model is None:
        print(
            f"{args.model}: trained with CTC-CRF, whose error rates without a language model are "
            "high; name one with --lm (tokens.arpa of its run, with --lm-unit token, or one of "
            "words)",
            file=sys.stderr,
        )
    if args.beam_size is not None:
        n_best = min(options.n_best, args.beam_size)
        options = replace(
            options,
            beam_size=args.beam_size,
            attention_beam_size=args.beam_size,
            n_best=n_best,
        )
    if args.ctc_weight is not None:
        options = replace(options, ctc_weight=args.ctc_weight)
    asked = args.mode or [default_mode(model.modes)]
    for mode in asked:
        if mode != "all":
            check_mode(mode, model.modes)
    modes = [mode for mode in model.modes if mode in asked or "all" in asked]
    evaluation = evaluate(
        model.engine, model.vocabulary, utterances, modes, options, batch_size=args.batch_size
    )
    print(summary(evaluation))
    if args.json:
        values = {
            "model": str(args.model),
            "manifest": str(args.manifest),
            "decoding": options.to_json(),
            **evaluation.to_json(),
            **circumstances(),
        }
        write_json(args.json, values)
    if args.errors:
        reports = (error_report(result) for result in evaluation.modes.values())
        write_atomically(args.errors, "\n\n".join(reports) + "\n")
    return 0
