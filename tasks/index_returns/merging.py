"""Joins the table of a run with the rows that came since."""

from __future__ import annotations

import warnings
from itertools import pairwise, zip_longest

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.reading import Table


def merged(known: Table, new: Table) -> Table:
    """Return the rows of a run's table followed by the later rows of a new table with the same series.

    The new table may begin anywhere. From its first row to the last row of the run both must have the same dates and
    cells: data that were revised need a new search.

    Raises:
        DataError: the new table has no later row, or a row disagrees; or only one of them has times of day.
    """
    if new.kind != known.kind:
        raise DataError(f"{new.source}: holds {new.kind}, but the run read {known.kind}; give {known.kind}")
    kinds = [(type(one.dates[0]), getattr(one.dates[0], "tzinfo", None) is None) for one in (known, new)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{new.source}: its dates look like {new.dates[0]}, those of the run like {known.dates[0]}; give the same "
            "form of dates"
        )
    last = known.dates[-1]
    if new.dates[-1] <= last:
        raise DataError(
            f"{new.source}: its last row is {new.dates[-1]}, the last row of the run is {last}; there are no new rows "
            "to learn from"
        )
    _doubt_gap(known, new)
    begin = sum(day < new.dates[0] for day in known.dates)
    shared = sum(day <= last for day in new.dates)
    for number, (day, same) in enumerate(zip_longest(known.dates[begin:], new.dates[:shared])):
        if day != same:
            where, which = (new.source, day) if same is None or (day and day < same) else ("the run", same)
            raise DataError(f"{new.source}: {where} has no row {which}, so the rows up to {last} disagree; {_ADVICE}")
        _check_row(known, new, begin + number, number)
    return Table(
        [*known.dates, *new.dates[shared:]],
        known.names,
        np.concatenate([known.values, new.values[shared:]]),
        new.source,
        known.kind,
        notes=new.notes,
        inputs=known.inputs,
    )


def _doubt_gap(known: Table, new: Table) -> None:
    """Warn if more time passes between the two tables than between any two rows of the first."""
    gap, longest = new.dates[0] - known.dates[-1], max(b - a for a, b in pairwise(known.dates))
    if gap > longest:
        warnings.warn(
            f"{new.source}: its first row is {new.dates[0]}, but the last row of the run is {known.dates[-1]}: if rows "
            "are missing between them, give these too",
            stacklevel=3,
        )


_ADVICE = "give only later rows, or start a new search on the new data"


def _check_row(known: Table, new: Table, row: int, other: int) -> None:
    before, now = known.values[row], new.values[other]
    differs = np.flatnonzero((before != now) & ~(np.isnan(before) & np.isnan(now)))
    for column in differs[:1]:
        was, is_now = ("blank" if np.isnan(one[column]) else repr(float(one[column])) for one in (before, now))
        raise DataError(
            f"{new.source}, {new.dates[other]}, column {new.names[column]}: {is_now}, but the run read {was}; {_ADVICE}"
        )
