"""The heterogeneous autoregression against `arch`, least squares written down anew, and closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from arch.univariate import HARX
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.baselines.har import fit_har, parameters, regressors, select_har
from grownas.errors import DataError


def panel(rows=400, series=2, seed=0):
    """Persistent series, each with a long memory of the others."""
    rng = np.random.default_rng(seed)
    values = np.zeros((rows, series))
    for t in range(rows):
        week, month = values[max(0, t - 5) : t], values[max(0, t - 22) : t]
        means = 0.3 * week.mean(0)[::-1] + 0.5 * month.mean(0) if t else 0
        values[t] = means + rng.normal(size=series)
    return values


def means_of(values, row):
    """The regressors of one target, written down anew."""
    return np.concatenate([[1.0], *(values[row - span : row].mean(axis=0) for span in (1, 5, 22))])


def test_one_series_is_what_arch_fits():
    values = panel(series=1)
    fitted = HARX(values[:, 0], lags=[1, 5, 22], rescale=False).fit(disp="off")
    ours = fit_har(values).forecast(values)[21:-1, 0]
    np.testing.assert_allclose(ours, values[22:, 0] - fitted.resid[22:], rtol=0, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 3.0])
def test_several_series_are_ridge_regressions_on_the_means(ridge):
    values = panel()
    design = np.stack([means_of(values, row) for row in range(22, len(values))])
    penalty = ridge * len(design) * np.diag([0.0] + [1.0] * 6)
    beta = np.linalg.solve(design.T @ design + penalty, design.T @ values[22:])
    ahead = fit_har(values, ridge=ridge).forecast(values)
    np.testing.assert_allclose(ahead[21:-1], design @ beta, rtol=0, atol=1e-10)


def test_the_regressors_are_the_means_before_each_target():
    values = panel(60)
    design, target = regressors(values)
    np.testing.assert_allclose(design, [means_of(values, row) for row in range(22, 60)], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(target, values[22:])


def test_it_is_a_var_of_order_22_with_three_numbers_a_pair():
    fitted = fit_har(panel())
    assert fitted.order == 22
    for lags in (slice(1, 5), slice(5, 22)):
        np.testing.assert_array_equal(np.ptp(fitted.coefficients[lags], axis=0), 0)
    assert parameters(2, 2) == 2 + 3 * 4
    assert parameters(5, 2) == 2 + 3 * 2 * 5


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_score_of_a_ridge_is_the_mean_error_of_blocks_that_the_fit_does_not_touch(ridge):
    values = panel()
    design, target = regressors(values)
    errors = []
    for start, stop in pairwise(np.linspace(0, len(target), 11).astype(int)):
        rows = [row for row in range(len(target)) if not start <= row < stop + 22]
        x, y = design[rows], target[rows]
        penalty = ridge * len(x) * np.diag([0.0] + [1.0] * 6)
        beta = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        errors.append(((target[start:stop] - design[start:stop] @ beta) ** 2).mean())
    assert select_har(values).scores[f"squared ridge={ridge:g}"] == pytest.approx(np.mean(errors), rel=1e-10)


def test_the_lowest_score_is_fitted_on_all_rows():
    values = panel()
    chosen = select_har(values)
    best = chosen.chosen["ridge"]
    assert chosen.scores[f"squared ridge={best:g}"] == min(chosen.scores.values())
    np.testing.assert_array_equal(chosen.var.coefficients, fit_har(values, ridge=best).coefficients)
    assert chosen.settings == len(chosen.scores) == 9


def test_noise_is_shrunk_away():
    assert select_har(np.random.default_rng(0).normal(size=(900, 3))).chosen["ridge"] >= 1


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(22, 59), seed=st.integers(0, 99))
def test_a_forecast_reads_only_the_past(cut, seed):
    values, fitted = np.random.default_rng(seed).normal(size=(60, 2)), fit_har(panel())
    changed = values.copy()
    changed[cut:] += 10
    np.testing.assert_array_equal(fitted.forecast(changed)[:cut], fitted.forecast(values)[:cut])
    assert (fitted.forecast(changed)[cut] != fitted.forecast(values)[cut]).all()


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="a HAR needs more than 22 rows, got 22"):
        fit_har(np.zeros((22, 2)))
    with pytest.raises(DataError, match="30 training rows are too few to choose a HAR of 2 series by folds"):
        select_har(np.random.default_rng(0).normal(size=(30, 2)))


def test_the_choice_tells_each_fold():
    told = []
    select_har(np.random.default_rng(0).normal(size=(200, 2)), ridges=(0.1,), folds=3, notify=told.append)
    assert told == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]


def test_with_inputs_that_are_not_forecast_the_first_series_have_the_same_equations():
    values = panel()
    whole, part = fit_har(values, ridge=0.1), fit_har(values, ridge=0.1, outputs=1)
    np.testing.assert_allclose(part.coefficients, whole.coefficients[:, :1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(part.forecast(values), whole.forecast(values)[:, :1], rtol=0, atol=1e-12)
