"""The forecaster: forecasts in y's own units, type and index; intervals that cover; state in files and pickles."""

from __future__ import annotations

import copy
import doctest
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import grownas
from grownas import forecaster
from grownas.errors import ConfigError, DataError, GrownasError, RunError
from grownas.forecaster import LONGEST, GrownForecaster
from support.panels import TINY, coupled, coupled_frame


@pytest.fixture(scope="module")
def y():
    return coupled_frame(400)


@pytest.fixture(scope="module")
def fitted(y):
    return GrownForecaster(overrides=TINY).fit(y)


def test_the_constructor_stores_its_arguments_and_does_nothing_else():
    overrides = {"strategy.max_nodes": 0}  # wrong, and found by `fit` only
    made = GrownForecaster("nowhere.yaml", seed=3, seeds=2, values="prices", how="state", overrides=overrides)
    assert vars(made) == made.get_params()
    assert made.get_params()["overrides"] is overrides
    assert repr(made) == (
        "GrownForecaster(config='nowhere.yaml', seed=3, seeds=2, values='prices', how='state', "
        "overrides={'strategy.max_nodes': 0})"
    )


def test_the_example_of_the_documentation_runs():
    assert doctest.testmod(forecaster) == (0, 10)


def test_parameters_can_be_set_and_cloned():
    made = GrownForecaster().set_params(seed=5, joint=True)
    assert (made.seed, made.joint) == (5, True)
    assert GrownForecaster(**made.get_params()).get_params() == made.get_params()
    with pytest.raises(ConfigError, match="sede: no such parameter; GrownForecaster has config, seed"):
        made.set_params(sede=1)


def test_the_next_forecast_is_the_runs(fitted, y):
    ahead = fitted.predict()
    assert list(ahead.columns) == ["leads", "follows"]
    assert list(ahead.index) == [y.index[-1] + pd.offsets.BDay()]
    told = fitted.run_.predict().tail(2)
    np.testing.assert_array_equal(ahead.to_numpy()[0], told["forecast"].to_numpy())
    assert abs(ahead["follows"].iloc[0] - 0.8 * y["leads"].iloc[-1]) < 0.3  # the structure was found


def test_further_steps_are_forecasts_from_forecasts(fitted, y):
    many = fitted.predict(fh=[1, 2, 5])
    assert list(many.index) == list(pd.bdate_range(y.index[-1], periods=6)[[1, 2, 5]])
    fed = copy.deepcopy(fitted).update(fitted.predict(), update_params=False)
    np.testing.assert_allclose(fed.predict().to_numpy()[0], many.to_numpy()[1], rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(fh=np.array([5])).to_numpy()[0], many.to_numpy()[2])


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda values: pd.DataFrame(values), [100, 102]),
        (lambda values: pd.DataFrame(values, index=np.arange(5, 105)), [105, 107]),
        (
            lambda values: pd.DataFrame(values, index=pd.period_range("2000-01", periods=100, freq="M")),
            [pd.Period("2008-05", "M"), pd.Period("2008-07", "M")],
        ),
        (
            lambda values: pd.DataFrame(values, index=pd.date_range("2000-01-31", periods=100, freq="ME")),
            [pd.Timestamp("2008-05-31"), pd.Timestamp("2008-07-31")],
        ),
    ],
    ids=["rows", "numbers", "periods", "months"],
)
def test_forecasts_continue_the_index(make, labels):
    found = GrownForecaster(overrides=TINY).fit(make(coupled(100))).predict([1, 3])
    assert list(found.index) == labels


def test_dates_without_a_frequency_are_continued_by_the_days_of_the_week(y):
    holidays = y.drop(y.index[[7, 20, 51]])
    assert holidays.index.freq is None
    found = GrownForecaster(overrides=TINY).fit(holidays).predict([1, 2, 3, 4, 5, 6])
    assert list(found.index) == list(pd.bdate_range(y.index[-1], periods=7)[1:])


def test_forecasts_have_the_type_of_y():
    values = coupled(120)
    frame = GrownForecaster(overrides=TINY).fit(pd.DataFrame(values)).predict([1, 2])
    array = GrownForecaster(overrides=TINY).fit(values).predict([1, 2])
    np.testing.assert_array_equal(array, frame.to_numpy())
    series = GrownForecaster(overrides=TINY).fit(pd.Series(values[:, 1], name="one")).predict([1, 2])
    assert series.name == "one"
    assert list(series.index) == [120, 121]
    one = GrownForecaster(overrides=TINY).fit(values[:, 1]).predict([1, 2])
    np.testing.assert_array_equal(one, series.to_numpy())


