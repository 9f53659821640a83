"""The rows of a run and those that came since: one table, or an error that names the row."""

from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.tasks.index_returns import sources
from grownas.tasks.index_returns.merging import merged
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.reading import Table
from grownas.tasks.index_returns.task import IndexReturns

ROWS = 40
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(days=n) for n in range(ROWS)]
VALUES = np.exp(np.random.default_rng(0).normal(0, 0.1, (ROWS, 2)).cumsum(0))
VALUES[[3, 12], 1] = np.nan  # shut


def table(first=0, stop=ROWS):
    return Table(DAYS[first:stop], ["a", "b"], VALUES[first:stop].copy(), "made up")


@pytest.mark.parametrize("first", [0, 12, 30], ids=["all rows", "some of them", "later rows alone"])
def test_the_rows_are_those_of_one_long_table(first):
    joined = merged(table(stop=30), table(first))
    assert joined.dates == DAYS
    np.testing.assert_array_equal(joined.values, VALUES)


def test_a_gap_before_the_later_rows_is_pointed_out():
    message = "its first row is 2020-01-22, but the last row of the run is 2020-01-20: if rows are missing"
    with pytest.warns(UserWarning, match=message):
        merged(table(stop=20), table(21))


def test_a_table_survives_the_way_through_a_frame_and_a_csv(tmp_path):
    frame = sources.frame_of(table())
    for read in (sources.from_frame(frame), _through_csv(frame, tmp_path)):
        assert read.dates == DAYS
        np.testing.assert_array_equal(read.values, VALUES)


def _through_csv(frame, folder):
    frame.to_csv(folder / "data.csv", index=False)
    return sources.read(str(folder / "data.csv"))


def _changed(row, value):
    values = table(10).values
    values[row, 1] = value
    return replace(table(10), values=values)


WRONG = {
    "no later row": (table(5, 30), "last row is 2020-01-30, the last row of the run is 2020-01-30; there are no"),
    "another value": (_changed(4, 7.0), r"2020-01-15, column b: 7\.0, but the run read"),
    "a blank that was filled": (_changed(2, 7.0), r"2020-01-13, column b: 7\.0, but the run read blank"),
    "a value that went": (_changed(4, np.nan), "2020-01-15, column b: blank, but the run read"),
    "a row less": (
        replace(table(10), dates=DAYS[10:15] + DAYS[16:], values=np.delete(VALUES[10:], 5, 0)),
        "made up has no row 2020-01-16",
    ),
    "another kind": (replace(table(), kind="levels"), "holds levels, but the run read prices"),
    "times of day": (
        replace(table(), dates=[datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=n) for n in range(ROWS)]),
        "its dates look like 2020-01-01 00:00:00, those of the run like 2020-01-01",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_do_not_fit_are_named(case):
    new, words = WRONG[case]
    with pytest.raises(DataError, match=words):
        merged(table(stop=30), new)


def test_a_row_that_the_run_lacks_is_named():
    lacking = replace(table(stop=30), dates=DAYS[:15] + DAYS[16:30], values=np.delete(VALUES[:30], 15, 0))
    with pytest.raises(DataError, match="the run has no row 2020-01-16, so the rows up to 2020-01-30 disagree"):
        merged(lacking, table(10))


def long(rows):
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=n) for n in range(rows)]
    return Table(days, ["a", "b"], np.random.default_rng(0).normal(size=(rows, 2)), "made up", "returns")


def task_of(rows, monkeypatch, new, **options):
    monkeypatch.setattr(sources, "read", lambda data, kind, only, inputs, **rest: long(new))
    return IndexReturns._of_table(long(rows), Options(data="new.csv", bptt=5, **options), architecture_share=0.2)


@pytest.mark.parametrize(
    ("new", "options", "block"),
    [
        (1020, {}, 60),  # 300 rows are unread: 60 each are held out
        (1400, {}, 100),  # a quarter of 400
        (1001, {"recent": 60}, 60),  # a further update by one row learns one row
        (1010, {"recent": 10}, 10),  # no row from which the model has learned is held out
    ],
)
def test_the_rows_held_out_are_recent_and_unread(new, options, block, monkeypatch):
    task = task_of(1000, monkeypatch, new, **options)
    joined = task.joined(task.options)
    assert joined.options["recent"] == block
    learned = new - 2 * block
    assert learned - task.rows("train").stop >= new - 1000  # at least as many rows are learned as are new
    again = IndexReturns.load(task.options.model_copy(update=dict(joined.options)), frame=joined.frame)
    assert (again.n_train, again.n_val) == (learned, block)


def test_a_block_with_rows_that_were_learnt_is_refused(monkeypatch):
    task = task_of(1000, monkeypatch, 1020)
    assert task.joined(task.options, block=160).options["recent"] == 160
    with pytest.raises(DataError, match=r"update\.block=161: .* the rows up to 2021-11-30.*there are 320"):
        task.joined(task.options, block=161)
    refitted = task.with_refit()  # it has learned from its validation part too
    with pytest.raises(DataError, match=r"update\.block=100: .*there are 170"):
        refitted.joined(task.options, block=100)
