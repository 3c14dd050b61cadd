"""What language models are worth to a model: size, perplexity and error rate of each.

    python benchmarks/language_models.py --model models/read-english \\
      --manifest SPEECH/librispeech-dev.jsonl --lm texts.ngrams --lm mixed.ngrams \\
      --json benchmarks/results/language-models.json

The model is a bundle with a language model, in whose place each of these is searched with; options
are the bundle's own, so that its own model has an advantage. The encoder runs once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from one_line import leave

from voxformer.data import read_manifest
from voxformer.data.language_model import perplexity_of, scores_of
from voxformer.decoding import NgramLanguageModel
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.models import open_model
from voxformer.evaluation.results import write_json
from voxformer.evaluation.tuning import Scorer

COLUMNS = ("language model", "MB", "n-grams", "perplexity", "unknown words", "WER, ctc_beam")


def main() -> None:
    """Measure each; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a bundle with a language model")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--lm", action="append", required=True, help="may be repeated")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.model)
    scorer = Scorer(model, read_manifest(args.manifest))
    rows: list[list[Any]] = []
    for name in args.lm:
        ngrams = NgramLanguageModel.load(name)
        perplexity, unknown = perplexity_of(scores_of(ngrams, args.manifest))
        wer = scorer.wer("ctc_beam", replace(model.options, language_model=name))
        rows.append(
            [
                Path(name).name,
                f"{Path(name).stat().st_size / 1e6:.2f}",
                " / ".join(map(str, ngrams.num_ngrams)),
                f"{perplexity:.0f}",
                f"{unknown:.2%}",
                f"{wer:.2%}",
            ]
        )
        print("  ".join(str(value) for value in rows[-1]), flush=True)
    if args.json:
        write_json(args.json, {"columns": list(COLUMNS), "rows": rows, **circumstances()})


if __name__ == "__main__":
    leave(main)
