"""The combined start: its parts, its weights, and what they may see."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from grownas.baselines.combination import (
    CENTRES,
    LONGER,
    STRENGTHS,
    Combination,
    Part,
    combine_by_folds,
    nonnegative,
    shrunken_weights,
    weighted_sum,
)
from grownas.baselines.var import VAR, cut_blocks, exponential_average, fit_var, select_by_folds
from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import clean
from grownas.tasks.index_returns.reading import read_csv
from grownas.tasks.index_returns.sources import bundled

CLOSES = Path(__file__).parents[3].parent / "shared" / "data" / "indices" / "closes.csv"
QUICK = {"ridges": (0.01, 0.3), "losses": ("squared",)}


def persistent(rows=600, series=3, seed=0):
    """Series that follow an average of the past: much can be forecast."""
    rng = np.random.default_rng(seed)
    values, average = np.zeros((rows, series)), np.zeros(series)
    for t in range(rows):
        values[t] = 0.95 * average + 0.3 * rng.normal(size=series)
        average = average + (values[t] - average) / 6
    return (values - values.mean(0)) / values.std(0)


def noise(rows=800, series=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, series))


def seasonal(rows=900, series=1, period=24, seed=0):
    """Series that repeat, with noise, what they were a period ago."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, series))
    for t in range(period, rows):
        values[t] = 0.9 * values[t - period] + 0.4 * values[t]
    return (values - values.mean(0)) / values.std(0)


# ---- exponential averages


@pytest.mark.parametrize("centre", [0.0, 1.0, 2.0, 10.0])
def test_an_average_is_the_weighted_sum_of_the_past(centre):
    """The weights are kept^age / (1 + centre), kept = centre / (1 + centre); their mean age is the centre of mass."""
    values = noise(50, 2)
    kept = centre / (1 + centre)
    ages = np.subtract.outer(np.arange(50), np.arange(50))
    weights = np.where(ages >= 0, kept ** np.maximum(ages, 0) / (1 + centre), 0)
    np.testing.assert_allclose(exponential_average(values, centre), weights @ values, rtol=0, atol=1e-12)
    ages = np.arange(2000)
    assert (ages * kept**ages).sum() / (1 + centre) == pytest.approx(centre, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, 39), seed=st.integers(0, 99))
def test_a_forecast_with_averages_reads_only_the_past(cut, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 3))
    var = VAR(rng.normal(size=3), rng.normal(size=(2, 3, 3)), "squared", rng.normal(size=(2, 3, 3)), CENTRES)
    changed = values.copy()
    changed[cut:] += 10
    np.testing.assert_array_equal(var.forecast(changed)[:cut], var.forecast(values)[:cut])
    assert (var.forecast(changed)[cut] != var.forecast(values)[cut]).all()
    assert (var.blocks, var.parameters) == (4, 3 + 4 * 9)


# ---- parts


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_part_with_averages_is_a_ridge_regression(ridge):
    values = persistent()
    read = [values, *(exponential_average(values, centre) for centre in CENTRES)]
    design = np.concatenate([np.ones((len(values), 1)), *read], axis=1)[21:-1]  # the first 22 rows are only read
    penalty = ridge * len(design) * np.diag([0.0] + [1.0] * 9)
    beta = np.linalg.solve(design.T @ design + penalty, design.T @ values[22:])
    ahead = Part(1, CENTRES, "squared", ridge).fit(values).forecast(values)
    np.testing.assert_allclose(ahead[21:-1], design @ beta, rtol=0, atol=1e-10)


def test_the_scores_are_the_errors_of_blocks_that_no_fit_touches():
    values = persistent(300, 2)
    found = combine_by_folds(values, ridges=(0.1,), losses=("squared",))
    read = [values, *(exponential_average(values, centre) for centre in CENTRES)]
    design, target = np.concatenate([np.ones((300, 1)), *read], axis=1)[21:-1], values[22:]
    errors = []
    for start, stop in pairwise(np.linspace(0, len(target), 11).astype(int)):
        rows = [row for row in range(len(target)) if not start <= row < stop + 22]
        x, y = design[rows], target[rows]
        beta = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.diag([0.0] + [1.0] * 6), x.T @ y)
        errors.append((target[start:stop] - design[start:stop] @ beta) ** 2)
    expected = np.concatenate(errors).mean()
    assert found.scores["squared p=1 centres=2,10 ridge=0.1"] == pytest.approx(expected, rel=1e-10)
    assert list(found.scores) == [
        "squared p=1 centres=2,10 ridge=0.1", "squared p=1 ridge=0.1", "squared p=2 ridge=0.1",
        *(f"squared p={order} ridge=0.1" for order in LONGER),
    ]  # fmt: skip
    assert found.settings == 3 + len(LONGER)


