"""Numbers on the command line, refused with the range that they must lie in."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A type for argparse: a whole number of at least `low`, and at most `high`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            limits = f"at least {low}" if high is None else f"{low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {limits}")
        return number

    return parse


def fraction(text: str) -> float:
    """A type for argparse: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def finite(text: str) -> float:
    """A type for argparse: any number but infinity and NaN."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def at_least(low: float) -> Callable[[str], float]:
    """A type for argparse: a number of at least `low`."""

    def parse(text: str) -> float:
        number = finite(text)
        if number < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {low:g}")
        return number

    return parse


def above(low: float) -> Callable[[str], float]:
    """A type for argparse: a number above `low`."""

    def parse(text: str) -> float:
        number = finite(text)
        if number <= low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {low:g}")
        return number

    return parse