def test_prices_and_levels_are_forecast_in_their_own_units():
    """The same returns in other units: forecasts and intervals are the same after the change of units."""
    returns = 0.01 * coupled(200)
    levels = np.concatenate([[[5.0, 7.0]], 5 + np.array([0.0, 2.0]) + returns.cumsum(0)])
    plain, level, price = (
        GrownForecaster(values=values, overrides=TINY).fit(each)
        for values, each in (("returns", returns), ("levels", levels), ("prices", np.exp(levels)))
    )
    sums = levels[-1] + plain.predict([1, 2, 3]).cumsum(0)
    np.testing.assert_allclose(level.predict([1, 2, 3]), sums, rtol=1e-6)
    np.testing.assert_allclose(price.predict([1, 2, 3]), np.exp(sums), rtol=1e-6)
    np.testing.assert_allclose(
        np.log(price.predict_interval([1, 3]).to_numpy()), level.predict_interval([1, 3]).to_numpy(), rtol=1e-6
    )


def test_intervals_hold_the_forecast_and_grow_with_the_coverage(fitted):
    found = fitted.predict_interval([1, 2], coverage=[0.5, 0.9])
    assert found.columns.tolist()[:4] == [
        ("leads", 0.5, "lower"), ("leads", 0.5, "upper"), ("leads", 0.9, "lower"), ("leads", 0.9, "upper"),
    ]  # fmt: skip
    ahead = fitted.predict([1, 2])
    for name in ahead.columns:
        one = found[name]
        assert (one[0.9]["lower"] < one[0.5]["lower"]).all()
        assert (one[0.5]["upper"] < one[0.9]["upper"]).all()
        np.testing.assert_allclose((one[0.9]["lower"] + one[0.9]["upper"]) / 2, ahead[name], rtol=1e-9)


def test_quantiles_are_the_bounds_of_intervals(fitted):
    found = fitted.predict_quantiles([1, 4], alpha=[0.05, 0.5, 0.95])
    interval = fitted.predict_interval([1, 4], coverage=0.9)
    for name in ("leads", "follows"):
        np.testing.assert_allclose(found[name][0.05], interval[name][0.9]["lower"], rtol=1e-9)
        np.testing.assert_allclose(found[name][0.95], interval[name][0.9]["upper"], rtol=1e-9)
        np.testing.assert_allclose(found[name][0.5], fitted.predict([1, 4])[name], rtol=1e-9)


def coverage_of(fitted, rows, steps=1):
    """Share of values, by series and joint, that the intervals from each row hold, `steps` ahead."""
    rolling, held = copy.deepcopy(fitted), []
    for t in range(0, len(rows) - steps, steps):
        bounds = rolling.predict_interval(steps, coverage=0.9).to_numpy()[0].reshape(-1, 2)
        came = rows.to_numpy()[t + steps - 1]
        held.append((bounds[:, 0] <= came) & (came <= bounds[:, 1]))
        rolling.update(rows.iloc[t : t + steps], update_params=False)
    return np.mean(held, axis=0), float(np.mean(np.all(held, axis=1)))


@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_intervals_cover_new_rows(steps):
    """600 forecasts of two series, from 1,600 rows on: within two points of the nominal share."""
    rows = coupled_frame(1600 + 600 * steps, seed=4)
    fitted = GrownForecaster(overrides=TINY).fit(rows.iloc[:1600])
    each, _ = coverage_of(fitted, rows.iloc[1600:], steps)
    assert abs(each.mean() - 0.9) < 0.02


@pytest.mark.slow
def test_joint_intervals_cover_all_series_together():
    rows = coupled_frame(2200, seed=5)
    joint, each = (GrownForecaster(joint=one, overrides=TINY).fit(rows.iloc[:1600]) for one in (True, False))
    assert abs(coverage_of(joint, rows.iloc[1600:])[1] - 0.9) < 0.02
    assert coverage_of(each, rows.iloc[1600:])[1] < 0.87


def test_a_mean_over_seeds_is_the_mean_of_the_single_forecasts(y):
    both = GrownForecaster(seed=3, seeds=2, overrides={**TINY, "start.use": "random"}).fit(y)
    single = [GrownForecaster(seed=seed, overrides={**TINY, "start.use": "random"}).fit(y) for seed in (3, 4)]
    assert not np.array_equal(*(one.predict().to_numpy() for one in single))
    np.testing.assert_allclose(both.predict(), np.mean([one.predict() for one in single], axis=0), rtol=1e-12)
    assert [run.summary["seed"] for run in both.runs_] == [3, 4]


