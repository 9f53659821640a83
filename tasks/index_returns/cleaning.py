"""From closes to a clean panel of returns, with every step counted for the report."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grownas.errors import DataError

CLOSING_HOURS = (
    "Markets close at different hours and the date is each market's own, so part of what can be predicted in daily "
    "closes is news that one market traded on before another opened."
)
ROUNDING = 1e-12  # steady growth gives returns that differ by no more
LONGEST_STILL = 10  # rows: the longest holidays of 12 indices, 2010-2022, are 7; closures in wars are longer
STALE_SHARE = 0.2  # of a series' rows: 12 indices have .02 to .07, days of a week filled to seven .29
LEAST_ROWS = 100  # of returns: fewer leave nothing to choose an order or a model with


@dataclass(frozen=True)
class Table:
    """Values by day and series, as they were read.

    Attributes:
        dates: one a row, ascending.
        names: of the series.
        values: shape `(n, I)`, float64, nan where blank.
        source: where they came from.
        returns: True if the values are returns already, False if they are closes.
        origin: checksum of what the values were computed from, where they are not what was read: a logarithm's last
            bit may differ between processors.
    """

    dates: list[datetime.date]
    names: list[str]
    values: np.ndarray
    source: str
    returns: bool = False
    origin: str = ""


def read_csv(path: Path) -> Table:
    """Read a CSV of closes: a column `date` (ISO) and one column an index, blank where a market was shut.

    Raises:
        DataError: the file cannot be used; the message quotes row (the header is row 1), column and reason.
    """
    rows = _read_rows(path)
    header = [name.strip() for name in rows[0]]
    _check_header(path, header)
    place = header.index("date")
    names = [name for name in header if name != "date"]
    dates: list[datetime.date] = []
    values = np.full((len(rows) - 1, len(names)), np.nan)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: {len(row)} fields, the header has {len(header)}")
        cells = [cell.strip() for cell in row]
        dates.append(_date(path, number, cells.pop(place), dates))
        for column, (name, cell) in enumerate(zip(names, cells, strict=True)):
            if cell:
                values[number - 2, column] = _close(path, number, name, cell)
    return Table(dates, names, values, path.name)


def _read_rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; task.data takes a CSV of closes, bundled, yfinance or a synthetic panel's name"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 (byte {error.start}); expected a CSV of closes") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DataError(f"{path}: a binary file; expected a CSV of closes")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV: {error}") from error
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    if len(rows) < 2:
        raise DataError(f"{path}: no rows of data; expected a header and one row a day")
    return rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    if "date" not in header:
        raise DataError(f"{path}, row 1: no column called date; found {', '.join(header)}")
    for column, name in enumerate(header, start=1):
        if not name:
            raise DataError(f"{path}, row 1, column {column}: the name is empty")
        if header.count(name) > 1:
            raise DataError(f"{path}, row 1: column {name!r} stands {header.count(name)} times")
    if len(header) < 2:
        raise DataError(f"{path}, row 1: only a date column; expected closes of at least one index beside it")


def _date(path: Path, row: int, cell: str, before: Sequence[datetime.date]) -> datetime.date:
    try:
        date = datetime.date.fromisoformat(cell)
    except ValueError as error:
        raise DataError(f"{path}, row {row}, column date: {cell!r} is not a date such as 2024-12-31") from error
    if before and date == before[-1]:
        raise DataError(f"{path}, row {row}, column date: {cell} stands twice")
    if before and date < before[-1]:
        raise DataError(f"{path}, row {row}, column date: {cell} comes after {before[-1]}; sort the rows by date")
    return date


def _close(path: Path, row: int, name: str, cell: str) -> float:
    try:
        value = float(cell.replace("_", "?"))  # Python reads 1_000 as a number; in a table it is a slip
    except ValueError as error:
        raise DataError(f"{path}, row {row}, column {name}: {cell!r} is not a number") from error
    if not math.isfinite(value) or value <= 0:
        raise DataError(f"{path}, row {row}, column {name}: a close must be finite and above 0, got {cell}")
    return value


@dataclass(frozen=True)
class Panel:
    """Clean returns.

    Attributes:
        dates: the day of each return.
        names: of the series.
        returns: log returns in decimals (or what the source gives in their place), shape `(n, I)`, float64.
        report: what was done, in figures and words.
        checksum: of names, days and what was read.
    """

    dates: list[datetime.date]
    names: list[str]
    returns: np.ndarray
    report: dict[str, Any]
    checksum: str = ""


def clean(table: Table, difference: Sequence[str] = ()) -> Panel:
    """Cut to the days on which all series exist, carry closes over blanks, and take log returns.

    Args:
        table: what was read.
        difference: series of which the first difference is taken instead of the level; `ranges` stands for all
            whose name ends in `_range`.

    Raises:
        DataError: a series is empty, constant, or unknown; too few rows are left.
    """
    values = table.values
    for name, column in zip(table.names, values.T, strict=True):
        if np.isnan(column).all():
            raise DataError(f"{table.source}, column {name}: every value is blank; remove it or fill it")
    first = max(int(np.flatnonzero(~np.isnan(column))[0]) for column in values.T)
    blanks = np.isnan(values[first:]).sum(0)
    filled = _carry_forward(values)[first:]
    returns = filled if table.returns else np.diff(np.log(filled), axis=0)
    if difference:
        columns = [table.names.index(name) for name in _expand(difference, table)]
        changes = np.diff(returns[:, columns], axis=0)
        returns = returns[1:].copy()  # the first day has no change
        returns[:, columns] = changes
    if len(returns) < LEAST_ROWS:
        raise DataError(f"{table.source}: {len(returns)} rows of returns are left, at least {LEAST_ROWS} are needed")
    for name, column in zip(table.names, returns.T, strict=True):
        if np.ptp(column) <= ROUNDING:
            raise DataError(
                f"{table.source}, column {name}: constant, there is nothing to forecast; remove it, or give data in "
                "which it moves"
            )
    report = {
        "rows_read": len(values),
        "first_day_of_all": table.dates[first].isoformat(),
        "rows_used": len(returns),
        "carried_forward": dict(zip(table.names, blanks.tolist(), strict=True)),
        "differenced": _expand(difference, table),
        "note": CLOSING_HOURS,
    }
    checksum = checksum_of(
        repr(report["differenced"]), table.origin or checksum_of(table.names, table.dates, table.values)
    )
    return Panel(table.dates[-len(returns) :], list(table.names), returns, report, checksum)


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
        warnings.warn(
            f"{table.source}: kept {_sentence(found)}: the model reads it, and the scores count these rows, which are "
            "easier to forecast",
            stacklevel=2,
        )
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
    found = []
    for name, column, still in zip(panel.names, panel.returns.T, still_rows(panel.returns).T, strict=True):
        dead = [part for part in ("val", "test") if _is_flat(column[parts[part]])]
        rows = _longest_run(still)
        if rows.stop - rows.start <= longest and not dead:
            continue
        where = ""
        if dead:
            rows = slice(parts[dead[0]].start, parts[dead[-1]].stop)
            where = f" in the {' and '.join(_PART[part] for part in dead)} part"
        count, first, last = rows.stop - rows.start, panel.dates[rows.start], panel.dates[rows.stop - 1]
        words = f"does not move{where} for {count} rows, {first} to {last}"
        found.append(Stillness(name, count, first.isoformat(), last.isoformat(), words))
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


def checksum_of(*parts: Any) -> str:
    """Return the sha256 of arrays and plain values."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return f"sha256:{digest.hexdigest()}"


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
