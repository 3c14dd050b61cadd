"""What the penalties of the searches do to the error rate, one at a time, on one encoder pass.

    python benchmarks/penalties.py --model bundles/an4 --manifest dev.jsonl --json penalties.json

Each row changes one of the model's own options. "said again" counts words that repeat what was said
just before, "capped" hypotheses that the length cap ended. Choose on a development set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.audio.io import read_audio
from voxformer.data import Utterance, read_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import OpenModel, open_model
from voxformer.evaluation.repeats import most_repeated
from voxformer.evaluation.results import write_json
from voxformer.evaluation.wer import align_words, total
from voxformer.runtime import Encoded, Mode, decode, encode, pad_batch
from voxformer.text import normalise

COLUMNS = ("mode", "option", "WER", "sub", "del", "ins", "said again", "capped")
BATCH_SIZE = 16

CHANGES: tuple[tuple[Mode, str, tuple[float, ...]], ...] = (
    ("attention", "repetition_penalty", (1.05, 1.2, 1.5, 2.0)),
    ("attention", "no_repeat_ngram", (2, 3, 4, 6)),
    ("attention", "attention_length_penalty", (0.0, 0.5, 1.0, 1.5)),
    ("attention", "length_bonus", (0.25, 0.5, 1.0)),
    ("rescoring", "repetition_penalty", (1.05, 1.2, 1.5, 2.0)),
    ("rescoring", "length_penalty", (0.5, 1.0)),
    ("rescoring", "length_bonus", (-0.5, 0.25, 0.5, 1.0)),
    ("rescoring", "ctc_weight", (0.1, 0.3, 0.7, 0.9)),
    ("ctc_beam", "length_bonus", (-0.5, 0.25, 0.5, 1.0)),
)
"""Mode, option, values."""


def rows_of(model: OpenModel, utterances: Sequence[Utterance]) -> Iterator[list[Any]]:
    """The table's rows: every mode as the model has it, then each change."""
    encoded = list(_encode(model, utterances))
    for mode in ("ctc_beam", "attention", "rescoring"):
        yield [mode, "as it is", *_score(model, encoded, utterances, mode, {})]
    for mode, option, values in CHANGES:
        own = getattr(model.options, option)
        for value in values:
            if value != own:
                found = _score(model, encoded, utterances, mode, {option: type(own)(value)})
                yield [mode, f"{option} {value:g}", *found]


def _encode(
    model: OpenModel, utterances: Sequence[Utterance]
) -> Iterator[tuple[Encoded, list[float]]]:
    rate = model.engine.sample_rate
    for start in range(0, len(utterances), BATCH_SIZE):
        batch = utterances[start : start + BATCH_SIZE]
        waveforms, lengths = pad_batch([read_audio(u.audio_path, rate) for u in batch])
        yield encode(model.engine, waveforms, lengths), (lengths / rate).tolist()


def _score(
    model: OpenModel,
    encoded: Sequence[tuple[Encoded, list[float]]],
    utterances: Sequence[Utterance],
    mode: Mode,
    changes: dict[str, Any],
) -> list[Any]:
    options = replace(model.options, **changes)
    best = [
        n_best[0]
        for batch, seconds in encoded
        for n_best in decode(model.engine, batch, seconds, mode, options, model.vocabulary)
    ]
    texts = [normalise(hypothesis.text) for hypothesis in best]
    references = [normalise(utterance.text) for utterance in utterances]
    counts = total([a.counts for a in align_words(references, texts)])
    return [
        f"{counts.wer:.2%}",
        counts.substitutions,
        counts.deletions,
        counts.insertions,
        sum(map(_said_again, texts)),
        sum(hypothesis.truncated for hypothesis in best),
    ]


def _said_again(text: str) -> int:
    """Words of the longest run in which an n-gram repeats itself, its first time not counted."""
    repeat = most_repeated([("", text)])
    return 0 if repeat is None else (repeat.times - 1) * len(repeat.ngram.split())


def main() -> None:
    """Measure; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a bundle or a checkpoint")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.model)
    utterances = read_manifest(args.manifest)
    print("  ".join(COLUMNS))
    rows = []
    for row in rows_of(model, utterances):
        print("  ".join(str(value) for value in row), flush=True)
        rows.append(row)
    if args.json:
        values = {"manifest": str(args.manifest), "columns": list(COLUMNS), "rows": rows}
        write_json(args.json, {**values, **circumstances()})


if __name__ == "__main__":
    leave(main)