def test_an_update_of_the_state_reads_the_new_rows(fitted, y):
    longer = coupled_frame(430)
    assert longer.iloc[:400].equals(y)
    moved = copy.deepcopy(fitted).update(longer.iloc[390:], update_params=False)
    assert moved.cutoff_ == longer.index[-1]
    assert fitted.cutoff_ == y.index[-1]
    told = fitted.run_.predict(longer).tail(2)["forecast"].to_numpy()
    np.testing.assert_allclose(moved.predict().to_numpy()[0], told, rtol=1e-6)
    same = copy.deepcopy(moved).update(longer, update_params=False)
    pd.testing.assert_frame_equal(same.predict_interval(2), moved.predict_interval(2))


def test_rows_that_only_moved_the_state_on_are_learnt_by_a_later_update(fitted, tmp_path):
    longer = coupled_frame(480)
    moved = copy.deepcopy(fitted).update(longer.iloc[400:440], update_params=False)
    moved.save(tmp_path / "moved")
    loaded = GrownForecaster.load(tmp_path / "moved").update(longer.iloc[440:])
    at_once, in_two = copy.deepcopy(fitted).update(longer.iloc[400:]), moved.update(longer.iloc[440:])
    assert at_once.run_.about_data["n_train"] == in_two.run_.about_data["n_train"]
    assert at_once.run_.summary["val"] == in_two.run_.summary["val"]
    pd.testing.assert_frame_equal(in_two.predict([1, 2]), at_once.predict([1, 2]))
    pd.testing.assert_frame_equal(loaded.predict_interval([1, 2]), in_two.predict_interval([1, 2]))


def test_an_update_that_fails_changes_nothing():
    made = GrownForecaster(values="prices", overrides=TINY).fit(np.exp(0.01 * coupled(120).cumsum(0)))
    before = made.predict_interval([1, 2])
    with pytest.raises(DataError, match="but a price is above 0"):
        made.update(np.array([[1.0, -1.0]]))
    pd.testing.assert_frame_equal(made.predict_interval([1, 2]), before)


def test_one_update_equals_many_small_ones(fitted):
    new = coupled_frame(440).iloc[400:]
    once = copy.deepcopy(fitted).update(new, update_params=False)
    often = copy.deepcopy(fitted)
    for t in range(len(new)):
        often.update(new.iloc[[t]], update_params=False)
    pd.testing.assert_frame_equal(once.predict_interval([1, LONGEST]), often.predict_interval([1, LONGEST]), rtol=1e-5)


def test_rows_of_an_array_follow_the_last_row():
    values = coupled(150)
    made = GrownForecaster(overrides=TINY).fit(values[:120]).update(values[120:], update_params=False)
    whole = GrownForecaster(overrides=TINY).fit(pd.DataFrame(values[:120]))
    whole.update(pd.DataFrame(values[120:], index=np.arange(120, 150)), update_params=False)
    np.testing.assert_array_equal(made.predict(), whole.predict().to_numpy())


def test_files_and_pickles_keep_the_forecaster(fitted, tmp_path):
    fitted.save(tmp_path / "kept")
    expected = fitted.predict_interval([1, 3])
    for again in (GrownForecaster.load(tmp_path / "kept"), pickle.loads(pickle.dumps(fitted))):  # noqa: S301
        pd.testing.assert_frame_equal(again.predict_interval([1, 3]), expected)
        assert again.get_params() == fitted.get_params()
        assert again.genotype_ == fitted.genotype_
    assert isinstance(grownas.load(tmp_path / "kept" / "seed-1"), grownas.Run)
    with pytest.raises(RunError, match="kept: exists; give the path of a new folder"):
        fitted.save(tmp_path / "kept")


def test_arguments_and_horizon_of_numpy_are_saved_as_plain_values(fitted, tmp_path):
    made = copy.copy(fitted).set_params(config=Path(fitted.config), seed=np.int64(fitted.seed))
    made.fh_ = np.arange(1, 3)
    made.save(tmp_path / "kept")
    again = GrownForecaster.load(tmp_path / "kept")
    assert again.get_params() == fitted.get_params()
    pd.testing.assert_frame_equal(again.predict(), fitted.predict([1, 2]))


