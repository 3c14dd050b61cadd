"""Precisions of a bundle, and how far each may be from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Limits:
    """What the gate lets pass.

    Attributes:
        difference: of a log-prob, in nats, at most; the rounding of what is below -10 is
            relative, and so is its limit.
        least_probability: log-probs are not compared where both engines give less than this: in a
            coarse precision what is next to impossible is not exact, and decides nothing.
        wer: difference of error rates, a fraction, unless it is one word.
        relative: difference of an inner tensor, over its largest value, that counts as a departure.
    """

    difference: float
    least_probability: float
    wer: float
    relative: float


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-3, 0.0, 0.001, 1e-3),
    "fp16": Limits(0.1, 1e-6, 0.001, 0.05),
    # On noise, where a CTC-CRF, whose outputs are not normalised by frame, is as sure as on speech;
    # that error rates stay is what the other limit is for.
    "int8": Limits(2.5, 0.05, 0.003, 0.25),
}
