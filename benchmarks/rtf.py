"""Word error rate and real-time factor of bundles, by engine, precision, batch size and mode.

    python benchmarks/rtf.py --model bundles/an4 bundles/an4-int8 --manifest an4-test.jsonl \\
      --batch-size auto 1 16 --beam-size 10 --json rtf.json --svg rtf.svg

RTF is processing time over audio time, RTFx its inverse, both pooled over the set; padding is no
audio, and the last, smaller batch counts. Inside the clock: padding, front end, encoder, transfers,
search and text. Outside: reading and resampling the recordings, loading the model, and a warm-up
over batches from the longest to the shortest. Every configuration does its own work, nothing is
shared. Rounds are interleaved and the median counts; the WER is that of the texts of the same pass.

A bundle made by `voxformer export --precision` is measured with ONNX Runtime; the checkpoint that
the first was exported from, in fp32, with PyTorch. `--engine pocketsphinx` measures that recogniser
beside them (`pip install pocketsphinx`; its weights are in the package).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave
from rtf_passes import TIMED, ModelRunner, PocketsphinxRunner, Runner, Speech, measure
from rtf_report import lines, plot

from voxformer.audio import read_audio
from voxformer.cli.numbers import whole
from voxformer.data import DataError, read_manifest, spread
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import (
    ModelError,
    OpenModel,
    newest_bundle,
    open_bundle,
    open_checkpoint,
)
from voxformer.evaluation.results import write_json
from voxformer.runtime import MODES, Bundle, DecodingOptions, read_bundle
from voxformer.runtime.bundle import sha256_of
from voxformer.runtime.options import check_mode
from voxformer.text import normalise
from voxformer.text.atomic import write_atomically

ENGINES = ("torch", "onnxruntime", "pocketsphinx")
WARM_UP_BATCHES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    values = _read(args.read) if args.read else _measured(args)
    print("\n".join(lines(values["passes"])))
    if args.json:
        write_json(args.json, values)
    if args.svg:
        what = ", ".join(model["path"] for model in values["models"][:1])
        title = f"RTFx of {what}, {values['machine']['cpu']}, {values['machine']['cores']} cores"
        write_atomically(args.svg, plot(values, title))
    return 0


def _read(path: str) -> dict[str, Any]:
    """What an earlier run wrote."""
    try:
        values: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        lines(values["passes"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: not what --json of this script writes") from None
    return values


def _measured(args: argparse.Namespace) -> dict[str, Any]:
    bundles = [read_bundle(path) for path in args.model or [newest_bundle()]]
    manifest = args.manifest or bundles[0].values["provenance"]["manifest"]
    if manifest is None:
        raise ModelError(
            f"{bundles[0].path} was exported without a manifest; name one with --manifest"
        )
    for mode in args.modes or ():
        check_mode(mode, bundles[0].modes)
    speech = _speech(manifest, bundles[0].sample_rate, args.utterances)
    audio = sum(speech.durations)
    options = _options(args, bundles[0])
    runners = _runners(args, bundles, options)
    print(
        f"{len(runners)} configurations on {manifest}: {len(speech.waveforms)} utterances, "
        f"{audio:.1f} s, {args.rounds} rounds"
    )
    rows = list(measure(runners, speech, args.rounds, WARM_UP_BATCHES, args.pipelined, print))
    return {
        "manifest": str(manifest),
        "utterances": len(speech.waveforms),
        "audio_seconds": audio,
        "timed": TIMED,
        "rounds": args.rounds,
        "warm_up_batches": WARM_UP_BATCHES,
        "process": "one process",
        "decoding": options.to_json(),
        "models": [_described(bundle) for bundle in bundles],
        **circumstances(),
        "passes": rows,
    }


def _described(bundle: Bundle) -> dict[str, Any]:
    """What a reader has to know of a model; at step 0 its weights are random."""
    provenance = bundle.values["provenance"]
    return {
        "path": str(bundle.path),
        "precision": bundle.precision,
        "ctc_topk": bundle.values.get("ctc_topk"),
        "step": provenance["step"],
        "random_weights": provenance["step"] == 0,
        "forced": bundle.values["parity"].get("failure"),
        "sizes": bundle.values["model"],
    }


def _speech(manifest: str, sample_rate: int, most: int | None) -> Speech:
    utterances = spread(read_manifest(manifest), most)
    references = [normalise(u.text) for u in utterances]
    if not any(references):
        raise DataError(f"{manifest}: its texts hold no word: WER is not defined")
    waveforms = [read_audio(u.audio_path, sample_rate) for u in utterances]
    return Speech(waveforms, references, sample_rate)


def _options(args: argparse.Namespace, bundle: Bundle) -> DecodingOptions:
    options = replace(bundle.decoding, num_threads=args.threads)
    if args.beam_size is None:
        return options
    beam = args.beam_size
    return replace(options, beam_size=beam, attention_beam_size=beam, n_best=beam)


def _runners(
    args: argparse.Namespace, bundles: Sequence[Bundle], options: DecodingOptions
) -> list[Runner]:
    models: list[tuple[OpenModel, str]] = []
    if "torch" in args.engine:
        checkpoint = _checkpoint(args, bundles[0])
        models.append((open_checkpoint(checkpoint, args.provider, args.threads), "fp32"))
    if "onnxruntime" in args.engine:
        models += [
            (open_bundle(bundle, args.provider, args.threads), bundle.precision)
            for bundle in bundles
        ]
    runners: list[Runner] = [
        ModelRunner(model, precision, mode, options, batch_size)
        for mode in MODES
        if mode in bundles[0].modes and mode in (args.modes or MODES)
        for batch_size in args.batch_size
        for model, precision in models
    ]
    if "pocketsphinx" in args.engine:
        runners.append(PocketsphinxRunner())
    return runners


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


def batch_size_of(text: str) -> int | None:
    """Utterances in a batch; None for `auto`."""
    return None if text == "auto" else whole(1)(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="BUNDLE",
        help="of one model, in one precision or several (default: the newest bundle)",
    )
    parser.add_argument("--checkpoint", metavar="CKPT", help="for torch (default: the bundle's)")
    parser.add_argument("--manifest", help="default: the one that the bundle was exported with")
    parser.add_argument("--utterances", type=whole(1), metavar="N", help="so many, spread evenly")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES[:2]))
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all")
    parser.add_argument(
        "--batch-size",
        nargs="+",
        type=batch_size_of,
        default=[None],
        metavar="N|auto",
        help="utterances in a batch; auto (the default) batches as Recognizer does",
    )
    parser.add_argument(
        "--beam-size", type=whole(1), help="and n-best, instead of the bundle's own"
    )
    parser.add_argument("--rounds", type=whole(1), default=3)
    parser.add_argument(
        "--no-pipelined", dest="pipelined", action="store_false", help="no overlapping passes"
    )
    parser.add_argument(
        "--threads", type=whole(0), default=0, help="CPU threads (default: all cores)"
    )
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", metavar="FILE", help="write results and circumstances here")
    parser.add_argument("--svg", metavar="FILE", help="write a plot of them here")
    parser.add_argument("--read", metavar="FILE", help="measure nothing; show what --json wrote")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    leave(main)