def test_what_json_cannot_hold_is_refused_and_leaves_no_folder(fitted, tmp_path):
    made = copy.copy(fitted).set_params(overrides={"seed": object()})
    with pytest.raises(RunError, match=r"the forecaster cannot be saved: .*expected numbers, text, lists and paths"):
        made.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_a_pickle_and_a_pickle_holds_no_tensor(fitted, tmp_path):
    fitted.save(tmp_path / "kept")
    kinds = {path.suffix for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert kinds == {".json", ".yaml", ".txt", ".safetensors"}
    assert b"torch" not in pickle.dumps(fitted).replace(b'"torch"', b"").replace(b"torch: ", b"")


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(10, 250, 2),
        pd.Index(np.arange(120)),
        pd.date_range("2020-01-01 09:30", periods=120, freq="h", tz="Europe/Berlin", name="when"),
        pd.period_range("2000Q1", periods=120, freq="Q"),
    ],
    ids=["range", "numbers", "zoned", "quarters"],
)
def test_a_saved_index_is_the_same(index, tmp_path):
    made = GrownForecaster(overrides=TINY).fit(pd.Series(coupled(120)[:, 0], index=index, name="one"))
    made.save(tmp_path / "kept")
    again = GrownForecaster.load(tmp_path / "kept")
    pd.testing.assert_index_equal(again.y_.index, made.y_.index, exact=True)
    pd.testing.assert_series_equal(again.predict([1, 2]), made.predict([1, 2]))


def test_damaged_files_are_refused(fitted, tmp_path):
    with pytest.raises(RunError, match=r"no saved forecaster: .*forecaster\.json is missing"):
        GrownForecaster.load(tmp_path)
    fitted.save(tmp_path / "kept")
    file = tmp_path / "kept" / "forecaster.json"
    text = file.read_text()
    file.write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(RunError, match=r"damaged: .*'version': 9"):
        GrownForecaster.load(tmp_path / "kept")
    file.write_text(text[:100])
    with pytest.raises(RunError, match="damaged"):
        GrownForecaster.load(tmp_path / "kept")


def test_the_summary_names_data_models_tests_and_the_next_row(fitted, y):
    text = str(fitted.summary())
    assert "leads, follows" in text
    assert "400, 2020-01-01 to 2021-07-13" in text
    assert "280 training, 60 validation and 60 test rows" in text
    for model in ("chosen", "zero", "var1"):
        assert f"\n{model} " in text
    next_row = str((y.index[-1] + pd.offsets.BDay()).date())
    assert f"\n{next_row} " in text
    zero = next(line.split() for line in text.splitlines() if line.startswith("zero"))
    test = next(one for one in fitted.run_.summary["tests"] if one["baseline"] == "zero")
    assert float(zero[1]) == pytest.approx(fitted.run_.scores.loc["zero", "test"], abs=1e-4)
    assert float(zero[2]) == pytest.approx(test["statistic"], abs=0.005)
    assert zero[-1] == "no"


def test_the_summary_as_html_escapes_names_and_draws_the_cell():
    y = pd.DataFrame(coupled(120), columns=["<script>alert(1)</script>", "b"])
    html = GrownForecaster(overrides=TINY).fit(y).summary(coverage=0.5)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<svg" in html


