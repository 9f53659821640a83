"""From closes to a clean panel of returns, with every step counted for the report."""

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
    "Markets close at different hours and the date is each market's own, so part of what can be predicted in daily "
    "closes is news that one market traded on before another opened."
)
ROUNDING = 1e-12  # steady growth gives returns that differ by no more
LONGEST_STILL = 10  # rows: the longest holidays of 12 indices, 2010-2022, are 7; closures in wars are longer
STALE_SHARE = 0.2  # of a series' rows: 12 indices have .02 to .07, days of a week filled to seven .29
LEAST_ROWS = 100  # of returns: fewer leave nothing to choose an order or a model with


TO_RETURNS: dict[Kind, Callable[[np.ndarray], np.ndarray]] = {  # of rows without blanks
    "prices": lambda values: np.diff(np.log(values), axis=0),
    "returns": lambda values: values,
    "levels": lambda values: np.diff(values, axis=0),
}


@dataclass(frozen=True)
class Panel:
    """Clean returns.

    Attributes:
        dates: of each return: days, or datetimes.
        names: of the series.
        returns: log returns in decimals (or changes of levels, or what the source gives in their place), shape
            `(n, I)`, float64.
        report: what was done, in figures and words.
        checksum: of names, days and what was read.
        known: the values that the returns were made from, shape `(n + 1, I)`, the row before the first return and that
            of each; None where returns were read.
    """

    dates: list[Moment]
    names: list[str]
    returns: np.ndarray
    report: dict[str, Any]
    checksum: str = ""
    known: np.ndarray | None = None


def clean(table: Table, difference: Sequence[str] = ()) -> Panel:
    """Make returns as `to_returns`, and refuse what no model can be fitted to.

    Raises:
        DataError: a series is empty, constant, or unknown; too few rows are left.
    """
    panel = to_returns(table, difference)
    if len(panel.returns) < LEAST_ROWS:
        raise DataError(
            f"{table.source}: {len(panel.returns)} rows of returns are left, at least {LEAST_ROWS} are needed"
        )
    for name, column in zip(table.names, panel.returns.T, strict=True):
        if np.ptp(column) <= ROUNDING:
            raise DataError(
                f"{table.source}, column {name}: constant, there is nothing to forecast; remove it, or give data in "
                "which it moves"
            )
    return panel


def to_returns(table: Table, difference: Sequence[str] = ()) -> Panel:
    """Cut to the rows on which all series exist, fill blanks, and make returns: as many rows as there are.

    Prices and levels are carried forward over blanks, so that the return is zero, as a blank in returns is taken to be.

    Args:
        table: what was read.
        difference: series of which the first difference is taken instead of the level; `ranges` stands for all
            whose name ends in `_range`.

    Raises:
        DataError: a series is empty or unknown; no row is left.
    """
    values = table.values
    for name, column in zip(table.names, values.T, strict=True):
        if np.isnan(column).all():
            raise DataError(f"{table.source}, column {name}: every value is blank; remove it or fill it")
    first = max(int(np.flatnonzero(~np.isnan(column))[0]) for column in values.T)
    blanks = np.isnan(values[first:]).sum(0)
    filled = _zeros(table, first, blanks) if table.kind == "returns" else _carry_forward(values)[first:]
    returns = TO_RETURNS[table.kind](filled)
    if difference:
        columns = [table.names.index(name) for name in _expand(difference, table)]
        changes = np.diff(returns[:, columns], axis=0)
        returns = returns[1:].copy()  # the first day has no change
        returns[:, columns] = changes
    if not len(returns):
        raise DataError(
            f"{table.source}: {len(values)} row{'s' * (len(values) > 1)} without a return, the first of all on "
            f"{table.dates[first]}; give a row more"
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
    return Panel(table.dates[-len(returns) :], list(table.names), returns, report, checksum, known)


def returns_for(table: Table, difference: Sequence[str] = (), *, longest_still: int = LONGEST_STILL) -> Panel:
    """Make the returns that a fitted model reads, any number of rows; warn of series that stand still for long."""
    panel = to_returns(table, difference)
    still = _longest_still(panel, {}, longest_still)
    if still:
        _warn_of_kept(table.source, still)
    return replace(panel, report={**panel.report, "dropped": [], "kept_still": [one._asdict() for one in still]})


def _zeros(table: Table, first: int, blanks: np.ndarray) -> np.ndarray:
    """Return returns with zeros for blanks, with a warning."""
    if blanks.any():
        counts = ", ".join(f"{name} ({count})" for name, count in zip(table.names, blanks, strict=True) if count)
        warnings.warn(f"{table.source}: blank returns are taken as 0: {counts}", stacklevel=3)
    known = table.values[first:]
    filled: np.ndarray = np.where(np.isnan(known), 0.0, known)
    return filled


class Stillness(NamedTuple):
    """Where a series does not move: the words say how long and when."""

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
    longest_still: int = LONGEST_STILL,
    only: Sequence[str] | None = None,
) -> Panel:
    """Clean a table and leave out, with a warning, the series that stand still for long: their zeros flatter a score.

    A row of a series is still if its return is zero or equals the one before: its market was closed, its quotes are
    stale, it was delisted, or a value was filled in. Without a series others may begin earlier, so that the rest is
    cleaned and looked at again. Where more than a fifth of a series' rows are still, though never many in a row, a
    warning says so and the series stays.

    Args:
        table: what was read.
        difference: as `clean` takes it.
        cut: returns the rows of the parts `train`, `val` and `test` from the number of rows, or raises `DataError`.
        longest_still: rows in a row that a series may stand still.
        only: the series that a fitted model reads: these stay, with a warning if they stand still, and no others.

    Raises:
        DataError: as `clean`; or a series is constant over the training part, or no series is left.
    """
    differenced, dropped = _expand(difference, table), list[Stillness]()
    while True:
        left = list(only or [name for name in table.names if name not in {one.series for one in dropped}])
        if not left:
            raise DataError(f"{table.source}: every series stands still: {_sentence(dropped)}; {_ADVICE}")
        part = table if left == table.names else _columns(table, left)
        panel = clean(part, [name for name in differenced if name in left])
        found = _stillness(panel, cut(len(panel.returns)), table.source, longest_still)
        if only or not found:
            break
        dropped += found
    shares = dict(zip(left, still_rows(panel.returns).mean(0).tolist(), strict=True))
    if dropped:
        warnings.warn(f"{table.source}: dropped {_sentence(dropped)}; {_ADVICE}", stacklevel=2)
    if found:
        _warn_of_kept(table.source, found)
    told = {one.series for one in found}
    stale = [f"{name} ({share:.0%})" for name, share in shares.items() if share > STALE_SHARE and name not in told]
    if stale:
        warnings.warn(
            f"{table.source}: a large share of the rows only repeats the row before in {', '.join(stale)}: stale "
            "quotes or filled days, which are easier to forecast and lower every error; give rows of trading days only",
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
        f"{source}: kept {_sentence(still)}: the model reads it, and the scores count these rows, which are easier to "
        "forecast",
        stacklevel=3,
    )