# ---- weights


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 3))
def test_weights_that_are_not_negative_are_scipys(seed, count):
    rng = np.random.default_rng(seed)
    rows, target = rng.normal(size=(5, 8, count)), rng.normal(size=(5, 8))
    found = nonnegative(np.einsum("bnk,bnl->bkl", rows, rows), np.einsum("bnk,bn->bk", rows, target))
    for one, x, y in zip(found, rows, target, strict=True):
        np.testing.assert_allclose(one, nnls(x, y)[0], rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), signal=st.floats(0, 2))
def test_the_weights_solve_their_problem_at_the_chosen_strength(seed, signal):
    """The pull enters as further rows of a non-negative least squares that scipy solves."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(200, 2))
    forecasts = truth + 0.5 * rng.normal(size=(2, 200, 2))
    target, prior = signal * truth + rng.normal(size=(200, 2)), np.array([0.5, 0.25])
    weights, strengths = shrunken_weights(forecasts, target, prior, cut_blocks(0, 200))
    assert (weights >= 0).all()
    for series, strength in enumerate(strengths):
        assert strength in STRENGTHS
        root = np.sqrt(strength * 200)
        rows = np.concatenate([forecasts[:, :, series].T, root * np.eye(2)])
        wanted, _ = nnls(rows, np.concatenate([target[:, series], root * prior]))
        np.testing.assert_allclose(weights[:, series], wanted, rtol=0, atol=1e-8)


def test_the_strength_is_the_largest_within_a_standard_error():
    """Written down anew, block by block, with scipy's solver."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(300, 1))
    forecasts = truth + 0.5 * rng.normal(size=(2, 300, 1))
    target, prior = 0.5 * truth + rng.normal(size=(300, 1)), np.array([0.5, 0.25])
    errors = np.zeros((len(STRENGTHS), 10))
    for j, (start, stop) in enumerate(pairwise(np.linspace(0, 300, 11).astype(int))):
        rest = np.r_[0:start, stop:300]
        for i, strength in enumerate(STRENGTHS):
            root = np.sqrt(strength * len(rest))
            rows = np.concatenate([forecasts[:, rest, 0].T, root * np.eye(2)])
            w, _ = nnls(rows, np.concatenate([target[rest, 0], root * prior]))
            errors[i, j] = ((target[start:stop, 0] - w @ forecasts[:, start:stop, 0]) ** 2).mean()
    excess = errors - errors[errors.mean(1).argmin()]
    near = excess.mean(1) <= excess.std(1, ddof=1) / np.sqrt(10)
    wanted = max(strength for strength, is_near in zip(STRENGTHS, near, strict=True) if is_near)
    assert shrunken_weights(forecasts, target, prior, cut_blocks(0, 300))[1] == (wanted,)


@pytest.mark.parametrize("seed", range(3))
def test_of_noise_nearly_nothing_is_forecast(seed):
    values = noise(seed=seed)
    found = combine_by_folds(values, losses=("squared",))
    assert (found.var.forecast(values) ** 2).mean() < 0.005
    assert (found.weights.sum(axis=0) < 0.8).all()


def test_forecasts_that_say_nothing_keep_the_prior():
    rng = np.random.default_rng(0)
    weights, _ = shrunken_weights(
        1e-3 * rng.normal(size=(2, 500, 3)), rng.normal(size=(500, 3)), np.array([0.5, 0.25]), cut_blocks(0, 500)
    )
    np.testing.assert_allclose(weights, [[0.5] * 3, [0.25] * 3], rtol=0, atol=0.02)


def test_where_much_can_be_forecast_nothing_is_shrunk():
    found = combine_by_folds(persistent(2000), **QUICK)
    assert (found.weights.sum(axis=0) > 0.93).all()
    assert set(found.strengths) == {STRENGTHS[0]}


