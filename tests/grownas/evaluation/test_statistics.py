"""Tests of equal accuracy against statsmodels, arch and formulas written down anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from grownas.evaluation.statistics import (
    MEASURED_SIZE,
    diebold_mariano,
    equal_losses,
    holm,
    model_confidence_set,
    newey_west_t,
    two_way_t,
    welch_t,
)


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


# Kinds of models, over days and seeds


def losses_of_a_kind(rng, m, scale, *, day=0.0, seed=0.0, single=0.0, mean=0.0):
    """Losses `(m, n)`: what all models share on a day, and what the kind, its seeds and single seeds on days add.

    Args:
        rng: of the kind.
        m: seeds.
        scale: of each day's effects, shape `(n,)`; its square is what all models share.
        day, seed, single: standard deviations of the kind on a day, of a seed, of a seed on a day.
        mean: of the kind.
    """
    own = day * scale * rng.standard_normal(len(scale)) + seed * rng.standard_normal((m, 1))
    return 10 + mean + scale**2 + own + single * scale * rng.standard_normal((m, len(scale)))


def volatility(rng, n):
    """Scales of a GARCH(1, 1) with Student's t: calm and wild days come in clusters."""
    scale, variance = np.empty(n), 1.0
    for t, shock in enumerate(rng.standard_t(5, n) * math.sqrt(0.6)):
        scale[t] = math.sqrt(variance)
        variance = 0.05 + (0.1 * shock**2 + 0.85) * variance
    return scale


def a_pair(draw=0, n=200, m=(4, 6), **effects):
    rng = np.random.default_rng(draw)
    scale = volatility(rng, n)
    return tuple(losses_of_a_kind(rng, each, scale, **effects) for each in m)


def bartlett(series, lags):
    """Variance of a mean, written down term by term."""
    n, centred = len(series), series - series.mean()
    covariances = [sum(centred[t] * centred[t - k] for t in range(k, n)) / n for k in range(lags + 1)]
    return (covariances[0] + 2 * sum((1 - k / (lags + 1)) * covariances[k] for k in range(1, lags + 1))) / n


@pytest.mark.parametrize("effects", [{"day": 1.0, "seed": 0.1, "single": 0.5}, {"seed": 0.1, "single": 1.0}], ids=str)
def test_two_way_t_by_formula(effects):
    n, lags = 90, 5  # ceil of 4.48
    a, b = a_pair(1, n, (3, 5), **effects)
    seeds, both = [], 0.0
    for losses in (a, b):
        m = len(losses)
        means = [row.mean() for row in losses]
        seeds.append((sum((mean - sum(means) / m) ** 2 for mean in means) / (m - 1) / m, m - 1))
        for row, mean in zip(losses, means, strict=True):
            both += bartlett(row - mean - losses.mean(axis=0) + losses.mean(), lags) / (m * (m - 1))
    days = max(0.0, bartlett(a.mean(axis=0) - b.mean(axis=0), lags) - both) * n / (n - lags - 1)
    parts = [*seeds, (days, 1.5 * n / (lags + 1))]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    statistic = (a.mean() - b.mean()) / math.sqrt(variance)
    found = two_way_t(a, b)
    assert found.statistic == pytest.approx(statistic, rel=1e-9)
    assert found.freedom == pytest.approx(freedom, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(statistic), freedom), rel=1e-9)


def test_two_way_t_without_seeds_is_diebold_mariano_with_fewer_degrees_of_freedom():
    worse, better = losses_of_a_panel(300)
    found, judge = two_way_t(worse[None], better[None]), diebold_mariano(worse, better)
    assert found.statistic == pytest.approx(judge.statistic * math.sqrt((300 - 7 - 1) / (300 - 1)), rel=1e-9)
    assert found.freedom == pytest.approx(1.5 * 300 / 8)
    assert found.p_value > judge.p_value


def test_two_way_t_turned_round():
    a, b = a_pair(day=1.0, seed=0.1, single=0.5, mean=0.1)
    one, two = two_way_t(a, b), two_way_t(b, a)
    assert two == pytest.approx((-one.statistic, one.p_value, one.freedom), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 100), st.integers(2, 6), st.integers(1, 6))
