"""Vector autoregressions against statsmodels, scipy and closed forms; their choice; and what they may see."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from statsmodels.tsa.api import VAR as Judge  # noqa: N811  (ours is called VAR, too)

from grownas.baselines import var as module
from grownas.baselines.naive import zero_forecast
from grownas.baselines.var import (
    FOLDS,
    RIDGES,
    VAR,
    Selection,
    fit_var,
    fit_var_robust,
    lagged,
    select_by_folds,
    select_by_validation,
)
from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import clean
from grownas.tasks.index_returns.reading import read_csv

CLOSES = Path(__file__).parents[3].parent / "shared" / "data" / "indices" / "closes.csv"


def panel(rows=300, series=3, seed=0, order=2, heavy=False):
    """Simulate a stable VAR; the noise is Student's t with 2.5 degrees of freedom where it is heavy."""
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=(order, series, series)) * 0.5 / (order * series)
    noise = rng.standard_t(2.5, size=(rows, series)) if heavy else rng.normal(size=(rows, series))
    values = np.zeros((rows, series))
    for t in range(rows):
        values[t] = 0.1 + noise[t] + sum(coefficients[i] @ values[t - 1 - i] for i in range(min(order, t)))
    return values


def huber_objective(flat, design, target, ridge, delta):
    """Mean over rows of the Huber loss's sum over series, plus half the ridge's squares, written down anew."""
    beta = flat.reshape(design.shape[1], -1)
    size = np.abs(target - design @ beta)
    loss = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return loss.sum() / len(target) + 0.5 * ridge * (beta[1:] ** 2).sum()


# Forecasts


def test_a_forecast_by_hand():
    var = VAR(np.array([1.0, -1.0]), np.array([[[0.5, 2.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 0.0]]]))
    values = np.array([[2.0, 1.0], [4.0, -1.0]])
    np.testing.assert_array_equal(
        var.forecast(values),
        [[1 + 1 + 2, -1 + 1 + 0], [1 + 2 - 2, -1 - 1 + 6]],  # the row before the first counts as 0
    )
    assert var.order == 2
    assert var.parameters == 2 + 8


@pytest.mark.parametrize("order", [1, 2, 5])
def test_forecasts_equal_those_of_statsmodels(order):
    values = panel()
    judge = Judge(values).fit(order, trend="c")
    ours = fit_var(values, order).forecast(values)
    np.testing.assert_allclose(ours[order - 1 : -1], judge.fittedvalues, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours[-1:], judge.forecast(values[-order:], steps=1), rtol=0, atol=1e-8)


@settings(max_examples=25)
@given(order=st.integers(1, 6), cut=st.integers(0, 39), seed=st.integers(0, 99))
def test_a_forecast_reads_only_the_past(order, cut, seed):
    rng = np.random.default_rng(seed)
    values, var = rng.normal(size=(40, 3)), VAR(rng.normal(size=3), rng.normal(size=(order, 3, 3)))
    before = var.forecast(values)
    changed = values.copy()
    changed[cut:] += rng.normal(size=changed[cut:].shape) + 10
    after = var.forecast(changed)
    np.testing.assert_array_equal(after[:cut], before[:cut])
    assert (after[cut] != before[cut]).all()


def test_a_forecast_of_fewer_rows_than_lags():
    var = VAR(np.zeros(1), np.array([[[1.0]], [[10.0]], [[100.0]]]))
    np.testing.assert_array_equal(var.forecast(np.array([[1.0], [2.0]])), [[1.0], [12.0]])


def test_zero_forecasts_zero():
    forecast = zero_forecast(panel(20))
    assert forecast.dtype == np.float64
    np.testing.assert_array_equal(forecast, np.zeros((20, 3)))


# Fits


@pytest.mark.parametrize("order", [1, 3, 7])
def test_least_squares_equals_statsmodels(order):
    values = panel(seed=order)
    judge = Judge(values).fit(order, trend="c")
    ours = fit_var(values, order)
    np.testing.assert_allclose(ours.intercept, judge.intercept, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours.coefficients, judge.coefs, rtol=0, atol=1e-8)
    assert ours.loss == "squared"


