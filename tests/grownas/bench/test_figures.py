from __future__ import annotations

import math

import pytest

from grownas.bench.figures import Check, Figure, Must, Row


def test_a_figure_is_median_and_quartiles():
    assert Figure.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Figure(3.0, 2.0, 4.0, 5)
    assert Figure.of([7.0]) == Figure(7.0, 7.0, 7.0, 1)
    assert Figure(3.0, 2.0, 4.0, 5).spread == pytest.approx(2 / 3)
    assert Figure(3.0, 2.0, 4.0, 5).plus(50) == Figure(53.0, 52.0, 54.0, 5)


def test_a_must_is_about_the_ratio_of_medians():
    figures = {"fast": Figure(2.0, 1.0, 9.0, 5), "slow": Figure(4.0, 3.0, 5.0, 5)}
    row = Row("r", "ms", figures, "slow", (Must("slow", 0.5, "fast"), Must("fast", 1.9, "slow")))
    first, second = row.checks()
    assert (first.ratio, first.holds) == (0.5, True)  # at the bar
    assert (second.ratio, second.holds) == (2.0, False)


def test_what_is_not_a_number_does_not_hold():
    assert not Check(Must("floor", 2.0, "torch"), math.nan).holds


def test_a_row_that_was_skipped_checks_nothing():
    assert Row("r", "", {}, "", (Must("floor", 2.0, "torch"),), skipped="no GPU").checks() == []
