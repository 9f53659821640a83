"""Tests of equal accuracy against statsmodels, arch and formulas written down anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from grownas.statistics import diebold_mariano, equal_losses, model_confidence_set, newey_west_t


def correlated(n, seed=0, memory=0.5, mean=0.0):
    noise = np.random.default_rng(seed).normal(size=n)
    for t in range(1, n):
        noise[t] += memory * noise[t - 1]
    return mean + noise


# Newey and West


@pytest.mark.parametrize("n", [5, 30, 100, 503, 2000])
@pytest.mark.parametrize("memory", [-0.5, 0.0, 0.8])
def test_newey_west_equals_statsmodels(n, memory):
    series = correlated(n, seed=n, memory=memory, mean=0.1)
    lags = math.floor(4 * (n / 100) ** (2 / 9))
    kinds = {"cov_type": "HAC", "cov_kwds": {"maxlags": lags, "use_correction": False}}
    judge = sm.OLS(series, np.ones(n)).fit(**kinds)
    ours = newey_west_t(series)
    assert ours.mean == pytest.approx(judge.params[0], rel=1e-12)
    assert ours.error == pytest.approx(judge.bse[0], rel=1e-10)
    assert ours.t == pytest.approx(judge.tvalues[0], rel=1e-10)


def test_newey_west_by_hand():
    """Five numbers: 4 * 0.05**(2/9) = 2.06, so two lags with weights 2/3 and 1/3."""
    centred = np.array([1.0, -2.0, 0.0, 3.0, -2.0])
    own, one, two = 18.0, -2 + 0 + 0 - 6, 0 - 6 + 0
    total = own + 2 * (2 / 3) * one + 2 * (1 / 3) * two
    found = newey_west_t(centred + 7)
    assert found == pytest.approx((7.0, math.sqrt(total) / 5, 7 / (math.sqrt(total) / 5)), rel=1e-12)


@pytest.mark.parametrize(("level", "t"), [(0.0, 0.0), (2.5, math.inf), (-2.5, -math.inf)])
def test_a_constant_series_has_no_error(level, t):
    assert newey_west_t(np.full(10, level)) == (level, 0.0, t)


@pytest.mark.parametrize("n", [0, 1])
def test_one_difference_is_too_few(n):
    with pytest.raises(ValueError, match=f"needs at least 2 differences, got {n}"):
        newey_west_t(np.ones(n))


@settings(max_examples=40)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=60))
def test_newey_west_is_finite_unless_the_series_is_constant(values):
    found = newey_west_t(np.array(values))
    assert not math.isnan(found.t)
    assert found.error >= 0


# Diebold and Mariano


def losses_of_a_panel(n=300, series=4, seed=0):
    """Daily mean squared errors of two models, the first a little worse, both disturbed by the same days."""
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(n, series)) * (1 + (np.arange(n) % 50 < 10))[:, None]
    return ((errors + 0.5 * rng.normal(size=(n, series))) ** 2).mean(1), (errors**2).mean(1)


@pytest.mark.parametrize("n", [60, 300, 507])
def test_diebold_mariano_on_a_panel_by_formula(n):
    worse, better = losses_of_a_panel(n)
    d = worse - better
    centred, lags = d - d.mean(), math.ceil(n ** (1 / 3))
    covariances = [(centred[k:] * centred[: n - k]).sum() / n for k in range(lags + 1)]
    variance = covariances[0] + 2 * sum((1 - k / (lags + 1)) * covariances[k] for k in range(1, lags + 1))
    statistic = d.mean() / math.sqrt(variance / n) * math.sqrt((n - 1) / n)  # Harvey et al. at horizon 1
    found = diebold_mariano(worse, better)
    assert found.statistic == pytest.approx(statistic, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(statistic), n - 1), rel=1e-8)
    assert found.p_one_sided == pytest.approx(stats.t.sf(statistic, n - 1), rel=1e-8)
    assert found.difference == pytest.approx(d.mean(), rel=1e-12)
    assert not found.equal
    assert found.statistic > 0


def test_diebold_mariano_turned_round():
    worse, better = losses_of_a_panel()
    one, two = diebold_mariano(worse, better), diebold_mariano(better, worse)
    assert two.statistic == pytest.approx(-one.statistic, rel=1e-12)
    assert two.p_value == pytest.approx(one.p_value, rel=1e-12)
    assert two.p_one_sided == pytest.approx(1 - one.p_one_sided, rel=1e-12)
    assert two.difference == -one.difference


def test_equal_losses_have_p_one():
    losses = losses_of_a_panel()[0]
    for other in (losses, losses * (1 + 1e-7)):  # the second as float32 leaves it
        found = diebold_mariano(losses, other)
        assert (found.statistic, found.p_value, found.p_one_sided, found.equal) == (0, 1, 1, True)


def test_equal_losses_are_equal_but_for_rounding_on_every_day():
    losses = losses_of_a_panel()[0]
    other = losses.copy()
    other[17] += 0.5e-5 * losses.max()
    assert equal_losses(losses, other)
    other[17] += 1e-5 * losses.max()
    assert not equal_losses(losses, other)


def test_diebold_mariano_holds_its_level():
    """Of models that are equally good, 5 % are told apart at 5 %: 300 draws, 4.5 standard errors."""
    rng = np.random.default_rng(0)
    found = [diebold_mariano(*rng.chisquare(2, size=(2, 200))).p_value < 0.05 for _ in range(300)]
    assert abs(np.mean(found) - 0.05) < 4.5 * math.sqrt(0.05 * 0.95 / 300)


# Model confidence set


def test_the_set_holds_the_best_and_not_what_is_far_worse():
    rng = np.random.default_rng(0)
    days = rng.chisquare(3, size=400)
    noise = 0.3 * rng.normal(size=(3, 400))
    noise -= noise.mean(1, keepdims=True)  # so that the levels are the means
    levels = {"far": 3, "best": 0, "near": 0.005}
    losses = {name: days + level + own for (name, level), own in zip(levels.items(), noise, strict=True)}
    found = model_confidence_set(losses)
    assert found.members == ["best", "near"]
    assert found.p_values["best"] == 1
    assert found.p_values["far"] < 0.01
    assert found.size == 0.1
    assert found.block == 20  # floor(sqrt(400))


def test_the_set_equals_that_of_arch():
    from arch.bootstrap import MCS

    rng = np.random.default_rng(1)
    losses = {f"m{i}": rng.chisquare(3, size=200) + 0.15 * i for i in range(5)}
    found = model_confidence_set(losses, size=0.25, seed=3)
    judge = MCS(np.stack(list(losses.values()), 1), 0.25, reps=1000, block_size=14, bootstrap="stationary", seed=3)
    judge.compute()
    assert found.members == [f"m{i}" for i in sorted(judge.included)]
    assert 0 < len(found.members) < 5
    for i in range(5):
        assert found.p_values[f"m{i}"] == judge.pvalues.loc[i, "Pvalue"]


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_equal_losses_stand_or_fall_together(level):
    rng = np.random.default_rng(0)
    best = rng.chisquare(3, size=300)
    other = best + level + 0.1 * rng.normal(size=300)
    losses = {"a": other, "best": best, "same as a": other.copy(), "near a": other * (1 + 1e-7)}
    found = model_confidence_set(losses)
    assert len({found.p_values[name] for name in ("a", "same as a", "near a")}) == 1
    assert "best" in found.members
    assert found.members == (list(losses) if level == 0 else ["best"])


def test_one_model_or_only_equal_ones_are_the_set():
    losses = np.random.default_rng(0).chisquare(3, size=50)
    assert model_confidence_set({"only": losses}).members == ["only"]
    both = model_confidence_set({"b": losses, "a": losses})
    assert (both.members, both.p_values) == (["b", "a"], {"b": 1.0, "a": 1.0})


def test_the_set_is_its_seed():
    rng = np.random.default_rng(1)
    losses = {name: rng.chisquare(3, size=100) for name in "abc"}
    one, again, other = (model_confidence_set(losses, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.p_values != other.p_values
