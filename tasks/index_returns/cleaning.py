"""Turns closes into a clean panel of returns, and records every step for the report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.frequency import Moment
from grownas.tasks.index_returns.reading import Kind, Table, checksum_of, pick

CLOSING_HOURS = (
    "Markets close at different hours and use their local dates. So part of the forecast of daily closes is news on "
    "which one market traded before another opened."
)
ROUNDING = 1e-12  # returns of a steadily growing price differ by at most this much
LONGEST_STILL = 10  # rows; the longest holidays of 12 indices, 2010-2022, have 7, closures in wars more
STALE_SHARE = 0.2  # share of a series' rows; 12 indices have .02 to .07, calendar days filled over weekends .29
LEAST_ROWS = 100  # rows of returns; fewer are too few to choose an order or a model


TO_RETURNS: dict[Kind, Callable[[np.ndarray], np.ndarray]] = {  # functions of rows without blanks
    "prices": lambda values: np.diff(np.log(values), axis=0),
    "returns": lambda values: values,
    "levels": lambda values: np.diff(values, axis=0),
}


@dataclass(frozen=True)
class Panel:
    """Clean returns.

    Attributes:
        dates: date of each return: days, or datetimes.
        names: names of the series.
        returns: log returns in decimals (or changes of levels, or the source's own returns), shape `(n, I)`, float64.
            Of series that are inputs only: their values, or changes of them.
        report: the cleaning steps, as numbers and text.
        checksum: checksum of names, days and the values that were read.
        known: the prices or levels behind the returns of the O series that are forecast, shape `(n + 1, O)`: one row
            before the first return, then one row per return; None if returns were read.
        inputs: names of the series that are inputs only, the last ones.
    """

    dates: list[Moment]
    names: list[str]
    returns: np.ndarray
    report: dict[str, Any]
    checksum: str = ""
    known: np.ndarray | None = None
    inputs: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Number O of series that are forecast."""
        return len(self.names) - len(self.inputs)


def clean(table: Table, difference: Sequence[str] = (), *, least: int = LEAST_ROWS) -> Panel:
    """Compute returns with `to_returns`, and check that a model can be fitted to them.

    Args:
        table: the table that was read.
        difference: see `to_returns`.
        least: fewest rows of returns.

    Raises:
        DataError: a series is empty, constant or unknown, or too few rows are left.
    """
    panel = to_returns(table, difference)
    if len(panel.returns) < least:
        raise DataError(
            f"{table.source}: {len(panel.returns)} rows of returns are left{_begins_late(table)}, at least {least} are "
            "needed; give more rows"
        )
    for name, column in zip(table.names, panel.returns.T, strict=True):
        if np.ptp(column) <= ROUNDING:
            raise DataError(
                f"{table.source}, column {name}: constant, so there is nothing to learn; remove it, or give data in "
                "which it moves"
            )
    return panel


def _begins_late(table: Table) -> str:
    """Return which series begins last and when, as text; empty if all begin with the first row."""
    begins = (~np.isnan(table.values)).argmax(axis=0)
    last = int(begins.argmax())
    return f" after {table.names[last]} begins on {table.dates[begins[last]]}" if begins[last] else ""


def to_returns(table: Table, difference: Sequence[str] = ()) -> Panel:
    """Keep the rows on which all series exist, fill blanks and compute returns; any number of rows.

    Blank prices and levels take the previous value, so their return is zero. Blank returns become zero too. A blank of
    a series that is an input only takes the previous value.

    Args:
        table: the table that was read.
        difference: series that are differenced once more; `ranges` means all series whose name ends in `_range`.

    Raises:
        DataError: a series is empty or unknown, or no row is left.
    """
    values = table.values
    for name, column in zip(table.names, values.T, strict=True):
        if np.isnan(column).all():
            raise DataError(f"{table.source}, column {name}: every value is blank; remove it or fill it")
    first = max(int(np.flatnonzero(~np.isnan(column))[0]) for column in values.T)
    blanks = np.isnan(values[first:]).sum(0)
    outputs, carried = len(table.targets), _carry_forward(values)[first:]
    filled = _zeros(table, first, blanks) if table.kind == "returns" else carried[:, :outputs]
    returns = TO_RETURNS[table.kind](filled)
    returns = np.concatenate([returns, carried[len(carried) - len(returns) :, outputs:]], axis=1)
    if difference:
        columns = [table.names.index(name) for name in _expand(difference, table)]
        changes = np.diff(returns[:, columns], axis=0)
        returns = returns[1:].copy()  # the first day has no change
        returns[:, columns] = changes
    if not len(returns):
        raise DataError(
            f"{table.source}: {len(values)} row{'s' * (len(values) > 1)}, but no return; all series exist from "
            f"{table.dates[first]}; add at least one row"
        )
    report = {
        "rows_read": len(values),
        "first_day_of_all": str(table.dates[first]),
        "rows_used": len(returns),
        "kind": table.kind,
        "read": list(table.notes),
        "carried_forward": dict(zip(table.names, blanks.tolist(), strict=True)),
        "differenced": _expand(difference, table),
        "note": CLOSING_HOURS,
    }
    checksum = checksum_of(
        repr(report["differenced"]), table.origin or checksum_of(table.names, table.dates, table.values)
    )
    known = None if table.kind == "returns" else filled[-len(returns) - 1 :]
    return Panel(table.dates[-len(returns) :], list(table.names), returns, report, checksum, known, table.inputs)


def returns_for(table: Table, difference: Sequence[str] = (), *, longest_still: int = LONGEST_STILL) -> Panel:
    """Compute the returns that a fitted model reads, for any number of rows; warn about series that do not move."""
    panel = to_returns(table, difference)
    still = _longest_still(panel, table, {}, longest_still)
    if still:
        _warn_of_kept(table.source, still)
    return replace(panel, report={**panel.report, "dropped": [], "kept_still": [one._asdict() for one in still]})


def _zeros(table: Table, first: int, blanks: np.ndarray) -> np.ndarray:
    """Return the returns of the series that are forecast with zeros for blanks; warn about blanks."""
    names = table.targets
    if blanks[: len(names)].any():
        counts = ", ".join(f"{name} ({count})" for name, count in zip(names, blanks, strict=False) if count)
        warnings.warn(f"{table.source}: replaced blank returns by 0: {counts}", stacklevel=3)
    known = table.values[first:, : len(names)]
    filled: np.ndarray = np.where(np.isnan(known), 0.0, known)
    return filled


class Stillness(NamedTuple):
    """A stretch of rows in which a series does not move; `words` describe its length and dates."""

    series: str
    rows: int
    first: str
    last: str
    words: str


def clean_moving(
    table: Table,
    difference: Sequence[str] = (),
    *,
    cut: Callable[[int], Mapping[str, slice]],
    least: int = LEAST_ROWS,
    longest_still: int = LONGEST_STILL,
    only: Sequence[str] | None = None,
) -> Panel:
    """Clean a table and drop, with a warning, series that do not move for long: easy zeros would improve their score.

    A row of a series is still if its return is zero or equals the return before: the market was closed, the quotes are
    stale, the index was delisted, or a value was filled in. Dropping a series may let the others begin earlier, so the
    remaining series are cleaned and checked again. A series with more than a fifth of still rows, but no long stretch,
    is kept with a warning. Series that are inputs only may stand still, as holidays do.

    Args:
        table: the table that was read.
        difference: see `clean`.
        cut: returns the rows of the parts `train`, `val` and `test` from the number of rows, or raises `DataError`.
        least: fewest rows of returns.
        longest_still: most consecutive rows in which a series may not move.
        only: the series that a fitted model reads: exactly these are kept, with a warning if they do not move.

    Raises:
        DataError: see `clean`; or a series is constant over the training part, or no series is left.
    """
    differenced, dropped = _expand(difference, table), list[Stillness]()
    while True:
        left = list(only or [name for name in table.names if name not in {one.series for one in dropped}])
        if len(left) == len(table.inputs):
            raise DataError(f"{table.source}: no series moves enough: {_sentence(dropped)}; {_ADVICE}")
        part = table if left == table.names else _columns(table, left)
        panel = clean(part, [name for name in differenced if name in left], least=least)
        found = _stillness(panel, part, cut(len(panel.returns)), longest_still)
        if only or not found:
            break
        dropped += found
    shares = dict(zip(left, still_rows(panel.returns[:, : panel.outputs]).mean(0).tolist(), strict=False))
    if dropped:
        warnings.warn(f"{table.source}: dropped {_sentence(dropped)}; {_ADVICE}", stacklevel=2)
    if found:
        _warn_of_kept(table.source, found)
    told = {one.series for one in found}
    stale = [f"{name} ({share:.0%})" for name, share in shares.items() if share > STALE_SHARE and name not in told]
    if stale:
        warnings.warn(
            f"{table.source}: many rows repeat the row before in {', '.join(stale)}: stale quotes or filled days, "
            "which are easier to forecast and lower every error; give only trading days",
            stacklevel=2,
        )
    report = {
        "dropped": [one._asdict() for one in dropped],
        "kept_still": [one._asdict() for one in found],
        "still_share": {name: round(share, 4) for name, share in shares.items()},
    }
    return replace(panel, report={**panel.report, **report})


_PART = {"val": "validation", "test": "test"}
_ADVICE = (
    "correct or remove the column, leave cells blank before a series begins, or raise task.longest_still for a closed "
    "market"
)


def _warn_of_kept(source: str, still: Sequence[Stillness]) -> None:
    warnings.warn(
        f"{source}: kept {_sentence(still)}: the model reads this series; the scores include these rows, which are "
        "easier to forecast",
        stacklevel=3,
    )


def still_rows(returns: np.ndarray) -> np.ndarray:
    """Return for each row and series, shape `(n, I)`, whether the return is zero or equal to the row before."""
    still: np.ndarray = returns == 0
    still[1:] |= np.abs(np.diff(returns, axis=0)) <= ROUNDING
    return still


def _stillness(panel: Panel, table: Table, parts: Mapping[str, slice], longest: int) -> list[Stillness]:
    """Return the series that do not move for more than `longest` rows, or over a whole validation or test part.

    Raises:
        DataError: a series is constant over the training part.
    """
    flat = [name for name, column in zip(panel.names, panel.returns.T, strict=True) if _is_flat(column[parts["train"]])]
    if flat:
        raise DataError(
            f"{table.source}: constant over the training part: {', '.join(flat)}; remove the column, or give data in "
            "which it moves"
        )
    return _longest_still(panel, table, parts, longest)


def _longest_still(panel: Panel, table: Table, parts: Mapping[str, slice], longest: int) -> list[Stillness]:
    """Return the series that do not move for more than `longest` rows, or over a whole validation or test part."""
    found, returns = [], panel.returns[:, : panel.outputs]
    blanks = np.isnan(table.values[len(table.values) - len(returns) :])
    for name, column, still, blank in zip(panel.names, returns.T, still_rows(returns).T, blanks.T, strict=False):
        dead = [part for part in ("val", "test") if part in parts and _is_flat(column[parts[part]])]
        rows = _longest_run(still)
        if rows.stop - rows.start <= longest and not dead:
            continue
        where = ""
        if dead:
            rows = slice(parts[dead[0]].start, parts[dead[-1]].stop)
            where = f" in the {' and '.join(_PART[part] for part in dead)} part"
        count, first, last = rows.stop - rows.start, panel.dates[rows.start], panel.dates[rows.stop - 1]
        filled = f" ({blank[rows].sum()} of them blank)" if blank[rows].any() else ""
        words = f"does not move{where} for {count} rows{filled}, {first} to {last}"
        found.append(Stillness(name, count, str(first), str(last), words))
    return found


def _is_flat(column: np.ndarray) -> bool:
    return len(column) > 0 and bool(np.ptp(column) <= ROUNDING)


def _longest_run(flags: np.ndarray) -> slice:
    """Return the rows of the first longest run of true flags; empty if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(stops - starts))
    return slice(int(starts[longest]), int(stops[longest]))


def _sentence(found: Sequence[Stillness]) -> str:
    return "; ".join(f"{one.series}, which {one.words}" for one in found)


def _columns(table: Table, names: Sequence[str]) -> Table:
    places = [table.names.index(name) for name in names]
    origin = table.origin and checksum_of(table.origin, list(names))
    inputs = tuple(name for name in names if name in table.inputs)
    return replace(table, names=list(names), values=table.values[:, places], origin=origin, inputs=inputs)


def only_series(table: Table, wanted: Sequence[str]) -> Table:
    """Return a table with the series of a fitted model, in the model's order; drop other series with a warning.

    Raises:
        DataError: a series is missing.
    """
    names = pick(table.names, wanted, table.source)
    return table if names == table.names else _columns(table, names)


def _carry_forward(values: np.ndarray) -> np.ndarray:
    """Fill each nan with the previous value of its column; leading nans stay."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    filled: np.ndarray = np.take_along_axis(values, np.maximum.accumulate(rows, axis=0), axis=0)
    return filled


def _expand(difference: Sequence[str], table: Table) -> list[str]:
    names: list[str] = []
    for wanted in difference:
        found = [n for n in table.names if n.endswith("_range")] if wanted == "ranges" else [wanted]
        if not found or found[0] not in table.names:
            raise DataError(f"task.difference: no series {wanted!r}; the data have {', '.join(table.names)}")
        names += [name for name in found if name not in names]
    return names
