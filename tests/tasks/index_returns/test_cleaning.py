"""How closes become returns, and which series are left out."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import clean, clean_moving, still_rows
from grownas.tasks.index_returns.reading import Table

FIRST = datetime.date(2020, 1, 1)


def day(number):
    return FIRST + datetime.timedelta(days=number)


def table(values, names=None, **options):
    values = np.asarray(values, float)
    names = names or [f"x{i}" for i in range(values.shape[1])]
    return Table([day(i) for i in range(len(values))], names, values, "made", **options)


def prices(rows=200, series=2, seed=0):
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=(rows, series)) * 0.01, axis=0))


def test_begins_with_the_first_day_on_which_all_exist_and_counts_blanks_after_it():
    values = prices()
    values[:5, 1] = np.nan  # the second series begins on day 5
    values[[2, 5, 20, 21], 0] = np.nan  # day 2 lies before the beginning; day 5 takes the close of day 4
    values[[30, 199], 1] = np.nan
    panel = clean(table(values))
    assert panel.report["first_day_of_all"] == day(5).isoformat()
    assert panel.report["carried_forward"] == {"x0": 3, "x1": 2}
    assert panel.report["rows_read"] == 200
    assert panel.report["rows_used"] == len(panel.returns) == 194
    assert panel.dates == [day(i) for i in range(6, 200)]
    assert panel.returns[0, 0] == pytest.approx(np.log(values[6, 0] / values[4, 0]), abs=1e-15)
    np.testing.assert_array_equal(panel.returns[[14, 15], 0], [0, 0])  # days 20 and 21
    assert panel.returns[16, 0] == pytest.approx(np.log(values[22, 0] / values[19, 0]), abs=1e-15)
    assert panel.returns[-1, 1] == 0
    assert np.isnan(values[20, 0])  # what was read is left alone


def test_changing_the_future_changes_no_return_before_it():
    values = prices()
    values[[50, 51, 120], 0] = np.nan
    before = clean(table(values)).returns
    values[120:] *= np.random.default_rng(1).uniform(0.5, 2, size=values[120:].shape)
    after = clean(table(values)).returns
    np.testing.assert_array_equal(after[:119], before[:119])
    assert (after[119:] != before[119:]).any()


def test_returns_are_taken_as_they_are():
    values = np.random.default_rng(0).normal(size=(150, 2))
    values[0, 0] = np.nan
    panel = clean(table(values, kind="returns"))
    np.testing.assert_array_equal(panel.returns, values[1:])
    assert panel.dates[0] == day(1)


def test_differences_the_series_that_are_named():
    values = np.random.default_rng(0).normal(size=(150, 3))
    names = ["a", "a_range", "b_range"]
    panel = clean(table(values, names, kind="returns"), ["ranges", "a_range"])
    np.testing.assert_array_equal(panel.returns[:, 0], values[1:, 0])  # the first day has no change: it goes
    np.testing.assert_array_equal(panel.returns[:, 1:], values[1:, 1:] - values[:-1, 1:])
    assert panel.dates == [day(i) for i in range(1, 150)]
    assert panel.report["differenced"] == ["a_range", "b_range"]


@pytest.mark.parametrize(("wanted", "names"), [("c", ["a", "b"]), ("ranges", ["a", "b"])])
def test_refuses_to_difference_what_is_not_there(wanted, names):
    with pytest.raises(DataError, match=f"no series '{wanted}'; the data have a, b"):
        clean(table(prices(), names), [wanted])


def test_refuses_a_column_without_a_value():
    values = prices()
    values[:, 1] = np.nan
    with pytest.raises(DataError, match="made, column x1: every value is blank"):
        clean(table(values))


@pytest.mark.parametrize("series", [np.full(200, 7.0), 100 * 1.001 ** np.arange(200)], ids=["level", "steady growth"])
def test_refuses_a_series_without_movement(series):
    values = prices()
    values[:, 1] = series
    with pytest.raises(DataError, match="made, column x1: constant"):
        clean(table(values))


def test_refuses_too_few_rows_but_not_just_enough():
    with pytest.raises(DataError, match="99 rows of returns are left, at least 100 are needed"):
        clean(table(prices(100)))
    assert len(clean(table(prices(101))).returns) == 100


def test_counts_the_rows_that_are_left_not_those_read():
    values = prices(300)
    values[:250, 0] = np.nan
    with pytest.raises(DataError, match=f"49 rows of returns are left after x0 begins on {day(250)}, at least 100"):
        clean(table(values))


# ---- series that stand still. The parts: 70 % training, 15 % validation, the rest test.


def parts(rows):
    val, test = int(0.7 * rows), int(0.85 * rows)
    return {"train": slice(0, val), "val": slice(val, test), "test": slice(test, rows)}


def moving(values, **options):
    """Clean and return the panel and the warnings."""
    read = values if isinstance(values, Table) else table(values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        panel = clean_moving(read, cut=parts, **options)
    return panel, [str(one.message) for one in caught]


def still_for(rows, first=50, count=300):
    """Prices of three series of which the second stands still from row `first` on for some rows."""
    values = prices(count, 3)
    values[first : first + rows, 1] = values[first - 1, 1]
    return values


@pytest.mark.parametrize("first", [1, 50, 215, 280], ids=["beginning", "training", "across two parts", "test"])
def test_ten_rows_of_stillness_are_a_holiday_and_eleven_drop_the_series(first):
    panel, told = moving(still_for(10, first))
    assert panel.names == ["x0", "x1", "x2"]
    assert panel.report["dropped"] == told == []
    panel, told = moving(still_for(11, first))
    assert panel.names == ["x0", "x2"]
    words = f"does not move for 11 rows, {day(first)} to {day(first + 10)}"
    assert panel.report["dropped"] == [
        {"series": "x1", "rows": 11, "first": str(day(first)), "last": str(day(first + 10)), "words": words}
    ]
    assert len(told) == 1
    assert told[0].startswith(f"made: dropped x1, which {words}; correct or remove the column")
    np.testing.assert_array_equal(panel.returns, clean(table(still_for(11, first))).returns[:, [0, 2]])


def test_how_long_is_too_long_can_be_chosen():
    assert moving(still_for(25), longest_still=25)[0].names == ["x0", "x1", "x2"]
    assert moving(still_for(3), longest_still=2)[0].names == ["x0", "x2"]


def test_a_delisted_series_is_dropped_though_its_cells_are_blank():
    values = prices(300, 3)
    values[288:, 2] = np.nan  # 12 rows carried forward
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x1"]
    assert f"x2, which does not move for 12 rows (12 of them blank), {day(288)} to {day(299)}" in told


def test_blanks_before_a_series_begins_are_no_stillness():
    values = prices(300, 3)
    values[:40, 2] = np.nan
    panel, told = moving(values)
    assert panel.names == ["x0", "x1", "x2"]
    assert not told


def test_without_a_dropped_series_the_others_begin_when_they_begin_and_are_looked_at_again():
    values = prices(400, 4)
    values[:100, 3] = np.nan  # begins on day 100, and then stands still
    values[200:220, 3] = values[199, 3]
    values[20:40, 1] = values[19, 1]  # outside of the common days as long as x3 counts
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x2"]
    assert panel.report["first_day_of_all"] == str(day(0))
    assert len(panel.returns) == panel.report["rows_used"] == 399
    assert [one["series"] for one in panel.report["dropped"]] == ["x3", "x1"]
    assert "x3, which does not move for 20 rows" in told
    assert "x1, which does not move for 20 rows" in told


@pytest.mark.parametrize(
    ("rows", "words"), [((70, 85), "validation"), ((85, 100), "test"), ((70, 100), "validation and test")]
)
def test_a_series_that_is_dead_in_a_part_is_dropped_however_short_the_part_is(rows, words):
    values = prices(101, 3)
    values[rows[0] + 1 : rows[1] + 1, 0] = values[rows[0], 0]
    panel, (told,) = moving(values, longest_still=1000)
    assert panel.names == ["x1", "x2"]
    count = rows[1] - rows[0]
    said = f"x0, which does not move in the {words} part for {count} rows, {day(rows[0] + 1)} to {day(rows[1])}"
    assert said in told


def test_values_that_only_repeat_are_still_too():
    """A range that is carried forward repeats its value: of values as they are read, zero is not the only sign."""
    values = np.random.default_rng(0).normal(size=(300, 2))
    values[51:62, 1] = values[50, 1]
    assert still_rows(values).sum(0).tolist() == [0, 11]
    assert moving(table(values, kind="returns"))[0].names == ["x0"]
    assert moving(table(values[:-1], kind="returns"), longest_still=11)[0].names == ["x0", "x1"]
    rising = prices(300, 2)
    rising[50:70, 0] = rising[49, 0] * 1.001 ** np.arange(1, 21)  # a gap that was interpolated
    assert moving(rising)[0].names == ["x1"]


def test_a_differenced_level_is_looked_at_as_it_is_forecast():
    values = np.random.default_rng(0).normal(size=(300, 3))
    values[50:70, 1] = values[49, 1]
    names = ["a", "a_range", "b_range"]
    panel, (told,) = moving(table(values, names, kind="returns"), difference=["ranges"])
    assert panel.names == ["a", "b_range"]
    assert panel.report["differenced"] == ["b_range"]
    assert f"a_range, which does not move for 20 rows, {day(50)} to {day(69)}" in told
    np.testing.assert_array_equal(panel.returns[:, 1], np.diff(values[:, 2]))
    assert moving(table(values, names, kind="returns"), difference=["a_range"])[0].report["differenced"] == []


def test_rows_that_stand_twice_are_warned_of_and_stay():
    values = np.repeat(prices(150, 2), 2, axis=0)
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x1"]
    assert panel.report["still_share"] == {"x0": pytest.approx(0.5, abs=0.01), "x1": pytest.approx(0.5, abs=0.01)}
    assert "many rows repeat the row before in x0 (50%), x1 (50%)" in told


@pytest.mark.parametrize("step", [5, 7])
def test_weekly_closes_are_as_good_as_daily_ones(step):
    panel, told = moving(prices(200 * step, 3)[::step])
    assert panel.names == ["x0", "x1", "x2"]
    assert not told
    assert set(panel.report["still_share"].values()) == {0}


def test_refuses_a_panel_in_which_every_series_stands_still():
    values = prices(300, 2)
    values[50:70, 0] = values[49, 0]
    values[90:130, 1] = values[89, 1]
    with pytest.raises(DataError) as caught:
        clean_moving(table(values), cut=parts)
    assert str(caught.value).startswith(
        f"made: no series moves enough: x0, which does not move for 20 rows, {day(50)} to {day(69)}; "
        f"x1, which does not move for 40 rows, {day(90)} to {day(129)}; correct or remove the column"
    )


def test_a_long_gap_of_blanks_is_told_as_blanks():
    values = prices(300, 2)
    values[50:68, 0] = np.nan
    with pytest.warns(UserWarning, match=rf"x0, which does not move for 18 rows \(18 of them blank\), {day(50)} to"):
        clean_moving(table(values), cut=parts)


@pytest.mark.parametrize("growth", [1.0, 1.001])
def test_refuses_a_series_that_is_constant_over_the_training_part(growth):
    values = prices(300, 2)
    values[:250, 1] = 5 * growth ** np.arange(250)
    with pytest.raises(DataError, match="made: constant over the training part: x1; remove the column, or give data"):
        clean_moving(table(values), cut=parts)


def test_what_a_model_reads_stays_with_a_warning():
    values = still_for(30)
    panel, (told,) = moving(values, only=["x1", "x2"])
    assert panel.names == ["x1", "x2"]
    assert panel.report["dropped"] == []
    assert [one["series"] for one in panel.report["kept_still"]] == ["x1"]
    assert told.startswith(
        f"made: kept x1, which does not move for 30 rows, {day(50)} to {day(79)}: the model reads this series"
    )


def test_the_checksum_of_a_panel_without_a_dropped_series_is_its_own():
    values = still_for(30)
    without = moving(values)[0].checksum
    assert without == clean(table(values[:, [0, 2]], ["x0", "x2"])).checksum
    assert without != moving(values, longest_still=30)[0].checksum
    of_other = moving(table(values, origin="sha256:raw"))[0].checksum
    assert of_other != moving(table(values, origin="sha256:raw"), longest_still=30)[0].checksum


@given(st.integers(1, 280), st.integers(1, 40), st.integers(1, 40))
def test_a_series_stays_exactly_if_no_run_is_too_long(first, rows, longest):
    values = still_for(rows, first)
    rows = min(rows, 300 - first)
    stays = rows <= longest and rows < 45  # the shortest part has 45 rows
    assert ("x1" in moving(values, longest_still=longest)[0].names) == stays