@pytest.mark.parametrize(("order", "ridge"), [(1, 0.1), (2, 1.0), (3, 0.01)])
def test_ridge_has_its_closed_form(order, ridge):
    values = panel(seed=order)
    design, target = lagged(values, order)
    x, y = design[:, 1:] - design[:, 1:].mean(0), target - target.mean(0)  # a free intercept: centre both sides
    slopes = np.linalg.solve(x.T @ x / len(x) + ridge * np.eye(x.shape[1]), x.T @ y / len(x))
    ours = fit_var(values, order, ridge=ridge)
    np.testing.assert_allclose(np.concatenate(list(ours.coefficients), axis=1), slopes.T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.intercept, target.mean(0) - design[:, 1:].mean(0) @ slopes, rtol=0, atol=1e-10)


def test_a_ridge_of_one_halves_and_of_a_hundred_removes_a_coefficient():
    values = panel(3000, 1, order=1)
    values = (values - values.mean(0)) / values.std(0)
    free, halved, removed = (fit_var(values, 1, ridge=ridge).coefficients.item() for ridge in (0, 1, 100))
    assert halved == pytest.approx(free / 2, rel=1e-3)
    assert removed == pytest.approx(free / 101, rel=1e-3)


@pytest.mark.parametrize(("order", "ridge", "delta"), [(1, 0.0, 1.5), (2, 0.1, 1.5), (2, 1.0, 0.5)])
def test_huber_equals_a_generic_minimiser(order, ridge, delta):
    values = panel(200, 2, heavy=True)
    design, target = lagged(values, order)
    found = minimize(
        huber_objective, np.zeros(design.shape[1] * 2), (design, target, ridge, delta), method="BFGS",
        options={"gtol": 1e-7, "maxiter": 5000},
    )  # fmt: skip
    ours = fit_var_robust(values, order, ridge=ridge, delta=delta)
    beta = np.concatenate([ours.intercept[:, None], *ours.coefficients], axis=1).T
    assert huber_objective(beta.ravel(), design, target, ridge, delta) <= found.fun + 1e-12
    np.testing.assert_allclose(beta.ravel(), found.x, rtol=0, atol=2e-5)  # BFGS differentiates numerically
    assert ours.loss == "huber"


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_huber_stands_where_the_gradient_is_zero(ridge):
    values = panel(400, 3, heavy=True)
    design, target = lagged(values, 2)
    ours = fit_var_robust(values, 2, ridge=ridge)
    beta = np.concatenate([ours.intercept[:, None], *ours.coefficients], axis=1).T
    gradient = -design.T @ np.clip(target - design @ beta, -1.5, 1.5) / len(target)
    gradient[1:] += ridge * beta[1:]
    assert np.abs(gradient).max() < 1e-8
    assert np.abs(fit_var(values, 2, ridge=ridge).coefficients - ours.coefficients).max() > 0.01


def test_huber_equals_statsmodels_rlm_on_one_equation():
    values = panel(400, 3, heavy=True)
    design, target = lagged(values, 2)
    delta, scale = 1.5, 1.7
    judge = sm.RLM(target[:, 1], design, M=sm.robust.norms.HuberT(delta / scale))
    # RLM divides residuals by a scale of its own; the same scale for all its rounds, and a threshold to match it
    fit = judge.fit(scale_est=lambda *_: scale, tol=1e-12, maxiter=2000, conv="coefs")
    ours = fit_var_robust(values, 2, delta=delta)
    beta = np.concatenate([ours.intercept[:, None], *ours.coefficients], axis=1)[1]
    np.testing.assert_allclose(beta, fit.params, rtol=0, atol=1e-7)


