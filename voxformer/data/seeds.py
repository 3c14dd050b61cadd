"""Randomness as a function of names and numbers, so that data position is a number, not a replay.

A generator for (seed, epoch, utterance id) gives the same draws in whatever worker, batch or
resumed run the utterance turns up.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts; equal parts give equal seeds on every machine."""
    # repr keeps 1 and "1", or ("a", "bc") and ("ab", "c"), apart.
    digest = hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derived_generator(*parts: int | str) -> np.random.Generator:
    """NumPy's generator for the parts (PCG64, named so that a new default changes nothing)."""
    return np.random.Generator(np.random.PCG64(derived_seed(*parts)))
