"""`voxformer lm`: an n-gram language model for the search, from texts."""

from __future__ import annotations

import argparse

from voxformer.cli.numbers import at_least, fraction, whole

EXAMPLE = "voxformer lm --text books.txt --order 3 --out lm/books-3gram.arpa.gz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--text", action="append", default=[], help="a sentence a line; may be repeated"
    )
    parser.add_argument(
        "--manifest", action="append", default=[], help="take the texts of this JSONL manifest, too"
    )
    parser.add_argument("--order", type=whole(1), default=3, help="words of the longest n-grams")
    parser.add_argument(
        "--prune",
        type=whole(0),
        default=0,
        metavar="COUNT",
        help="leave out longest n-grams that occur so often or less, for a smaller file",
    )
    parser.add_argument(
        "--words",
        metavar="FILE",
        help="word, or word<TAB>frequency, a line: these are in the model as well, and say how "
        "frequent words are that the texts do not tell",
    )
    parser.add_argument(
        "--mix",
        metavar="MODEL",
        help="mix in another model of words: an ARPA file, one of CMU Sphinx, or `pocketsphinx` "
        "for that of the package",
    )
    parser.add_argument(
        "--mix-weight", type=fraction, default=0.5, metavar="W", help="its share (default: 0.5)"
    )
    parser.add_argument(
        "--prune-entropy",
        type=at_least(0.0),
        default=0.0,
        metavar="T",
        help="leave out n-grams without each of which perplexity grows by less than T times, such "
        "as 3e-8",
    )
    parser.add_argument("--tokenizer", help="over this tokenizer's pieces (--lm-unit token)")
    parser.add_argument(
        "--test", metavar="MANIFEST", help="tell the model's perplexity on these texts"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="ARPA file; compressed if it ends with .gz, a third of that if with .ngrams",
    )


def run(args: argparse.Namespace) -> int:
    """Count, smooth and write."""
    from voxformer.data.language_model import tell_perplexity, write_language_model

    print(
        write_language_model(
            args.out,
            args.text,
            args.manifest,
            args.order,
            tokenizer=args.tokenizer,
            prune=args.prune,
            words=args.words,
            mixture=None if args.mix is None else (args.mix, args.mix_weight),
            threshold=args.prune_entropy,
        )
    )
    if args.test is not None:
        print(tell_perplexity(args.out, args.test, args.tokenizer))
    return 0
