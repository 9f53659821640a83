"""Exogenous series of the forecaster: inputs up to the origin, given for the steps between, kept in files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from grownas.errors import ConfigError, DataError
from grownas.forecaster import GrownForecaster
from support.panels import TINY

ROWS = 300


def driven(rows=ROWS + 10):
    """Return y, whose row follows the row of X before it, and X with a column that says nothing."""
    rng = np.random.default_rng(0)
    days, drive = pd.bdate_range("2020-01-01", periods=rows), rng.normal(size=rows)
    y = 0.9 * np.concatenate([[0.0], drive[:-1]]) + 0.3 * rng.normal(size=rows)
    X = pd.DataFrame({"drive": 50 + 4 * drive, "idle": rng.normal(size=rows)}, days)
    return pd.DataFrame({"y": y}, days), X


@pytest.fixture(scope="module")
def data():
    return driven()


@pytest.fixture(scope="module")
def fitted(data):
    y, X = data
    return GrownForecaster(overrides=TINY).fit(y.iloc[:ROWS], X)  # further rows of X are ignored


def test_one_step_ahead_reads_the_last_row_of_x(fitted, data):
    _, X = data
    assert fitted.predict()["y"].iloc[0] == pytest.approx(0.9 * (X["drive"].iloc[ROWS - 1] - 50) / 4, abs=0.3)
    assert fitted.run_.scores.loc["var1", "test"] < 0.3 < fitted.run_.scores.loc["zero", "test"]  # a VARX reads X too
    assert list(fitted.X_.columns) == ["drive", "idle"]
    assert len(fitted.X_) == ROWS
    assert "drive" not in str(fitted.summary())


def test_step_k_reads_x_of_the_rows_between_and_nothing_later(fitted, data):
    _, X = data
    found = fitted.predict([1, 2, 3], X=X)
    drive = (X["drive"].iloc[ROWS - 1 : ROWS + 2] - 50) / 4
    np.testing.assert_allclose(found["y"], 0.9 * drive, atol=0.3)
    changed = X.copy()
    changed.iloc[ROWS + 1 :] += 100.0  # read by step 3 first
    other = fitted.predict([1, 2, 3], X=changed)
    np.testing.assert_array_equal(found["y"].iloc[:2], other["y"].iloc[:2])
    assert found["y"].iloc[2] != other["y"].iloc[2]
    pd.testing.assert_frame_equal(fitted.predict([1, 2], X=X.iloc[ROWS : ROWS + 1]), found.iloc[:2])


def test_later_rows_of_x_change_no_fit(fitted, data):
    y, X = data
    changed = X.copy()
    changed.iloc[ROWS:] = -7.0
    again = GrownForecaster(overrides=TINY).fit(y.iloc[:ROWS], changed)
    pd.testing.assert_frame_equal(again.predict(), fitted.predict())
    pd.testing.assert_frame_equal(again.predict_interval(), fitted.predict_interval())


def test_values_in_rows_that_are_not_read_may_be_missing(fitted, data):
    """Such as those of a moving mean before y begins, or of days that nobody knows yet."""
    y, X = data
    given = X.shift(1, freq="B")
    given = pd.concat([given.mul(np.nan).iloc[[0]].set_axis([X.index[0]]), given]).iloc[: ROWS + 1]
    given.iloc[ROWS] = np.nan
    made = GrownForecaster(overrides=TINY).fit(y.iloc[1:ROWS], given)
    pd.testing.assert_frame_equal(made.X_, X.iloc[: ROWS - 1].set_axis(X.index[1:ROWS]), check_freq=False)
    known = X.copy()
    known.iloc[ROWS + 1 :] = np.nan
    pd.testing.assert_frame_equal(fitted.predict([1, 2], X=known), fitted.predict([1, 2], X=X))


def test_an_update_without_a_new_row_needs_no_x(fitted, data):
    made, (y, _) = copy.deepcopy(fitted), data
    for rows in (y.iloc[:0], y.iloc[ROWS - 2 : ROWS]):
        assert made.update(rows).cutoff_ == y.index[ROWS - 1]


def test_intervals_at_several_steps_hold_the_values(fitted, data):
    y, X = data
    bounds = fitted.predict_interval([1, 2, 3], X=X, coverage=0.95)["y"][0.95]
    came = y["y"].iloc[ROWS : ROWS + 3]
    assert ((bounds["lower"] < came) & (came < bounds["upper"])).all()
    quantiles = fitted.predict_quantiles([2], X=X, alpha=[0.1, 0.9])["y"]
    assert quantiles[0.1].iloc[0] < fitted.predict([2], X=X)["y"].iloc[0] < quantiles[0.9].iloc[0]


def test_an_update_needs_no_x_of_the_rows_that_it_ignores(fitted, data):
    y, X = data
    unknown = X.copy()
    unknown.iloc[:ROWS] = np.nan
    for given in (X.iloc[ROWS:], unknown):
        made = copy.deepcopy(fitted).update(y.iloc[ROWS - 3 : ROWS + 6], given, update_params=False)
        pd.testing.assert_frame_equal(made.X_, X.iloc[: ROWS + 6], check_freq=False)
    by_place = GrownForecaster(overrides=TINY).fit(y.iloc[:ROWS], X.to_numpy()[:ROWS])
    by_place.update(y.iloc[ROWS - 3 : ROWS + 6], X.to_numpy()[ROWS - 3 : ROWS + 6], update_params=False)
    np.testing.assert_array_equal(by_place.X_.to_numpy(), X.to_numpy()[: ROWS + 6])


@pytest.mark.parametrize("how", ["state", "continue"])
def test_an_update_takes_further_rows_of_both(fitted, data, how):
    y, X = data
    later = copy.deepcopy(fitted).set_params(how=how).update(y.iloc[ROWS - 3 : ROWS + 6], X)
    assert later.cutoff_ == y.index[ROWS + 5]
    pd.testing.assert_frame_equal(later.X_, X.iloc[: ROWS + 6], check_freq=False)
    assert later.predict()["y"].iloc[0] == pytest.approx(0.9 * (X["drive"].iloc[ROWS + 5] - 50) / 4, abs=0.3)


def test_a_saved_and_a_pickled_forecaster_forecast_the_same(fitted, data, tmp_path):
    _, X = data
    for other in (
        GrownForecaster.load(fitted.save(tmp_path / "one")),
        pickle.loads(pickle.dumps(fitted)),  # noqa: S301, of our own making
    ):
        pd.testing.assert_frame_equal(other.predict([1, 4], X=X), fitted.predict([1, 4], X=X))


def test_arrays_are_read_by_place(data):
    y, X = data
    values, given = y["y"].to_numpy()[:ROWS], X.to_numpy()
    made = GrownForecaster(overrides=TINY).fit(values, given[:ROWS])
    found = made.predict([1, 2], X=given[ROWS : ROWS + 1])
    np.testing.assert_allclose(found, 0.9 * (given[ROWS - 1 : ROWS + 1, 0] - 50) / 4, atol=0.3)
    made.update(y["y"].to_numpy()[ROWS : ROWS + 2], given[ROWS : ROWS + 2], update_params=False)
    assert list(made.X_.columns) == ["X0", "X1"]
    assert len(made.X_) == ROWS + 2


def test_prices_change_and_x_does_not():
    y, X = driven()
    prices = 100 * np.exp(0.01 * y.cumsum())
    of_prices = GrownForecaster(values="prices", overrides=TINY).fit(prices.iloc[:ROWS], X)
    ahead = np.log(of_prices.predict()["y"].iloc[0] / prices["y"].iloc[ROWS - 1]) / 0.01
    assert ahead == pytest.approx(0.9 * (X["drive"].iloc[ROWS - 1] - 50) / 4, abs=0.3)
    np.testing.assert_allclose(of_prices.run_.model.mean.numpy()[1:], X.iloc[1:210].mean(), rtol=1e-12)
    assert of_prices.run_.about_data["n_train"] == 209  # 70 % of 299 returns, the first of which is row 1


def test_what_cannot_be_used_is_refused_with_what_to_do(fitted, data):
    y, X = data
    short = y.iloc[:ROWS]

    def refused(words, act, error=DataError):
        with pytest.raises(error, match=words):
            act()

    fit = GrownForecaster(overrides=TINY).fit
    refused("X: no row 2021-02-23 .*which is needed", lambda: fit(short, X.iloc[: ROWS - 1]))
    refused("X: missing or infinite values in idle", lambda: fit(short, X.mask(X.iloc[5, 1] == X)))
    refused("X: got list, expected a pandas Series or DataFrame", lambda: fit(short, [1.0]))
    refused("X: 299 rows, expected 300, for 2020-01-01", lambda: fit(short, X.to_numpy()[1:ROWS]))
    refused("X: 'y' is also the name of a column of y; rename it", lambda: fit(short, X.rename(columns={"idle": "y"})))
    refused("column idle: constant", lambda: fit(short, X.assign(idle=1.0).iloc[:ROWS]))
    refused("X: missing; the model reads drive, idle, at 2021-02-24", lambda: fitted.predict(2))
    refused("X: no row 2021-02-24", lambda: fitted.predict(2, X=X.iloc[:ROWS]))
    refused("X: idle missing; its columns are drive", lambda: fitted.predict(2, X=X[["drive"]]))
    refused("X: missing; the model reads drive, idle", lambda: copy.deepcopy(fitted).update(y.iloc[ROWS:]))
    refused("X: it has no rows, but row 2021-02-24", lambda: fitted.predict(2, X=X.iloc[:0]))
    refused(
        "X: its index holds datetime64.*UTC], that of y datetime64", lambda: fitted.predict(2, X=X.tz_localize("UTC"))
    )
    refused("X: its index holds int64, that of y datetime64", lambda: fitted.predict(2, X=X.reset_index(drop=True)))
    arrays = GrownForecaster(overrides=TINY).fit(short.to_numpy(), X.to_numpy()[:ROWS])
    refused("X: 1 rows, expected 2, for 300 to 301", lambda: arrays.predict(3, X=X.to_numpy()[:1]))
    refused("X: 5 rows, expected 2, for 300 to 301", lambda: arrays.update(y.to_numpy()[:2], X.to_numpy()[:5]))
    differenced = GrownForecaster(overrides={**TINY, "task.difference": ["drive"]})
    refused(r"task.difference=\['drive'\].*give the changes", lambda: differenced.fit(short, X), ConfigError)
    plain = GrownForecaster(overrides=TINY).fit(short)
    refused("X: fit got no exogenous series", lambda: plain.predict(X=X), ConfigError)
    refused(
        r"an argument of the forecaster sets task.inputs \(set X\)",
        lambda: GrownForecaster(overrides={"task.inputs": ["y"]}).fit(short),
        ConfigError,
    )