def test_each_series_has_weights_of_its_own():
    found = combine_by_folds(np.concatenate([persistent(1500, 2), noise(1500, 2)], axis=1), **QUICK)
    assert (found.weights.sum(axis=0)[:2] > 0.9).all()
    assert (found.weights.sum(axis=0)[2:] < 0.8).all()


# ---- the sum


def test_the_sum_forecasts_the_weighted_forecasts():
    values = persistent()
    models = [Part(1, CENTRES, "huber", 0.1).fit(values), fit_var(values, 2), fit_var(values, 1)]
    weights = np.random.default_rng(0).uniform(size=(3, 3))
    wanted = sum(w * model.forecast(values) for w, model in zip(weights, models, strict=True))
    found = weighted_sum(models, weights)
    np.testing.assert_allclose(found.forecast(values), wanted, rtol=0, atol=1e-12)
    assert (found.order, found.centres, found.blocks) == (2, CENTRES, 4)


def test_a_model_without_weight_takes_no_room():
    values = persistent()
    models = [Part(1, CENTRES, "squared", 0.1).fit(values), fit_var(values, 2)]
    assert weighted_sum(models, np.array([[1.0] * 3, [0.0] * 3])).blocks == 3
    assert weighted_sum(models, np.array([[0.0] * 3, [1.0] * 3])).blocks == 2
    nothing = weighted_sum(models, np.zeros((2, 3)))
    assert not nothing.forecast(values).any()


def test_its_loss_is_that_of_the_heaviest_part():
    models = [fit_var(persistent(), 1), VAR(np.zeros(3), np.zeros((1, 3, 3)), "huber")]
    assert weighted_sum(models, np.array([[0.5] * 3, [0.2] * 3])).loss == "squared"
    assert weighted_sum(models, np.array([[0.1] * 3, [0.2] * 3])).loss == "huber"


# ---- the whole


def test_a_refit_keeps_parts_and_weights():
    values = persistent()
    found = combine_by_folds(values[:400], **QUICK)
    wanted = sum(w * part.fit(values).forecast(values) for w, part in zip(found.weights, found.parts, strict=True))
    np.testing.assert_allclose(found.refit(values).forecast(values), wanted, rtol=0, atol=1e-12)
    again = found.refit(values[:400])
    np.testing.assert_array_equal(again.coefficients, found.var.coefficients)


def test_a_combination_survives_its_tree():
    found = combine_by_folds(persistent(300), **QUICK)
    again = Combination.from_tree(found.to_tree())
    np.testing.assert_array_equal(again.weights, found.weights)
    np.testing.assert_array_equal(again.var.averages, found.var.averages)
    assert (again.parts, again.strengths, again.settings) == (found.parts, found.strengths, found.settings)
    assert (again.scores, again.chosen) == (found.scores, found.chosen)
    assert again.var.centres == found.var.centres


def test_what_was_chosen_is_said_in_plain_values():
    found = combine_by_folds(persistent(300), **QUICK)
    assert found.chosen["loss"] == "squared"
    assert found.chosen["centres"] == [2.0, 10.0]
    assert list(found.chosen["weights"]) == [str(part) for part in found.parts]
    assert all(isinstance(w, float) for row in found.chosen["weights"].values() for w in row)


@pytest.mark.parametrize(("blocks", "most", "averages"), [(1, 1, 0), (2, 2, 0), (3, 1, 2), (4, 2, 2), (None, 2, 2)])
def test_the_register_bounds_what_is_read(blocks, most, averages):
    found = combine_by_folds(persistent(), blocks=blocks, **QUICK)
    assert found.var.order <= most
    assert len(found.var.centres) == averages
    assert {part.order for part in found.parts} <= {1, 2}


# ---- longer orders


def test_a_season_starts_at_an_order_that_reaches_it():
    found = combine_by_folds(seasonal(), **QUICK)
    assert [(part.order >= 26, part.centres) for part in found.parts] == [(True, ())]
    np.testing.assert_array_equal(found.weights, 1)
    assert found.var.coefficients[23, 0, 0] == pytest.approx(0.9, abs=0.05)


