"""The echo state network against its equations, written down anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from grownas.baselines.esn import ESN, RIDGES, SETTINGS, WASHOUT, Reservoir, Setting, choose
from grownas.baselines.var import fit_var
from grownas.errors import DataError

SMALL = Setting(leak=0.3, radius=0.9, scale=0.5)


def drawn(rows=300, series=2, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, series))


def henon(rows=800):
    """The map of Henon (1976), x_t = 1 - 1.4 x_{t-1}^2 + 0.3 x_{t-2}, which no linear model forecasts."""
    values = np.zeros((rows, 1))
    for t in range(2, rows):
        values[t] = 1 - 1.4 * values[t - 1] ** 2 + 0.3 * values[t - 2]
    return values


def design_of(reservoir, setting, values):
    """A constant, the row and the leaky state of each row."""
    state, rows = np.zeros(len(reservoir.bias)), []
    for value in values:
        inner = setting.scale * (reservoir.bias + reservoir.inputs @ value)
        inner += setting.radius * (reservoir.recurrent @ state)
        state = state + setting.leak * (np.tanh(inner) - state)
        rows.append([1.0, *value, *state])
    return np.array(rows)


def ridge_regression(design, target, ridge):
    penalty = ridge * len(design) * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    return np.linalg.solve(design.T @ design + penalty, design.T @ target)


@pytest.mark.parametrize("setting", [SMALL, Setting(1.0, 0.5, 0.1)])
def test_forecasts_are_ridge_regressions_on_leaky_states(setting):
    reservoir, values = Reservoir.draw(2, units=6, seed=1), drawn()
    design = design_of(reservoir, setting, values)
    beta = ridge_regression(design[WASHOUT:-1], values[WASHOUT + 1 :], 0.1)
    fitted = ESN.fit(reservoir, setting, values, ridge=0.1)
    np.testing.assert_allclose(fitted.forecast(values), design @ beta, rtol=0, atol=1e-10)
    assert fitted.readout.size == 2 * (1 + 2 + 6)


def test_the_recurrent_weights_have_spectral_radius_1_and_depend_on_the_seed():
    one, same, other = (Reservoir.draw(2, units=30, seed=seed) for seed in (1, 1, 2))
    assert np.abs(np.linalg.eigvals(one.recurrent)).max() == pytest.approx(1, rel=1e-12)
    assert np.abs(one.inputs).max() <= 1
    np.testing.assert_array_equal(one.recurrent, same.recurrent)
    assert (one.recurrent != other.recurrent).all()


def test_the_reservoir_forgets_where_it_began():
    """The echo state property: the far past has no effect on a state after the washout."""
    reservoir, values = Reservoir.draw(2, seed=1), drawn(200)
    changed = np.concatenate([values[:20] + 3, values[20:]])
    for setting in SETTINGS:
        one, other = reservoir.states(values, setting), reservoir.states(changed, setting)
        gap = np.abs(one - other).max(axis=1)
        assert gap[19 + 3 * WASHOUT] < 1e-3 * gap[19], setting


def test_the_score_of_a_setting_is_the_mean_error_of_blocks_that_the_fit_does_not_touch():
    reservoir, values, errors = Reservoir.draw(2, units=6, seed=1), drawn(), []
    design, target = design_of(reservoir, SMALL, values)[WASHOUT:-1], values[WASHOUT + 1 :]
    for start, stop in pairwise(np.linspace(0, len(target), 6).astype(int)):
        rows = [row for row in range(len(target)) if not start <= row < stop + WASHOUT]
        beta = ridge_regression(design[rows], target[rows], 0.1)
        errors.append(((target[start:stop] - design[start:stop] @ beta) ** 2).mean())
    found = choose(reservoir, values, settings=[SMALL], ridges=[0.1], folds=5)
    assert found.scores == {(SMALL, 0.1): pytest.approx(np.mean(errors), rel=1e-10)}


def test_the_lowest_score_is_chosen():
    told = []
    settings = [SMALL, Setting(1.0, 0.3, 1.0)]
    found = choose(Reservoir.draw(1, units=20, seed=1), henon(), settings=settings, folds=3, notify=told.append)
    assert found.scores[found.setting, found.ridge] == min(found.scores.values())
    assert len(found.scores) == 2 * len(RIDGES)
    assert told == [f"reservoir {number} of 2, fold {fold} of 3" for number in (1, 2) for fold in (1, 2, 3)]


def test_it_forecasts_what_no_linear_model_can():
    values, reservoir = henon(), Reservoir.draw(1, units=100, seed=1)
    train, later = values[:600], slice(600, 799)
    found = choose(reservoir, train, settings=[Setting(1.0, 0.3, 1.0), SMALL], folds=5)
    fitted = ESN.fit(reservoir, found.setting, train, ridge=found.ridge)
    errors = [
        ((values[601:] - model.forecast(values)[later]) ** 2).mean()
        for model in (fitted, *(fit_var(train, order) for order in (1, 2, 3)))
    ]
    assert errors[0] < 0.01 * min(errors[1:])


@pytest.mark.parametrize("cut", [1, 60, 299])
def test_a_forecast_reads_only_the_past(cut):
    values, reservoir = drawn(), Reservoir.draw(2, units=10, seed=1)
    fitted, changed = ESN.fit(reservoir, SMALL, values, ridge=0.1), values.copy()
    changed[cut:] += 10
    np.testing.assert_array_equal(fitted.forecast(changed)[:cut], fitted.forecast(values)[:cut])
    assert (fitted.forecast(changed)[cut] != fitted.forecast(values)[cut]).all()


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="109 training rows are too few to choose an echo state network by folds; at"):
        choose(Reservoir.draw(2, units=6, seed=1), drawn(109))
