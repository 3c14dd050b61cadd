"""The search over options of the search."""

from __future__ import annotations

import pytest

from voxformer.evaluation.tuning import grid, tune
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
    points = [(a, b) for a in AXES[0][1] for b in AXES[1][1]]
    least = min(points, key=lambda p: bowl(DecodingOptions(ctc_weight=p[0], length_bonus=p[1])))
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


def test_a_grid_finds_what_lies_across_the_axes() -> None:
    def wer(options: DecodingOptions) -> float:
        """Only where both are high: along either axis from the start it gets worse."""
        a, b = options.lm_weight, options.word_bonus
        return 0.2 if (a, b) == (0.8, 3.0) else 0.3 + 0.1 * a + 0.1 * b

    axes = (("lm_weight", (0.0, 0.4, 0.8)), ("word_bonus", (0.0, 1.5, 3.0)))
    start = DecodingOptions(lm_weight=0.0, beam_size=7, n_best=7)
    assert tune(wer, start, axes).wer == 0.3
    found = grid(wer, start, axes)
    assert (found.wer, found.options.lm_weight, found.options.word_bonus) == (0.2, 0.8, 3.0)
    assert found.options.beam_size == 7
    assert len(found.trail) == 9
    assert grid(lambda options: 0.5, start, axes).options == start  # the first of equals