def test_a_longer_order_is_judged_on_blocks_that_no_fit_touches():
    values, order = seasonal(300, period=12), 13
    found = combine_by_folds(values, ridges=(0.1,), losses=("squared",))
    first = max(LONGER)  # all orders forecast the same rows
    lags = np.stack([values[first - lag : len(values) - lag, 0] for lag in range(1, order + 1)], axis=1)
    design, target = np.hstack([np.ones((len(lags), 1)), lags]), values[first:]
    errors = []
    for start, stop in pairwise(np.linspace(0, len(target), 11).astype(int)):
        rows = [row for row in range(len(target)) if not start <= row < stop + order]
        x, y = design[rows], target[rows]
        beta = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.diag([0.0] + [1.0] * order), x.T @ y)
        errors.append(((target[start:stop] - design[start:stop] @ beta) ** 2).mean())
    assert found.scores["squared p=13 ridge=0.1"] == pytest.approx(np.mean(errors), rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("made", [noise, persistent])
def test_without_a_season_the_sum_stays(made, seed):
    assert {part.order for part in combine_by_folds(made(seed=seed), **QUICK).parts} <= {1, 2}


@pytest.mark.parametrize(("series", "blocks"), [(6, None), (1, 20)])  # 26 lags of 6 series are 156
def test_a_longer_order_must_fit_into_the_units(series, blocks):
    found = combine_by_folds(seasonal(1500, series), blocks=blocks, **QUICK)
    tried = {int(name.split("p=")[1].split()[0]) for name in found.scores}
    assert max(tried) == 13


def test_a_longer_order_is_refitted_and_survives_its_tree():
    values = seasonal(1200)
    found = Combination.from_tree(combine_by_folds(values[:900], **QUICK).to_tree())
    again = found.refit(values)
    assert again.order == found.var.order >= 26
    np.testing.assert_array_equal(again.coefficients, found.parts[0].fit(values).coefficients)
    assert found.chosen["order"] == found.parts[0].order


def test_short_panels_have_no_averages_and_shorter_ones_are_refused():
    found = combine_by_folds(noise(34, 3), **QUICK)
    assert [part.centres for part in found.parts] == [()]
    np.testing.assert_array_less(found.weights, 1)
    with pytest.raises(DataError, match="6 training rows are too few to choose a VAR of 3 series by folds"):
        combine_by_folds(noise(6, 3))


def test_choosing_loads_no_library_while_the_clock_runs():
    """In a process of its own: what is imported on first use would be charged to the model's seconds."""
    code = """if True:
        import sys
        import numpy as np
        from grownas.baselines import combination, har
        values, before = np.random.default_rng(0).normal(size=(300, 2)), set(sys.modules)
        combination.combine_by_folds(values)
        har.select_har(values)
        print({name.partition(".")[0] for name in set(sys.modules) - before} - {"numpy"})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- on real data


def parts_of(returns):
    """Standardise by the training part; return values and where validation and test part begin."""
    train_end, val_end = int(0.70 * len(returns)), int(0.85 * len(returns))
    train = returns[:train_end]
    return (returns - train.mean(0)) / train.std(0), train_end, val_end


def test_it_forecasts_ranges_better_than_a_single_var():
    """Validation part; a pull towards zero would cost more than half of what can be forecast there."""
    values, train_end, val_end = parts_of(clean(bundled()).returns)

    def error(var):
        ahead = var.forecast(values)[train_end - 1 : val_end - 1]
        return ((ahead - values[train_end:val_end]) ** 2).mean()

    combined = error(combine_by_folds(values[:train_end]).var)
    single = error(select_by_folds(values[:train_end], orders=(1, 2, 3), losses=("squared",)).var)
    assert combined < single < 0.6 * (values[train_end:val_end] ** 2).mean()


def test_it_is_not_worse_than_a_single_var_on_twelve_indices():
    if not CLOSES.exists():
        pytest.skip(f"{CLOSES.name} of twelve indices is not beside this checkout; its licence keeps it out of it")
    values, train_end, val_end = parts_of(clean(read_csv(CLOSES)).returns)
    found = combine_by_folds(values[:train_end])
    ahead = found.var.forecast(values)[val_end - 1 : -1]
    assert ((values[val_end:] - ahead) ** 2).mean() < 1.2520  # of the single VAR


def test_a_combination_tells_each_model_and_fold():
    told = []
    combine_by_folds(np.random.default_rng(0).normal(size=(300, 2)), ridges=(0.1,), folds=3, notify=told.append)
    assert told == [f"model {model} of 3, fold {fold} of 3" for model in (1, 2, 3) for fold in (1, 2, 3)]