def test_two_way_t_reads_differences_in_any_unit(seed, unit, m, n):
    """What is added to all losses of a day, and the unit, change nothing; the p-value is one."""
    a, b = a_pair(seed, 40, (m, n), day=1.0, seed=0.1, single=0.5)
    shared = np.random.default_rng(seed).chisquare(2, 40)
    found, moved = two_way_t(a, b), two_way_t(unit * (a + shared), unit * (b + shared))
    assert moved == pytest.approx(found, rel=1e-6)
    assert 0 <= found.p_value <= 1
    assert found.freedom >= min(each for each in (m - 1, n - 1, 1.5 * 40 / 5) if each)


def test_rows_that_are_equal_count_as_one():
    a, b = a_pair(day=1.0, seed=0.1, single=0.5)
    fitted = b[:1]
    for others in (np.repeat(fitted, 5, axis=0), np.repeat(fitted, 5, axis=0) * (1 + 1e-7 * np.eye(5)[:, :1])):
        assert two_way_t(a, others) == pytest.approx(two_way_t(a, fitted), rel=1e-4)
        assert welch_t(a.mean(1), others.mean(1)) == pytest.approx(welch_t(a.mean(1), fitted.mean(1)), rel=1e-4)


def test_equal_kinds_are_not_told_apart():
    losses = losses_of_a_panel()[0][None]
    assert two_way_t(losses, losses) == (0.0, 1.0, math.inf)
    assert two_way_t(np.repeat(losses, 3, axis=0), losses * (1 + 1e-7)) == (0.0, 1.0, math.inf)


@pytest.mark.parametrize("n", [0, 1])
def test_one_step_is_too_few(n):
    with pytest.raises(ValueError, match=f"needs at least 2 steps, got {n}"):
        two_way_t(np.ones((2, n)), np.zeros((2, n)))


def test_two_steps_are_enough():
    assert 0 < two_way_t(np.array([[1.0, 2.0], [2.0, 2.5]]), np.array([[1.0, 1.0]])).p_value < 1


@pytest.mark.parametrize("m", [(2, 2), (3, 10), (5, 5)])
def test_welch_t_equals_scipy(m):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=m[0]), 0.5 + 2 * rng.normal(size=m[1])
    judge = stats.ttest_ind(a, b, equal_var=False)
    found = welch_t(a, b)
    assert found == pytest.approx((judge.statistic, judge.pvalue, judge.df), rel=1e-9)
    alone = stats.ttest_1samp(a, 0.3)
    for other in ([0.3], [0.3] * 4):
        assert welch_t(a, np.array(other)) == pytest.approx((alone.statistic, alone.pvalue, m[0] - 1), rel=1e-9)


def test_welch_t_needs_a_kind_that_depends_on_the_seed():
    assert welch_t(np.array([0.3]), np.array([0.4, 0.4, 0.4])) is None


NULLS = {  # effects of kinds that are equally good, and seeds of either
    "seeds": ({"seed": 0.1, "single": 0.01}, (3, 3)),
    "seeds, single days": ({"seed": 0.1, "single": 1.0}, (5, 5)),
    "seeds, days, single days": ({"day": 1.0, "seed": 0.1, "single": 1.0}, (10, 10)),
    "days": ({"day": 1.0, "seed": 0.01, "single": 0.2}, (3, 5)),
    "fitted": ({"day": 1.0}, (1, 1)),
    "trained and fitted": ({"day": 1.0, "single": 0.3}, (5, 1)),
}


@pytest.mark.parametrize("null", NULLS)
def test_two_way_t_holds_its_level(null):
    """500 draws on clustered days: the share of p < .05 is 3 to 7 %, but for 3 standard errors of .01."""
    effects, m = NULLS[null]
    found = [two_way_t(*a_pair(10_000 + i, 250, m, **effects)).p_value < 0.05 for i in range(500)]
    assert 0.0 <= np.mean(found) <= 0.07 + 3 * 0.01
    assert np.mean(found) > 0.03 - 0.022  # 3 standard errors below 3 %


def test_welch_t_holds_its_level_where_days_are_given():
    """No kind has an effect of its own on days: then other seeds are all that could differ."""
    found = [
        welch_t(*(each.mean(1) for each in a_pair(i, 50, (5, 5), seed=0.1, single=1.0))).p_value < 0.05
        for i in range(1000)
    ]
    assert 0.03 - 0.016 < np.mean(found) < 0.07 + 0.016


