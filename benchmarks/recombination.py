"""Error rate and time of the CTC search over the beam's width and `prefixes_per_state`.

    python benchmarks/recombination.py --model models/read-english \\
      --manifest SPEECH/librispeech-dev.jsonl --json benchmarks/results/recombination.json

The model is a bundle with a language model, whose own options hold but for the two. The encoder
runs once; the time is that of the search and of counting errors, the median of `--repeats`, on as
many threads as there are cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.cli.numbers import whole
from voxformer.data import read_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import open_model
from voxformer.evaluation.results import write_json
from voxformer.evaluation.tuning import Scorer

COLUMNS = ("beam", "prefixes per state", "WER", "search, ms per s of speech")


class NoLanguageModelError(ValueError):
    """The model has no language model, without which the option does little."""


def main() -> None:
    """Measure every pair; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a bundle with a language model")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--beams", type=whole(1), nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument(
        "--states", type=whole(0), nargs="+", default=[0, 4, 1], help="0 tells all apart"
    )
    parser.add_argument("--repeats", type=whole(1), default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.model)
    if model.options.language_model is None:
        raise NoLanguageModelError(f"{args.model}: has no language model; export one with --lm")
    utterances = read_manifest(args.manifest)
    scorer = Scorer(model, utterances)
    spoken = sum(u.duration for u in utterances)
    rows: list[list[Any]] = []
    for beam in args.beams:
        for states in args.states:
            options = replace(
                model.options,
                beam_size=beam,
                n_best=min(beam, model.options.n_best),
                prefixes_per_state=states,
            )
            seconds = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                wer = scorer.wer("ctc_beam", options)
                seconds.append(time.perf_counter() - start)
            rate = 1000 * statistics.median(seconds) / spoken
            rows.append([beam, states or "all", f"{wer:.2%}", f"{rate:.2f}"])
            print("  ".join(str(value) for value in rows[-1]), flush=True)
    if args.json:
        write_json(args.json, {"columns": list(COLUMNS), "rows": rows, **circumstances()})


if __name__ == "__main__":
    leave(main)
