"""Our CTC beam search against others from PyPI, all on the same matrices in one run.

    python -m venv build/peers && build/peers/bin/pip install -r benchmarks/peers.txt
    python benchmarks/decoder.py --quick
    python benchmarks/decoder.py --json benchmarks/results/decoder.json --svg docs/decoder.svg
    python benchmarks/decoder.py --long --json benchmarks/results/decoder-long.json
    python benchmarks/decoder.py --bundle runs/an4/bundle --manifest data/an4/test.jsonl \\
      --save an4.npz
    python benchmarks/decoder.py --matrices an4.npz --json benchmarks/results/decoder-an4.json

Every decoder has a process of its own, made for the cell, which says by its own clocks what a call
took: `decoder_peers.py` says what is inside the clock and how each is configured. After a first
call, which gives peak memory and the output, decoders take turns in an order that is drawn anew in
each round; figures are medians over rounds, ratios medians of the rounds' ratios. A sample is as
many calls as take 20 ms.

With one thread a cell decodes one utterance, with two a batch of four, which the same decoder also
decodes on one thread for the speed-up. Lost nats: ln p of the decoder's best output, summed over
all its alignments in float64 by code of its own (`decoder_scoring.py`), against the best ln p
among the 16 best of our search with a beam of 1000, summed over utterances.

A decoder that took longer than `--budget` seconds is left out of cells with more work, and one that
takes four times as long is stopped; both are named as skipped in the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decoder_cells import Bench, Cell, Material
from decoder_language import make_language, write_arpas
from decoder_long import measure_long
from decoder_matrices import encode, load, make
from decoder_peers import CONFIGURATIONS, FLOOR
from decoder_report import cell_lines, claim_lines, claims, plot
from one_line import leave

from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json

ROOT = Path(__file__).resolve().parents[1]
BATCH = 4
HOTWORDS = 10
FULL: dict[str, list[Any]] = {
    "kinds": ["peaky", "diffuse"],
    "vocabs": [29, 500, 2001, 5000],
    "seconds": [4.0, 10.0, 30.0, 120.0],
    "beams": [4, 10, 25, 100],
    "threads": [1, 2],
    "extras": ["none", "lm", "hotwords"],
}
QUICK: dict[str, list[Any]] = {
    "kinds": ["peaky"],
    "vocabs": [29, 2001],
    "seconds": [4.0],
    "beams": [10],
    "threads": [1, 2],
    "extras": ["none", "lm", "hotwords"],
}
# Language models and hotwords are measured on these alone.
EXTRA_VOCABS, EXTRA_SECONDS, EXTRA_BEAMS = (29, 500, 2001), (4.0, 30.0), (10, 100)


def main() -> int:
    args = _arguments()
    if args.bundle:
        encode(args.bundle, args.manifest, args.limit).save(Path(args.save))
        return 0
    if args.long:
        values = measure_long(args.minutes, args.vocabs or [500, 2001], args.seed)
    elif args.report:
        values = json.loads(Path(args.report).read_text("utf-8"))
        values["claims"] = claims(values["cells"])
        print("\n".join(claim_lines(values["claims"])))
    else:
        values = _measure(args)
    if args.json:
        write_json(args.json, values)
    if args.svg:
        Path(args.svg).write_text(plot(values["cells"], "CTC beam search"), encoding="utf-8")
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """All cells, and what they were measured with."""
    peers = Path(args.peers_python)
    bench = Bench(
        peers_python=str(peers) if peers.exists() else None,
        rounds=args.rounds,
        budget_s=args.budget,
        memory_gib=args.memory_gib,
        names=[*(args.decoders or CONFIGURATIONS), FLOOR],
        order=random.Random(args.seed),
    )
    if bench.peers_python is None:
        print(f"{peers} is not there: the peers are left out; see benchmarks/peers.txt")
    began = time.perf_counter()
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for cell, material in _work(args, Path(folder)):
            print(f"\n{cell}", flush=True)
            cells.append(bench.measure(cell, material))
            print("\n".join(cell_lines(cells[-1])), flush=True)
    found = claims(cells)
    print("\n".join(claim_lines(found)))
    print(f"\n{len(cells)} cells in {(time.perf_counter() - began) / 60:.1f} minutes")
    return {
        "seed": args.seed,
        "rounds": args.rounds,
        "budget_s": args.budget,
        "memory_gib": args.memory_gib,
        "configurations": {n: c.limits for n, c in CONFIGURATIONS.items() if n in bench.names},
        "peers": dict(sorted(bench.versions.items())),
        **circumstances(),
        "claims": found,
        "cells": cells,
    }


def _work(args: argparse.Namespace, folder: Path) -> Iterator[tuple[Cell, Material]]:
    """Cells with their matrices, so that one with less work comes before one with more."""
    grid = QUICK if args.quick else FULL
    chosen = {name: getattr(args, name) or values for name, values in grid.items()}
    if args.matrices:
        path = Path(args.matrices)
        utterances = load(path)
        material = Material(utterances.log_probs, utterances.tokens, folder)
        vocab, seconds = len(utterances.tokens), sum(map(len, utterances.log_probs)) / 25
        for threads, beam in itertools.product(chosen["threads"], chosen["beams"]):
            yield Cell(path.stem, vocab, seconds, beam, threads), material
        return
    for vocab, kind in itertools.product(chosen["vocabs"], chosen["kinds"]):
        language = make_language(vocab, args.seed)
        for seconds in chosen["seconds"]:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                log_probs, words = make(language, kind, seconds, BATCH, args.seed)
                material = Material(log_probs, language.tokens, Path(own))
                if "lm" in chosen["extras"]:
                    by_token, by_word = write_arpas(language, args.seed, Path(own))
                    material.token_lm, material.word_lm = str(by_token), str(by_word)
                spoken = dict.fromkeys(words[0])
                material.hotwords = [language.text(word) for word in spoken][:HOTWORDS]
                for extra, threads, beam in itertools.product(
                    chosen["extras"], chosen["threads"], chosen["beams"]
                ):
                    cell = Cell(kind, vocab, seconds, beam, threads, extra)
                    if extra == "none" or _has_extras(cell):
                        yield cell, material


def _has_extras(cell: Cell) -> bool:
    return (
        (cell.kind, cell.threads) == ("peaky", 1)
        and cell.vocab in EXTRA_VOCABS
        and cell.seconds in EXTRA_SECONDS
        and cell.beam in EXTRA_BEAMS
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few small cells, in minutes")
    parser.add_argument("--kinds", nargs="+", choices=FULL["kinds"])
    parser.add_argument("--vocabs", nargs="+", type=int, help="tokens, the blank among them")
    parser.add_argument("--seconds", nargs="+", type=float)
    parser.add_argument("--beams", nargs="+", type=int)
    parser.add_argument("--threads", nargs="+", type=int)
    parser.add_argument("--extras", nargs="+", choices=FULL["extras"])
    parser.add_argument("--decoders", nargs="+", choices=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=5.0, metavar="S", help="of a call")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="that a decoder may take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers-python", default=str(ROOT / "build" / "peers" / "bin" / "python"))
    parser.add_argument("--matrices", metavar="NPZ", help="instead of made-up ones")
    parser.add_argument("--bundle", help="encode a manifest's recordings and --save; no measuring")
    parser.add_argument("--manifest", help="for --bundle")
    parser.add_argument("--limit", type=int, help="utterances for --bundle (default: all)")
    parser.add_argument("--save", metavar="NPZ", help="for --bundle")
    parser.add_argument("--long", action="store_true", help="one utterance of up to an hour")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 5.0, 15.0, 60.0])
    parser.add_argument("--report", metavar="JSON", help="judge and plot an earlier run's cells")
    parser.add_argument("--json", metavar="FILE", help="write results and circumstances here")
    parser.add_argument("--svg", metavar="FILE", help="write the plot here")
    args = parser.parse_args()
    if args.bundle and not (args.manifest and args.save):
        parser.error("--bundle needs --manifest and --save")
    if args.long and args.svg:
        parser.error("--long has no plot")
    return args


if __name__ == "__main__":
    leave(main)