def test_huber_without_a_bend_is_least_squares():
    values = panel()
    ours, squared = fit_var_robust(values, 2, ridge=0.1, delta=1e3), fit_var(values, 2, ridge=0.1)
    np.testing.assert_allclose(ours.coefficients, squared.coefficients, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fit", [fit_var, fit_var_robust])
def test_a_series_that_stands_twice_shares_its_coefficients(fit):
    values = panel(series=2)
    doubled = fit(np.c_[values, values[:, :1]], 1)
    single = fit(values, 1)
    assert np.isfinite(doubled.coefficients).all()
    np.testing.assert_allclose(doubled.coefficients[0, 0, 0], doubled.coefficients[0, 0, 2], rtol=0, atol=1e-7)
    np.testing.assert_allclose(doubled.coefficients[0, 0, 0] * 2, single.coefficients[0, 0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fit", [fit_var, fit_var_robust])
def test_refuses_more_coefficients_than_rows_unless_they_shrink(fit):
    values = panel(9)
    assert fit(values, 2, ridge=0.1).order == 2
    with pytest.raises(DataError, match=r"a VAR\(2\) of 3 series needs more than 9 rows, got 9; give more rows"):
        fit(values, 2)
    assert fit(panel(10), 2).order == 2


# Choice by validation


def test_validation_chooses_the_lowest_error_of_fits_on_training_rows():
    values = panel(400, order=3)
    chosen = select_by_validation(values, 280, 340, range(1, 6))
    for order in range(1, 6):
        judge = Judge(values[:280]).fit(order, trend="c")
        forecasts = [judge.forecast(values[t - order : t], steps=1)[0] for t in range(280, 340)]
        error = ((values[280:340] - forecasts) ** 2).mean()
        assert chosen.scores[f"squared p={order} ridge=0"] == pytest.approx(error, abs=1e-10)
    best = min(range(1, 6), key=lambda order: chosen.scores[f"squared p={order} ridge=0"])
    assert chosen.order == chosen.chosen["order"] == best
    assert chosen.settings == 5
    np.testing.assert_array_equal(chosen.var.coefficients, fit_var(values[:280], best).coefficients)


def test_validation_never_reads_the_test_part():
    values = panel(400)
    changed = values.copy()
    changed[340:] = 1e6
    one, two = (select_by_validation(v, 280, 340) for v in (values, changed))
    assert one.scores == two.scores
    np.testing.assert_array_equal(one.var.coefficients, two.var.coefficients)


def test_validation_passes_over_orders_with_too_few_rows():
    chosen = select_by_validation(panel(40), 20, 30)
    assert chosen.settings == 4  # 20 - p > 1 + 3 p up to p = 4
    with pytest.raises(DataError, match=r"4 training rows are too few for a VAR\(1\) of 3 series"):
        select_by_validation(panel(40), 4, 30)


# Choice by blocked folds


@pytest.fixture
def fold_fits(monkeypatch):
    """Note the coefficients of every Huber fit inside the folds, in order."""
    fits, real = [], module.huber

    def spy(design, target, beta, **options):
        result = real(design, target, beta, **options)
        fits.append(result)
        return result

    monkeypatch.setattr(module, "huber", spy)
    return fits


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("fold", [0, 4, 9])
def test_a_fold_never_sees_its_held_out_rows(fold_fits, order, fold):
    values, changed = panel(230, heavy=True), panel(230, heavy=True)
    edges = np.linspace(order, 230, FOLDS + 1).astype(int)
    held_out = slice(edges[fold], edges[fold + 1])
    changed[held_out] = np.random.default_rng(1).normal(size=changed[held_out].shape) * 5
    for v in (values, changed):
        select_by_folds(v, orders=[order], ridges=[0.1], losses=["huber"])
    before, after = fold_fits[: FOLDS + 1], fold_fits[FOLDS + 1 :]  # the last of each is the fit on all rows
    assert len(before) == len(after) == FOLDS + 1
    np.testing.assert_array_equal(after[fold], before[fold])
    for other in set(range(FOLDS + 1)) - {fold}:
        assert (after[other] != before[other]).any()


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_fold_scores_equal_fits_done_one_by_one(loss):
    """The slow way: for each fold cut the rows by hand and fit anew."""
    values, order, ridge, folds = panel(240, heavy=True), 2, 0.1, 4
    chosen = select_by_folds(values, orders=[1, 3, order], ridges=[ridge], losses=[loss], folds=folds)
    edges = np.linspace(3, len(values), folds + 1).astype(int)  # the highest order sets the targets of all
    errors = []
    for start, stop in pairwise(edges):
        design, target = lagged(values, order)
        day = np.arange(order, len(values))  # of each target
        keep = (day < start) | (day - order >= stop)
        x, y = design[keep], target[keep]
        beta = np.linalg.solve(x.T @ x + ridge * len(x) * np.diag([0.0] + [1.0] * 6), x.T @ y)
        if loss == "huber":
            beta = minimize(
                huber_objective, beta.ravel(), (x, y, ridge, 1.5), method="BFGS", options={"gtol": 1e-6}
            ).x.reshape(beta.shape)
        inside = (day >= start) & (day < stop)
        errors.append(((target[inside] - design[inside] @ beta) ** 2).mean())
    expected = np.mean(errors)
    exact = 1e-10 if loss == "squared" else 2e-4  # folds stop Huber's rounds early
    assert chosen.scores[f"{loss} p={order} ridge={ridge:g}"] == pytest.approx(expected, rel=exact)


def test_folds_choose_the_lowest_score_and_fit_it_on_all_rows():
    values = panel(600, order=2, heavy=True)
    chosen = select_by_folds(values, orders=range(1, 5))
    assert chosen.settings == len(chosen.scores) == 4 * len(RIDGES) * 2
    loss, order, ridge = (chosen.chosen[key] for key in ("loss", "order", "ridge"))
    assert chosen.scores[f"{loss} p={order} ridge={ridge:g}"] == min(chosen.scores.values())
    refitted = {"squared": fit_var, "huber": fit_var_robust}[loss](values, order, ridge=ridge)
    np.testing.assert_array_equal(chosen.var.coefficients, refitted.coefficients)
    np.testing.assert_array_equal(chosen.refit(values).coefficients, refitted.coefficients)
    assert loss == "huber"  # the noise has 2.5 degrees of freedom


def test_folds_find_nothing_in_noise():
    values = np.random.default_rng(0).normal(size=(800, 4))
    chosen = select_by_folds(values, orders=range(1, 4))
    assert chosen.chosen["ridge"] >= 1
    assert np.abs(chosen.var.coefficients).max() < 0.05


def test_folds_find_a_strong_second_lag():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 2))
    for t in range(2, 600):
        values[t] += 0.8 * values[t - 2]
    chosen = select_by_folds(values, orders=range(1, 4))
    assert chosen.order >= 2
    np.testing.assert_allclose(chosen.var.coefficients[1], 0.8 * np.eye(2), atol=0.12)


def test_folds_pass_over_orders_with_too_few_rows():
    chosen = select_by_folds(panel(40), losses=["squared"], ridges=[0.1])
    assert list(chosen.scores) == [f"squared p={order} ridge=0.1" for order in range(1, 8)]  # 33 * 8 // 10 > 1 + 3 * 7
    with pytest.raises(DataError, match="6 training rows are too few to choose a VAR of 3 series by folds"):
        select_by_folds(panel(6))


def test_a_selection_survives_its_tree():
    chosen = select_by_folds(panel(200), orders=[1, 2], ridges=[0.1, 1.0])
    again = Selection.from_tree(chosen.to_tree())
    np.testing.assert_array_equal(again.var.coefficients, chosen.var.coefficients)
    np.testing.assert_array_equal(again.var.intercept, chosen.var.intercept)
    assert (again.var.loss, again.chosen) == (chosen.var.loss, chosen.chosen)
    assert (again.settings, again.scores) == (chosen.settings, chosen.scores)


def test_choosing_a_var_loads_no_library_while_the_clock_runs():
    """In a process of its own: what is imported on first use would be charged to the model's seconds."""
    code = """if True:
        import sys
        import numpy as np
        from grownas.baselines import var
        values, before = np.random.default_rng(0).normal(size=(300, 2)), set(sys.modules)
        selection = var.select_by_folds(values, orders=[1, 2])
        selection.robust(values).var.forecast(values)
        var.select_by_validation(values, 200, 250)
        print({name.partition(".")[0] for name in set(sys.modules) - before} - {"numpy"})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# On real data: measured by two independent programs before


@pytest.fixture(scope="module")
def closes():
    if not CLOSES.exists():
        pytest.skip(f"{CLOSES.name} of twelve indices is not beside this checkout; its licence keeps it out of it")
    returns = clean(read_csv(CLOSES)).returns
    train_end, val_end = int(0.70 * len(returns)), int(0.85 * len(returns))
    train = returns[:train_end]
    return (returns - train.mean(0)) / train.std(0), train_end, val_end


@pytest.mark.parametrize(
    ("fit", "expected"),
    [(lambda train: fit_var(train, 1), 1.2593), (lambda train: fit_var_robust(train, 1), 1.2563)],
    ids=["least squares", "huber"],
)
def test_var1_on_twelve_indices(closes, fit, expected):
    values, train_end, val_end = closes
    forecasts = fit(values[:train_end]).forecast(values)[val_end - 1 : -1]
    assert ((values[val_end:] - forecasts) ** 2).mean() == pytest.approx(expected, abs=0.002)


def test_robust_var_on_twelve_indices(closes):
    values, train_end, val_end = closes
    chosen = select_by_folds(values[:train_end], orders=[1, 2])  # higher orders score worse; two keep the test quick
    assert (chosen.chosen["loss"], chosen.order) == ("huber", 1)
    forecasts = chosen.var.forecast(values)[val_end - 1 : -1]
    assert ((values[val_end:] - forecasts) ** 2).mean() == pytest.approx(1.2520, abs=0.002)


def test_a_choice_tells_each_order_and_fold():
    values, told = np.random.default_rng(0).normal(size=(200, 2)), []
    chosen = select_by_folds(values, orders=(1, 3), ridges=(0.1,), losses=("squared",), folds=4, notify=told.append)
    assert told == [f"VAR({order}), fold {fold} of 4" for order in (1, 3) for fold in (1, 2, 3, 4)]
    silent = select_by_folds(values, orders=(1, 3), ridges=(0.1,), losses=("squared",), folds=4)
    np.testing.assert_array_equal(chosen.var.coefficients, silent.var.coefficients)
    told.clear()
    select_by_validation(values, 150, 190, range(1, 4), notify=told.append)
    assert told == ["VAR(1)", "VAR(2)", "VAR(3)"]


@pytest.mark.parametrize("order", [1, 3])
def test_with_inputs_that_are_not_forecast_it_is_a_regression_on_the_lags_of_all_columns(order):
    values = np.random.default_rng(0).normal(size=(80, 4))
    found = fit_var(values, order, outputs=2)
    lags = [values[order - 1 - lag : -1 - lag] for lag in range(order)]
    design = np.column_stack([np.ones(80 - order), *lags])
    beta = np.linalg.lstsq(design, values[order:, :2], rcond=None)[0]
    np.testing.assert_allclose(found.forecast(values)[order - 1 : -1], design @ beta, rtol=0, atol=1e-12)
    assert (found.outputs, found.parameters) == (2, beta.size)
    whole = fit_var(values, order)
    np.testing.assert_allclose(whole.coefficients[:, :2], found.coefficients, rtol=0, atol=1e-12)  # as with all targets


def test_folds_choose_by_the_series_that_are_forecast_alone():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2))
    values[1:, 1] += 0.9 * values[:-1, 1]  # easy, but an input only
    chosen = select_by_folds(values, orders=[1], outputs=1)
    assert chosen.chosen["ridge"] > 0.1  # nothing of the first can be forecast
    assert chosen.refit(values).coefficients.shape == (1, 1, 2)
