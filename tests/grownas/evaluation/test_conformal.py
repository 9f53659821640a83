"""Conformal intervals: the rank of the quantile, coverage beside the nominal, and the bound of the adaptive ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grownas.evaluation import conformal


def test_the_quantile_is_the_score_of_that_rank():
    scores = np.arange(1.0, 20.0)[::-1]  # 19 scores: 1 .. 19
    assert conformal.quantile(scores, 0.9) == 18  # ceil(20 * .9)
    assert conformal.quantile(scores, 0.95) == 19
    assert conformal.quantile(scores, 0.96) == math.inf
    assert conformal.quantile(scores, 0.0) == 0
    np.testing.assert_array_equal(conformal.quantile(np.stack([scores, 2 * scores], axis=1), 0.5), [10, 20])
    assert conformal.quantile(np.zeros(0), 0.5) == math.inf


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_least_number_of_scores_is_the_first_with_a_finite_quantile(coverage):
    least = conformal.least_scores(coverage)
    assert np.isfinite(conformal.quantile(np.ones(least), coverage))
    assert np.isinf(conformal.quantile(np.ones(least - 1), coverage))


def test_volatility_depends_on_earlier_errors_and_follows_them():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(200, 2)) * np.where(np.arange(200) < 100, 1.0, 5.0)[:, None]
    scale = conformal.volatility(errors)
    assert scale.shape == (201, 2)
    assert (scale[180:] > 3 * scale[80:100].mean()).all()
    before = (errors[:60] ** 2)[::-1]
    weights = 0.06 * 0.94 ** np.arange(60)
    expected = (weights[:, None] * before).sum(0) + 0.94**60 * (errors**2).mean(0)  # the average, summed directly
    np.testing.assert_allclose(scale[60] ** 2, np.maximum(expected, 0.1 * (errors**2).mean(0)), rtol=1e-12)


def garch(rows: int, seed: int) -> np.ndarray:
    """Errors whose variance follows a GARCH(1, 1) with persistence 0.97, shape `(rows, 2)`."""
    rng = np.random.default_rng(seed)
    variance, errors = np.ones(2), np.empty((rows, 2))
    for t in range(rows):
        errors[t] = np.sqrt(variance) * rng.normal(size=2)
        variance = 0.03 + 0.12 * errors[t] ** 2 + 0.85 * variance
    return errors


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_split_conformal_covers_the_nominal_share(coverage):
    """500 calibration rows and 1,000 test rows of two series, mean of 8 panels: sd of the mean below half a point."""
    shares = []
    for seed in range(8):
        errors = garch(1500, seed)
        scores = np.abs(errors) / conformal.volatility(errors)[:-1]
        shares.append((scores[500:] <= conformal.quantile(scores[:500], coverage)).mean())
    assert abs(np.mean(shares) - coverage) < 0.02


def test_scaling_by_volatility_keeps_the_coverage_in_turbulent_times():
    errors = garch(6000, 3)
    scale = conformal.volatility(errors)[:-1]
    turbulent = scale > np.quantile(scale, 0.9, axis=0)
    fixed = np.abs(errors) <= conformal.quantile(np.abs(errors), 0.9)
    scaled = np.abs(errors) / scale <= conformal.quantile(np.abs(errors) / scale, 0.9)
    assert fixed[turbulent].mean() < 0.8
    assert abs(scaled[turbulent].mean() - 0.9) < 0.03


def test_a_step_of_adaptive_conformal_is_the_papers():
    assert conformal.adapt(0.1, True, target=0.1, rate=0.05) == pytest.approx(0.1 + 0.05 * (0.1 - 1))
    assert conformal.adapt(0.1, False, target=0.1, rate=0.05) == pytest.approx(0.1 + 0.05 * 0.1)


@pytest.mark.parametrize("rate", [0.005, 0.05])
def test_adaptive_conformal_keeps_the_long_run_bound_on_any_sequence(rate):
    """Scores that grow without end: the plain quantile misses every one, the bound of proposition 4.1 holds."""
    scores, past, coverage = np.arange(1.0, 2001.0), np.linspace(0, 1, 50), 0.9
    assert (scores > np.sort(past)[-1]).mean() > 0.99
    found = conformal.adaptive(past, scores, coverage=coverage, rate=rate)
    bound = (max(1 - coverage, coverage) + rate) / (len(scores) * rate)
    assert abs(found.missed.mean() - (1 - coverage)) <= bound
    assert found.missed.any()
    assert not found.missed.all()


def test_adaptive_conformal_recovers_from_a_change_of_regime():
    rng = np.random.default_rng(1)
    scores = np.abs(rng.normal(size=2000)) * np.where(np.arange(2000) < 1000, 1.0, 2.0)
    past = np.abs(rng.normal(size=500))
    fixed = (scores[1000:] > conformal.quantile(past, 0.9)).mean()
    found = conformal.adaptive(past, scores, coverage=0.9, rate=0.02)
    assert fixed > 0.3
    assert abs(found.missed[1000:].mean() - 0.1) < 0.03


@pytest.mark.parametrize("ahead", [1, 5])
def test_an_interval_several_steps_ahead_reads_and_follows_only_scores_known_then(ahead):
    scores = np.abs(np.random.default_rng(3).normal(size=60)).cumsum()  # each but few are misses
    found = conformal.adaptive(scores[:20], scores[20:], coverage=0.8, ahead=ahead, rate=0.05)
    for t in range(40):
        known, misses = np.sort(scores[: 20 + t - ahead + 1]), found.missed[: max(0, t - ahead + 1)]
        miss = 0.2 + 0.05 * (0.2 * len(misses) - misses.sum())
        assert found.misses[t] == pytest.approx(miss)
        rank = int(np.ceil((len(known) + 1) * (1 - miss) - 1e-9))
        assert found.bounds[t] == (known[rank - 1] if rank <= len(known) else np.inf)
    unknown = conformal.adaptive(scores[:20], np.append(scores[20:], [np.nan] * ahead), coverage=0.8, ahead=ahead)
    assert np.isfinite(unknown.bounds[:40]).any()
    assert not np.isnan(unknown.bounds).any()


def test_an_adaptive_interval_reads_only_earlier_scores():
    rng = np.random.default_rng(2)
    past, scores = np.abs(rng.normal(size=100)), np.abs(rng.normal(size=50))
    changed = scores.copy()
    changed[30:] = 100.0
    one, other = (conformal.adaptive(past, each, coverage=0.8, rate=0.1) for each in (scores, changed))
    np.testing.assert_array_equal(one.bounds[:31], other.bounds[:31])
