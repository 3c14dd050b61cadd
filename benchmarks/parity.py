"""How far the graphs of bundles are from the model, by precision: numbers, and word error rates.

    for p in fp32 fp16 int8; do
      voxformer export --checkpoint best.pt --manifest dev.jsonl --precision $p --out bundles/$p
    done
    python benchmarks/parity.py --model bundles/fp32 bundles/fp16 bundles/int8 --json parity.json

The numbers are those that the gate of `voxformer export` measured and put into each bundle.json:
for each graph the largest difference of a log-prob from PyTorch's, in each of six batches of shapes
other than the traced one. The word error rates are measured here, in every mode that the model was
trained for, on the manifest that the bundles were exported with or on another.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.data import Utterance, read_manifest
from voxformer.evaluation import evaluate
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import ModelError, OpenModel, open_bundle, open_checkpoint
from voxformer.evaluation.results import write_json
from voxformer.evaluation.wer import ErrorCounts
from voxformer.runtime import Bundle, DecodingOptions, read_bundle

GRAPH_OF = {
    "log_probs": "encoder",
    "token_log_probs": "decoder",
    "step_log_probs": "decoder_step",
}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    bundles = [read_bundle(path) for path in args.model]
    provenance = bundles[0].values["provenance"]
    for bundle in bundles:
        theirs = bundle.values["provenance"]["checkpoint_sha256"]
        if theirs is None or theirs != provenance["checkpoint_sha256"]:
            raise ModelError(f"{bundle.path}: of another checkpoint than {bundles[0].path}")
    manifest = args.manifest or provenance["manifest"]
    if manifest is None:
        raise ModelError(f"{bundles[0].path} was exported without a manifest; name one")
    utterances = read_manifest(manifest)
    checkpoint = Path(args.checkpoint or provenance["checkpoint"])
    model = open_checkpoint(checkpoint, threads=args.threads)
    graphs = [open_bundle(bundle) for bundle in bundles]
    expected: dict[DecodingOptions, dict[str, ErrorCounts]] = {}
    for opened in graphs:
        if opened.options not in expected:
            same_search = replace(model, options=opened.options)
            expected[opened.options] = _words(same_search, utterances)
    values = {
        "checkpoint": str(checkpoint),
        "manifest": str(manifest),
        "utterances": len(utterances),
        **circumstances(),
        "parity": [
            {
                **_numbers(bundle),
                "wer": _compared(expected[opened.options], _words(opened, utterances)),
            }
            for bundle, opened in zip(bundles, graphs, strict=True)
        ],
    }
    for found in values["parity"]:
        print("\n".join(_lines(found)))
    if args.json:
        write_json(args.json, values)
    return 0


def _numbers(bundle: Bundle) -> dict[str, Any]:
    """What the gate measured, by graph."""
    parity = bundle.values["parity"]
    kept = parity.get("kept_fp32", {})
    largest = parity.get("largest_activations", {})
    return {
        "bundle": str(bundle.path),
        "precision": bundle.precision,
        "bytes": sum(entry["bytes"] for entry in bundle.values["files"].values()),
        "ctc_topk": bundle.values.get("ctc_topk"),
        "failure": parity.get("failure"),
        "tolerance": parity["tolerance"],
        "least_probability": parity["least_probability"],
        "wer_tolerance": parity.get("wer_tolerance"),
        "graphs": {
            graph: {
                "worst": parity["max_abs_difference"][output],
                "cases": {name: case[output] for name, case in parity["cases"].items()},
                "matrices_kept_fp32": len(kept[f"{graph}.onnx"]) if kept else None,
                "largest_half": max(largest.get(f"{graph}.onnx", {}).values(), default=None),
            }
            for output, graph in GRAPH_OF.items()
        },
    }


def _words(model: OpenModel, utterances: Sequence[Utterance]) -> dict[str, ErrorCounts]:
    found = evaluate(model.engine, model.vocabulary, utterances, model.modes, model.options)
    return {mode: result.words for mode, result in found.modes.items()}


def _compared(
    expected: dict[str, ErrorCounts], found: dict[str, ErrorCounts]
) -> dict[str, dict[str, Any]]:
    return {
        mode: {
            "torch": left.wer,
            "graphs": found[mode].wer,
            "errors_apart": abs(left.errors - found[mode].errors),
            "reference_words": left.reference_words,
        }
        for mode, left in expected.items()
    }


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['bundle']} ({found['precision']}), at most {found['tolerance']:g} nats"]
    for graph, numbers in found["graphs"].items():
        cases = ", ".join(f"{name} {value:.2g}" for name, value in numbers["cases"].items())
        lines.append(f"  {graph:<13} worst {numbers['worst']:.2g}: {cases}")
    for mode, rates in found["wer"].items():
        lines.append(
            f"  {mode:<13} WER {rates['graphs']:.2%}, model {rates['torch']:.2%}, "
            f"{rates['errors_apart']} errors apart"
        )
    return lines


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", required=True, metavar="BUNDLE")
    parser.add_argument("--checkpoint", metavar="CKPT", help="default: the bundles'")
    parser.add_argument("--manifest", help="default: the one that the bundles were exported with")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    leave(main)
