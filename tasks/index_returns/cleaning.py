"""From closes to a clean panel of returns, with every step counted for the report."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grownas.errors import DataError

CLOSING_HOURS = (
    "Markets close at different hours and the date is each market's own, so part of what can be predicted in daily "
    "closes is news that one market traded on before another opened."
)
ROUNDING = 1e-12  # steady growth gives returns that differ by no more
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
            raise DataError(f"{table.source}, column {name}: constant, there is nothing to forecast; remove it")
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