def test_diebold_mariano_on_averages_does_not_hold_its_level_over_seeds():
    """The reason for the other two tests."""
    found = [
        diebold_mariano(*(each.mean(0) for each in a_pair(i, 250, (5, 5), seed=0.1, single=0.5))).p_value < 0.05
        for i in range(200)
    ]
    assert np.mean(found) > 0.3


def test_two_way_t_finds_a_difference():
    found = [
        two_way_t(*(a, b + 0.3)).p_value < 0.05
        for a, b in (a_pair(i, 250, (5, 5), day=0.5, seed=0.1, single=0.5) for i in range(100))
    ]
    assert np.mean(found) > 0.8


def test_printed_tests_are_measured_to_hold_their_level():
    sizes = {one.test: one for one in MEASURED_SIZE}
    assert set(sizes) == {"days_and_seeds", "over_seeds", "finding", "diebold_mariano", "mcs"}
    for name in ("days_and_seeds", "over_seeds", "finding"):
        assert sizes[name].nominal == 0.05
        assert 0.03 <= sizes[name].lowest <= sizes[name].highest <= 0.07
    assert sizes["diebold_mariano"].highest > 0.5
    assert sizes["mcs"].nominal == 0.1
    assert sizes["mcs"].highest <= 0.14


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


def test_the_set_is_near_that_of_arch_where_days_are_many():
    """Without seeds and on 6,000 days ours differs by the few degrees of freedom of the days alone."""
    from arch.bootstrap import MCS

    rng = np.random.default_rng(1)
    losses = {f"m{i}": rng.chisquare(3, size=6000) + 0.04 * i for i in range(5)}
    found = model_confidence_set(losses, size=0.25, seed=3)
    judge = MCS(np.stack(list(losses.values()), 1), 0.25, reps=1000, block_size=77, bootstrap="stationary", seed=3)
    judge.compute()
    assert found.block == 77
    assert found.members == [f"m{i}" for i in sorted(judge.included)]
    assert 0 < len(found.members) < 5
    for i in range(5):
        assert found.p_values[f"m{i}"] == pytest.approx(judge.pvalues.loc[i, "Pvalue"], abs=0.04)


def test_the_set_holds_what_other_seeds_could_make_best():
    """The averages differ on every day, but the seeds of each kind lie on both sides of the other's."""
    days = np.random.default_rng(0).chisquare(5, size=300) / 5
    seeds = {"a": [0.98, 1.0, 1.02, 1.0], "b": [0.8, 1.3, 0.9, 1.4], "c": [2.0, 2.1, 2.2, 1.9]}
    losses = {name: np.array(each)[:, None] * days for name, each in seeds.items()}
    assert model_confidence_set({name: each.mean(0) for name, each in losses.items()}).members == ["a"]
    found = model_confidence_set(losses)
    assert found.members == ["a", "b"]
    assert found.p_values["c"] < 0.01


def test_the_set_and_the_test_of_two_kinds_agree():
    """Both have the same t; the set's p-value comes from a bootstrap."""
    for seed in range(5):
        a, b = a_pair(seed, 400, (5, 7), day=0.5, seed=0.1, single=0.5, mean=0.0)
        p = min(model_confidence_set({"a": a, "b": b}).p_values.values())
        assert p == pytest.approx(two_way_t(a, b).p_value, abs=0.06)


@pytest.mark.parametrize("null", ["seeds, single days", "days", "fitted"])
def test_the_set_holds_its_level(null):
    """Two kinds that are equally good: one leaves the 10 % set in about 10 % of draws, 150 of them."""
    effects, m = NULLS[null]
    pairs = (a_pair(20_000 + i, 150, m, **effects) for i in range(150))
    found = [len(model_confidence_set({"a": a, "b": b}).members) < 2 for a, b in pairs]
    assert 0.02 < np.mean(found) < 0.14 + 3 * 0.028


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


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.5], [], [0.02] * 3, [0.9, 0.0, 1.0]], ids=str)
def test_holms_correction_equals_statsmodels(p):
    expected = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(expected), rel=1e-12)
