"""`voxformer tokenizer`: a SentencePiece model from a manifest's texts."""

from __future__ import annotations

import argparse

from voxformer.cli.numbers import whole

EXAMPLE = "voxformer tokenizer --manifest data/train.jsonl --vocab-size 500 --out data/tokenizer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--manifest", required=True, action="append", help="JSONL manifest; may be repeated"
    )
    parser.add_argument("--vocab-size", required=True, type=whole(2), help="number of pieces")
    parser.add_argument("--out", required=True, help="folder for tokenizer.model and tokens.txt")
    parser.add_argument(
        "--type", choices=("unigram", "bpe", "char"), default="unigram", help="kind of model"
    )
    parser.add_argument(
        "--voice", help="pieces of phones, by this voice of eSpeak NG (see data.pronunciation)"
    )


def run(args: argparse.Namespace) -> int:
    """Train it and say where it lies."""
    from voxformer.data.manifest import read_manifest
    from voxformer.text import train_tokenizer
    from voxformer.text.pronunciation import pronouncer

    texts = [utterance.text for utterance in read_manifest(args.manifest)]
    if args.voice is not None:
        texts = list(map(pronouncer(args.voice), texts))
    tokenizer = train_tokenizer(texts, args.vocab_size, args.out, args.type)
    print(f"{args.out}: {tokenizer.vocab_size} pieces from {len(texts)} texts")
    return 0