def still_rows(returns: np.ndarray) -> np.ndarray:
    """Say of each row and series, `(n, I)`, whether it does not move: zero, or equal to the row before."""
    still: np.ndarray = returns == 0
    still[1:] |= np.abs(np.diff(returns, axis=0)) <= ROUNDING
    return still


def _stillness(panel: Panel, parts: Mapping[str, slice], source: str, longest: int) -> list[Stillness]:
    """Return the series that stand still for more rows than `longest`, or over all of a part.

    Raises:
        DataError: a series is constant over the training part.
    """
    flat = [name for name, column in zip(panel.names, panel.returns.T, strict=True) if _is_flat(column[parts["train"]])]
    if flat:
        raise DataError(
            f"{source}: {', '.join(flat)} constant over the training part; remove the column, or give data in which "
            "it moves"
        )
    return _longest_still(panel, parts, longest)


def _longest_still(panel: Panel, parts: Mapping[str, slice], longest: int) -> list[Stillness]:
    """Return the series that stand still for more rows than `longest`, or over all of a validation or test part."""
    found = []
    for name, column, still in zip(panel.names, panel.returns.T, still_rows(panel.returns).T, strict=True):
        dead = [part for part in ("val", "test") if part in parts and _is_flat(column[parts[part]])]
        rows = _longest_run(still)
        if rows.stop - rows.start <= longest and not dead:
            continue
        where = ""
        if dead:
            rows = slice(parts[dead[0]].start, parts[dead[-1]].stop)
            where = f" in the {' and '.join(_PART[part] for part in dead)} part"
        count, first, last = rows.stop - rows.start, panel.dates[rows.start], panel.dates[rows.stop - 1]
        words = f"does not move{where} for {count} rows, {first} to {last}"
        found.append(Stillness(name, count, str(first), str(last), words))
    return found


def _is_flat(column: np.ndarray) -> bool:
    return len(column) > 0 and bool(np.ptp(column) <= ROUNDING)


def _longest_run(flags: np.ndarray) -> slice:
    """Return where the longest run of true flags lies, the first of several; empty if there is none."""
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
    return replace(table, names=list(names), values=table.values[:, places], origin=origin)


def only_series(table: Table, wanted: Sequence[str]) -> Table:
    """Return a table with the series of a fitted model, in their order; others are left out with a warning.

    Raises:
        DataError: one is missing.
    """
    names = pick(table.names, wanted, table.source)
    return table if names == table.names else _columns(table, names)


def _carry_forward(values: np.ndarray) -> np.ndarray:
    """Fill each nan with the last value before it in its column; leading ones stay."""
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
