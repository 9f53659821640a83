"""Intervals of a backtest: against the definition by hand, from earlier errors alone, and with the nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest

from grownas.evaluation import conformal
from grownas.evaluation.intervals import Intervals, adaptive, gaussian


def turbulent(rows: int, seed: int, series: int = 3) -> np.ndarray:
    """Errors whose volatility follows a GARCH(1, 1) and doubles halfway, shape `(rows, series)`."""
    rng, variance, errors = np.random.default_rng(seed), np.ones(series), np.empty((rows, series))
    for t in range(rows):
        errors[t] = np.sqrt(variance) * rng.normal(size=series)
        variance = 0.03 + 0.12 * errors[t] ** 2 + 0.85 * variance
    errors[rows // 2 :] *= 2
    return errors


@pytest.mark.parametrize("joint", [False, True])
def test_the_first_half_widths_are_the_quantile_of_the_scores_before_times_the_volatility(joint):
    past, errors = np.split(turbulent(70, 0), [60])
    scale = conformal.volatility(past)
    scores = np.abs(past) / scale[:-1]
    if joint:
        scores = scores.max(axis=1, keepdims=True)
    found = adaptive(past, errors, 0.9, joint=joint)
    np.testing.assert_allclose(found[0], np.sort(scores, axis=0)[54] * scale[-1], rtol=1e-12)  # ceil(61 * .9) = 55
    assert found.shape == errors.shape


def test_gaussian_half_widths_are_those_of_all_errors_before():
    past, errors = np.split(turbulent(50, 1), [30])
    found = gaussian(past, errors, 0.9)
    expected = [1.6448536 * np.sqrt((turbulent(50, 1)[:t] ** 2).mean(axis=0)) for t in range(30, 50)]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("form", [adaptive, gaussian, lambda *args: adaptive(*args, joint=True)])
def test_a_later_error_changes_no_earlier_interval(form):
    past, errors = np.split(turbulent(200, 2), [60])
    changed = errors.copy()
    changed[80:] = 50.0
    one, other = form(past, errors, 0.8), form(past, changed, 0.8)
    np.testing.assert_array_equal(one[:81], other[:81])
    assert (other[-1] > one[-1]).all()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_is_within_two_points_though_the_volatility_changes(coverage):
    past, errors = np.split(turbulent(660, 3), [60])
    summary = Intervals.of(past, errors, coverage).summary
    assert abs(summary["coverage"] - coverage) < 0.02
    assert max(abs(one - coverage) for one in summary["coverages"]) < 0.02
    assert abs(summary["joint_coverage"] - coverage) < 0.02
    assert abs(summary["gaussian_coverage"] - coverage) > 0.02
    assert summary["joint_width"] > summary["width"] > 0


def test_infinite_intervals_are_counted_and_left_out_of_the_width():
    errors = np.random.default_rng(0).normal(size=(20, 1))
    summary = Intervals.of(errors[:5], errors[5:], 0.9).summary  # 9 scores or more make a finite interval
    assert summary["unbounded"] == 4 / 15
    assert np.isfinite(summary["width"])
    assert Intervals.of(errors[:2], errors[2:4], 0.9).summary["width"] is None


def test_a_series_without_errors_before_gets_intervals_once_it_has_errors():
    """As a rate of interest that was held for long, forecast as unchanged."""
    past, errors = np.zeros((60, 1)), np.zeros((40, 1))
    errors[10] = 0.25
    half = adaptive(past, errors, 0.9)
    assert np.isfinite(half).all()
    assert not half[:11].any()
    assert Intervals.of(past, errors, 0.9).summary["coverage"] == 39 / 40


def test_the_highest_coverage_has_gaussian_intervals_too():
    errors = turbulent(20, seed=0)
    assert np.isfinite(gaussian(errors, errors, np.nextafter(1, 0))).all()
