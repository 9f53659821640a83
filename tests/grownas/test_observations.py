"""Values in their own units and back, and indices that are continued."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from grownas.errors import DataError
from grownas.observations import (
    UNITS,
    Form,
    as_frame,
    check_continues,
    dated,
    from_path,
    labels_after,
    path_of,
    stamps,
    to_returns,
)


@pytest.mark.parametrize("kind", sorted(UNITS))
def test_values_come_back_from_their_returns(kind):
    values = np.exp(np.random.default_rng(0).normal(size=(10, 2)))
    returns = to_returns(pd.DataFrame(values), kind)
    assert returns.shape == (10 - UNITS[kind].differenced, 2)
    ahead = from_path(path_of(returns[-4:], kind), values[-5], kind)
    np.testing.assert_allclose(ahead, values[-4:], rtol=1e-12)


def test_prices_become_log_returns_and_levels_changes():
    frame = pd.DataFrame({"a": [1.0, 2.0, 8.0]})
    np.testing.assert_allclose(to_returns(frame, "prices")[:, 0], np.log([2, 4]))
    np.testing.assert_array_equal(to_returns(frame, "levels")[:, 0], [1, 6])
    np.testing.assert_array_equal(to_returns(frame, "returns")[:, 0], [1, 2, 8])


def no_guess(dates, steps):
    raise AssertionError("this index has a frequency")


@pytest.mark.parametrize(
    ("index", "labels"),
    [
        (pd.RangeIndex(0, 10, 2), [10, 12]),
        (pd.Index([3, 4, 5]), [6, 7]),
        (pd.Index([1, 4, 7]), [10, 13]),
        (pd.Index([1, 4, 5]), [6, 7]),
        (pd.period_range("2024-11", periods=2, freq="M"), [pd.Period("2025-01", "M"), pd.Period("2025-02", "M")]),
        (pd.date_range("2024-12-27", periods=4, freq="B"), [pd.Timestamp("2025-01-02"), pd.Timestamp("2025-01-03")]),
        (
            pd.DatetimeIndex(["2024-01-31", "2024-02-29", "2024-03-31"]),  # no frequency is set, but there is one
            [pd.Timestamp("2024-04-30"), pd.Timestamp("2024-05-31")],
        ),
    ],
    ids=["steps of two", "numbers", "steps of three", "uneven numbers", "months", "weekdays", "month ends"],
)
def test_labels_continue_an_index(index, labels):
    assert list(labels_after(index, 2, no_guess)) == labels


def test_dates_without_a_frequency_are_continued_by_the_given_rule():
    index = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-11"], name="when")
    found = labels_after(index, 2, lambda dates, steps: [dates[-1] + datetime.timedelta(days=9 * i) for i in (1, 2)])
    assert list(found) == [pd.Timestamp("2024-01-20"), pd.Timestamp("2024-01-29")]
    assert found.name == "when"


def test_a_run_reads_dates_whatever_the_index():
    returns = np.zeros((2, 1))
    numbers = dated(pd.RangeIndex(7, 10), returns, ["a"])
    assert [str(day.date()) for day in numbers.index] == ["2000-01-02", "2000-01-03"]  # the first row has no return
    quarters = dated(pd.period_range("2024Q1", periods=2, freq="Q"), returns, ["a"])
    assert [str(day.date()) for day in quarters.index] == ["2024-01-01", "2024-04-01"]


def test_names_become_text_and_come_back():
    frame = pd.DataFrame([[1, 2]], columns=["a", 7])
    assert list(as_frame(frame).columns) == ["a", "7"]
    assert list(Form.of(frame).shape(np.zeros((1, 2)), pd.RangeIndex(1)).columns) == ["a", 7]
    assert as_frame(frame).dtypes.tolist() == [np.float64, np.float64]
    assert frame.columns.tolist() == ["a", 7]  # the input is left alone


@pytest.mark.parametrize(
    ("index", "known", "expected"),
    [
        (pd.RangeIndex(3), pd.Index([5, 7], dtype="int32"), True),
        (pd.date_range("2020", periods=2).as_unit("s"), pd.date_range("2019", periods=2).as_unit("ns"), True),
        (pd.date_range("2020", periods=2, tz="UTC"), pd.date_range("2019", periods=2), False),
        (pd.period_range("2020-01", periods=2, freq="D"), pd.period_range("2019-01", periods=2, freq="M"), False),
        (pd.RangeIndex(3), pd.date_range("2019", periods=2), False),
    ],
    ids=["numbers", "units", "zones", "periods", "kinds"],
)
def test_only_labels_of_one_kind_are_compared(index, known, expected):
    if expected:
        check_continues(index, known)
    else:
        with pytest.raises(DataError, match="convert it to the same kind"):
            check_continues(index, known)


def test_dates_without_a_frequency_keep_their_time_zone():
    index = pd.DatetimeIndex(["2024-03-26", "2024-03-27", "2024-03-29"], tz="Europe/Berlin", name="when")
    found = labels_after(index, 1, lambda dates, steps: [datetime.date(2024, 4, 2)])
    assert list(found) == [pd.Timestamp("2024-04-02", tz="Europe/Berlin")]


@pytest.mark.parametrize(
    ("dates", "zone", "wanted"),
    [
        (["2024-01-01", "2024-07-01"], None, ["2024-01-01", "2024-07-01"]),
        (["2024-01-01", "2024-07-01"], "Europe/Berlin", ["2024-01-01T00:00+01:00", "2024-07-01T00:00+02:00"]),
        (["2024-01-01T09:00-05:00"], "UTC", ["2024-01-01T14:00+00:00"]),
        (
            ["2024-01-01T09:00-05:00", "2024-07-01T09:00-04:00"],
            None,
            ["2024-01-01T14:00+00:00", "2024-07-01T13:00+00:00"],
        ),
        (["2017-10-15"], "America/Sao_Paulo", ["2017-10-15T01:00-02:00"]),  # the clocks skip this midnight
    ],
)
def test_iso_dates_become_stamps_of_one_zone(dates, zone, wanted):
    found = stamps(dates, zone)
    assert list(found) == list(map(pd.Timestamp, wanted))
    assert [one.utcoffset() for one in found] == [pd.Timestamp(one).utcoffset() for one in wanted]
