"""`voxformer lexicon`: the words of texts with their pronunciations, for a model of phones."""

from __future__ import annotations

import argparse

EXAMPLE = "voxformer lexicon --voice en-us --text books.txt --out lm/books-lexicon.txt.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--voice",
        required=True,
        help="of eSpeak NG, as data.pronunciation of the model's config has it: en-us, de, ...",
    )
    parser.add_argument(
        "--text", action="append", default=[], help="a sentence a line; may be repeated"
    )
    parser.add_argument(
        "--manifest", action="append", default=[], help="take the words of this JSONL manifest, too"
    )
    parser.add_argument(
        "--words", metavar="FILE", help="word, or word<TAB>frequency, a line; these as well"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="lines word<TAB>pronunciation; compressed if it ends with .gz",
    )


def run(args: argparse.Namespace) -> int:
    """Pronounce and write."""
    from voxformer.data.language_model import write_lexicon

    print(write_lexicon(args.out, args.voice, args.text, args.manifest, args.words))
    return 0
