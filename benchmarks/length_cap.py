"""What the length cap does to a decoder that loops: attention decoding with the cap and without it.

    python benchmarks/length_cap.py --model undertrained.pt --manifest test.jsonl \\
      --json benchmarks/results/length-cap.json

Without the cap one token for each encoder frame (25/s) is the limit. The last column counts the
hypotheses that are longer than the limit of their row; it has to be 0.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.audio.io import read_audio
from voxformer.data import read_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import OpenModel, open_model
from voxformer.evaluation.results import write_json
from voxformer.evaluation.wer import align_words, total
from voxformer.runtime import decode, encode, length_cap, pad_batch
from voxformer.text import normalise

COLUMNS = (
    "limit, tokens/s",
    "WER",
    "insertions",
    "reference words",
    "cut by the limit",
    "longest, tokens",
    "over the limit",
)


def row_of(model: OpenModel, utterances: list[Any], rate: float | None) -> list[Any]:
    """One row of the table: the whole set, decoded by attention with one limit."""
    options = replace(model.options, max_tokens_per_second=rate)
    hypotheses = []
    over = 0
    for start in range(0, len(utterances), 16):
        batch = utterances[start : start + 16]
        waveforms, lengths = pad_batch([read_audio(u.audio_path, 16000) for u in batch])
        encoded = encode(model.engine, waveforms, lengths)
        seconds = (lengths / 16000).tolist()
        found = decode(model.engine, encoded, seconds, "attention", options, model.vocabulary)
        for n_best, frames, duration in zip(found, encoded.lengths, seconds, strict=True):
            over += len(n_best[0].token_ids) > length_cap(int(frames), duration, rate)
            hypotheses.append(n_best[0])
    references = [normalise(u.text) for u in utterances]
    texts = [normalise(h.text) for h in hypotheses]
    counts = total([a.counts for a in align_words(references, texts)])
    return [
        "25 (one a frame)" if rate is None else f"{rate:.1f}",
        f"{counts.wer:.2%}",
        counts.insertions,
        counts.reference_words,
        sum(h.truncated for h in hypotheses),
        max(len(h.token_ids) for h in hypotheses),
        over,
    ]


def main() -> None:
    """Measure both; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an undertrained checkpoint of stage 3 or 4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--beam-size", type=int, help="of the attention search; default: its own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.model)
    if args.beam_size is not None:
        model = replace(model, options=replace(model.options, attention_beam_size=args.beam_size))
    utterances = read_manifest(args.manifest)
    rows = [row_of(model, utterances, r) for r in (None, model.options.max_tokens_per_second)]
    for row in (COLUMNS, *rows):
        print("  ".join(str(value) for value in row))
    if args.json:
        write_json(args.json, {"columns": list(COLUMNS), "rows": rows, **circumstances()})


if __name__ == "__main__":
    leave(main)
