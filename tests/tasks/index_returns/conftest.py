"""A small CSV of closes and the task on it: 300 days of returns of three series, one in a while not traded."""

from __future__ import annotations

import datetime
import itertools

import numpy as np
import pytest

from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns

LATE = 3  # rows before the last series begins
ROWS = 300  # of returns
NAMES = ("A", "B", "C")


def weekdays(count, first=datetime.date(2020, 1, 1)):
    days = (first + datetime.timedelta(days=i) for i in itertools.count())
    return list(itertools.islice((day for day in days if day.weekday() < 5), count))


def random_closes(rows=LATE + ROWS + 1, seed=0):
    """Return closes `(rows, 3)`, nan where blank; the last series begins late."""
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(rng.normal(size=(rows, len(NAMES))) * 0.01, axis=0))
    closes[LATE + 1 :][rng.random((rows - LATE - 1, len(NAMES))) < 0.03] = np.nan
    closes[:LATE, -1] = np.nan
    return closes


def write_csv(path, closes):
    lines = [",".join(("date", *NAMES))]
    for day, row in zip(weekdays(len(closes)), closes.tolist(), strict=True):
        lines.append(",".join([day.isoformat(), *("" if value != value else repr(value) for value in row)]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def closes():
    """The closes; copy before you change them."""
    values = random_closes()
    values.flags.writeable = False
    return values


@pytest.fixture(scope="session")
def load(closes, tmp_path_factory):
    """Load the task from closes written to a CSV: `load(bptt=5)`, `load(other_closes, loss="huber")`."""

    def load(values=closes, *, architecture_share=0.2, **options):
        path = write_csv(tmp_path_factory.getbasetemp() / "index_returns.csv", values)
        given = {"data": str(path), "loss": "squared", "bptt": 5, "streams": 4, "context": 30}
        return IndexReturns.load(Options(**{**given, **options}), architecture_share=architecture_share)

    return load
