"""The search over options of the search."""

from __future__ import annotations

import pytest

from voxformer.evaluation.tuning import tune
from voxformer.runtime import DecodingOptions

AXES = (("ctc_weight", (0.2, 0.4, 0.6, 0.8)), ("length_bonus", (0.0, 0.5, 1.0, 2.0)))


def bowl(options: DecodingOptions) -> float:
    """Least at ctc_weight 0.6 and length_bonus 0.5, along a slanted valley."""
    a, b = options.ctc_weight - 0.6, options.length_bonus - 0.5
    return 0.1 + a * a + b * b + 0.5 * a * b


def test_the_search_finds_the_least_point_and_asks_for_none_twice() -> None:
    asked: list[tuple[float, float]] = []

    def wer(options: DecodingOptions) -> float:
        asked.append((options.ctc_weight, options.length_bonus))
        return bowl(options)

    tuned = tune(wer, DecodingOptions(ctc_weight=0.2, beam_size=7, n_best=7), AXES)
    grid = [(a, b) for a in AXES[0][1] for b in AXES[1][1]]
    least = min(grid, key=lambda p: bowl(DecodingOptions(ctc_weight=p[0], length_bonus=p[1])))
    assert (tuned.options.ctc_weight, tuned.options.length_bonus) == least
    assert tuned.wer == pytest.approx(0.1)
    assert tuned.options.beam_size == 7
    assert len(asked) == len(set(asked)) == len(tuned.trail)


def test_the_start_stays_where_nothing_is_better() -> None:
    start = DecodingOptions(ctc_weight=0.5)
    tuned = tune(lambda options: 0.3, start, AXES)
    assert tuned.options == start
    assert tuned.trail[0] == ({"ctc_weight": 0.5, "length_bonus": 0.0}, 0.3)
    assert len(tuned.trail) == 8
