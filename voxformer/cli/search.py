"""Options of the CTC search that `evaluate` and `transcribe` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from voxformer.cli.numbers import above, at_least, finite, whole

if TYPE_CHECKING:
    from voxformer.runtime import DecodingOptions

DEFAULT_BOOST = 5.0


class HotwordFileError(ValueError):
    """A file of hotwords cannot be used."""


class LanguageModelUsageError(ValueError):
    """An option of a language model was given without one."""


def add_lm_arguments(group: argparse._ArgumentGroup, without: bool = True) -> None:
    """A language model and what it counts for, and a lexicon.

    Args:
        group: that the options belong to.
        without: offer to leave out the model's own.
    """
    which = group.add_mutually_exclusive_group()
    which.add_argument("--lm", metavar="FILE", help="n-grams: .arpa, .arpa.gz, .ngrams or .voxlm")
    if without:
        which.add_argument(
            "--no-lm", action="store_true", help="leave out the language model of the bundle"
        )
    own = "the bundle's, or " if without else ""
    group.add_argument(
        "--lm-weight", type=at_least(0.0), help=f"factor on its ln p (default: {own}0.5)"
    )
    group.add_argument(
        "--lm-unit", choices=("word", "token"), help=f"of its n-grams (default: {own}word)"
    )
    group.add_argument("--word-bonus", type=finite, help=f"added for every word (default: {own}0)")
    group.add_argument(
        "--prefixes-per-state",
        type=whole(0),
        metavar="N",
        help="hypotheses kept of those that language model, lexicon and hotwords need not tell "
        f"apart any more; 1 makes the most of a beam, 0 keeps all (default: {own}0)",
    )
    group.add_argument(
        "--lexicon",
        metavar="FILE",
        help="for a model of phones: lines word<TAB>pronunciation, as `voxformer lexicon` writes "
        "them, of the only words that a search may write",
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """A language model and hotwords, for `ctc_beam` and `rescoring`, and a lexicon for all."""
    group = parser.add_argument_group(
        "language model and hotwords (ctc_beam and rescoring), and lexicon (every mode)"
    )
    add_lm_arguments(group)
    group.add_argument(
        "--hotwords", metavar="FILE", help="phrases, one a line; a tab and its own boost may follow"
    )
    group.add_argument(
        "--hotword-boost",
        type=above(0.0),
        default=DEFAULT_BOOST,
        help=f"of phrases without their own, in nats (default: {DEFAULT_BOOST:g})",
    )


def lm_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `DecodingOptions` that `add_lm_arguments` was given."""
    given = {
        "language_model": args.lm,
        "lm_weight": args.lm_weight,
        "lm_unit": args.lm_unit,
        "word_bonus": args.word_bonus,
        "prefixes_per_state": args.prefixes_per_state,
        "lexicon": args.lexicon,
    }
    return {key: value for key, value in given.items() if value is not None}


def check_lm_options(args: argparse.Namespace) -> None:
    """Refuse what is said of a language model where there is none."""
    for name in ("lm_weight", "lm_unit"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise LanguageModelUsageError(f"{flag} is for a language model: name one with --lm")


def with_search_arguments(options: DecodingOptions, args: argparse.Namespace) -> DecodingOptions:
    """The options with what was given on the command line.

    Raises:
        HotwordFileError: the file of hotwords is not text, or a line is wrong.
        LanguageModelUsageError: a weight without a language model.
    """
    given = lm_options(args)
    if args.no_lm:
        given["language_model"] = None
    if given.get("language_model", options.language_model) is None:
        check_lm_options(args)
    if args.hotwords is not None:
        given["hotwords"] = _read(args.hotwords, args.hotword_boost)
    return options.changed(**given)


def _read(name: str, boost: float) -> tuple[tuple[str, float], ...]:
    try:
        with open(name, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError as error:
        raise HotwordFileError(f"{name}: not UTF-8 text: {error.reason}") from None
    hotwords: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        phrase, tab, own = line.rstrip("\r").partition("\t")
        if not phrase.strip():
            continue
        try:
            hotwords[phrase.strip()] = above(0.0)(own.strip()) if tab else boost
        except argparse.ArgumentTypeError as error:
            raise HotwordFileError(f"{name}:{number}: boost {error}") from None
    if not hotwords:
        raise HotwordFileError(f"{name}: no hotwords; give one phrase a line")
    return tuple(hotwords.items())