def test_what_cannot_be_used_is_refused_with_what_to_do(y, fitted):
    def refused(message, *, rows=y, error=GrownasError, **arguments):
        with pytest.raises(error, match=message):
            GrownForecaster(**{"overrides": TINY, **arguments}).fit(rows)

    refused("30 rows of returns are left, at least 100 are needed", rows=y.iloc[:30], error=DataError)
    refused("missing or infinite values in leads; fill or remove them", rows=y.mask(y == y.iloc[5, 0]))
    refused("got list, expected a pandas Series or DataFrame", rows=[1, 2])
    refused("not strictly ascending", rows=y.iloc[::-1])
    refused("a value is not a number", rows=y.astype(object).replace(y.iloc[0, 0], "?"))
    refused("its index holds .*expected dates, periods or whole numbers", rows=y.set_axis(list(map(str, y.index))))
    refused("leads is -?[0-9.]+ at .*, but a price is above 0", values="prices")
    refused("values='price': expected returns, levels, prices", values="price")
    refused("seeds=0: expected the number of searches", seeds=0, error=ConfigError)
    refused(r"an argument of the forecaster sets seed \(set seed\)", overrides={"seed": 3}, error=ConfigError)
    refused("column 'a' occurs more than once", rows=y.set_axis(["a", "a"], axis=1))
    refused("a column has an empty name", rows=y.set_axis([" ", "a"], axis=1), error=DataError)
    refused(r"make it the index: y.set_index\('date'\)", rows=y.rename_axis("date").reset_index(), error=DataError)
    refused("y: 0 rows and 2 columns; expected values", rows=y.iloc[:0], error=DataError)
    refused("y: 400 rows and 0 columns; expected values", rows=y[[]], error=DataError)
    refused(r"values=\['prices'\]: expected returns, levels, prices", values=["prices"], error=DataError)
    refused("seed='x': expected a whole number", seed="x", error=ConfigError)
    refused("how='learn': expected state, continue, grow, refit", how="learn", error=ConfigError)
    refused(r"overrides=\[1\]: expected a dict from keys", overrides=[1], error=ConfigError)
    refused(
        "its task, penn_treebank, is not on series", config="penn_treebank/growing", overrides={}, error=ConfigError
    )
    with pytest.raises(ConfigError, match="X: fit got no exogenous series, so the model reads none"):
        fitted.predict(X=y)
    with pytest.raises(RunError, match=r"not fitted; call fit\(y\) first"):
        GrownForecaster().predict()
    for fh in (0, 1.5, [], "a"):
        with pytest.raises(DataError, match="expected steps ahead, whole numbers of 1 or more"):
            fitted.predict(fh)
    for wrong in ("a", [], 0, 90, [0.5, None]):
        with pytest.raises(DataError, match=r"coverage=.*: expected a probability above 0 and below 1"):
            fitted.predict_interval(coverage=wrong)
        with pytest.raises(DataError, match=r"alpha=.*: expected a probability above 0 and below 1"):
            fitted.predict_quantiles(alpha=wrong)
    with pytest.raises(DataError, match=r"coverage=0\.999 needs 999 or more rows .*, got 120"):
        fitted.predict_interval(coverage=0.999)
    with pytest.raises(DataError, match=r"alpha=1\.0: expected a probability above 0 and below 1"):
        fitted.predict_quantiles(alpha=1.0)
    with pytest.raises(DataError, match="fh=21: intervals reach at most 20 steps"):
        fitted.predict_interval(21)
    with pytest.raises(DataError, match="follows missing; its columns are leads"):
        fitted.update(y[["leads"]])
    with pytest.raises(ConfigError, match="how='learn': expected state"):
        copy.deepcopy(fitted).set_params(how="learn").update(y)


def test_an_update_refuses_labels_and_columns_of_another_kind(fitted, y):
    with pytest.raises(DataError, match=r"its index holds datetime64\[.*UTC\], that of fit datetime64"):
        fitted.update(y.tz_localize("UTC"))
    with pytest.raises(DataError, match=r"its index holds period\[D\], that of fit datetime64"):
        fitted.update(y.to_period("D"))
    values = coupled(120)
    months = pd.DataFrame(values, index=pd.period_range("2000-01", periods=120, freq="M"))
    with pytest.raises(DataError, match=r"its index holds period\[D\], that of fit period\[M\]"):
        GrownForecaster(overrides=TINY).fit(months).update(months.set_axis(months.index.asfreq("D")))
    with pytest.raises(DataError, match="y: 3 columns, but fit got 2"):
        GrownForecaster(overrides=TINY).fit(values).update(np.ones((4, 3)))


def test_overrides_are_left_alone(y):
    given = {**TINY, "task": {"train": 0.6}}
    GrownForecaster(overrides=given).fit(y)
    assert given["task"] == {"train": 0.6}


def test_spaces_around_names_are_kept(y):
    spaced = y.set_axis(["leads ", "follows\n"], axis=1)
    assert list(GrownForecaster(overrides=TINY).fit(spaced).predict().columns) == list(spaced.columns)


def test_an_update_learns_from_the_new_rows(y):
    longer = coupled_frame(480)
    made = GrownForecaster(overrides=TINY).fit(y)
    errors, before = made._errors, made.run_
    made.update(longer.iloc[400:])
    assert made.run_ is not before
    assert made.run_.summary["update"]["how"] == "continue"
    assert "update, seed 1  Update (continue): " in str(made.summary())
    assert made.cutoff_ == longer.index[-1]
    known = ~np.isnan(errors.ahead)
    np.testing.assert_array_equal(made._errors.ahead[: len(errors.ahead)][known], errors.ahead[known])
    pd.testing.assert_frame_equal(
        pickle.loads(pickle.dumps(made)).predict_interval([1, 2]),  # noqa: S301
        made.predict_interval([1, 2]),
    )
