"""Parses cells into a table: finds the column of dates, the formats of dates and numbers, and the blanks."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.frequency import Moment
from grownas.tasks.index_returns.zones import placed, zone_named
from grownas.text_files import read_text

Kind = Literal["prices", "returns", "levels"]

DATE_NAMES = ("date", "datetime", "timestamp", "time")  # names of a column of dates, in any case
INPUTS: Kind = "returns"  # values of inputs are used as they are
BLANKS = frozenset(("", "n/a", "#n/a", "na", "null", "-", "--", "."))  # any case; nan is an error: a failed computation
SEPARATORS = (",", ";", "\t")
POINT_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")  # 1.234.567
COMMA_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")  # 1,234,567
DAY_FORM = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})(?:[ T]+(\S.*))?")
ORDERS = {  # order -> positions of year, month and day
    "year, month, day": (0, 1, 2),
    "day, month, year": (2, 1, 0),
    "month, day, year": (2, 0, 1),
}
INSTEAD = "; if the file holds returns set task.values=returns, for yields or temperatures task.values=levels"


@dataclass(frozen=True)
class Table:
    """The values that were read, by row and series.

    Attributes:
        dates: date of each row, ascending: days, or datetimes if rows have a time of day.
        names: names of the series.
        values: shape `(n, I)`, float64, nan for blanks.
        source: where the data came from, for messages.
        kind: prices, from which log returns are computed; returns, used unchanged; or levels, which are differenced.
        origin: checksum of the raw data if `values` were computed from them, because the last bit of a logarithm may
            differ between processors; else empty.
        notes: guesses about the format.
        inputs: names of the series that are inputs only, the last ones; whatever `kind` is, their values are used as
            they are.
    """

    dates: list[Moment]
    names: list[str]
    values: np.ndarray
    source: str
    kind: Kind = "prices"
    origin: str = ""
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    @property
    def targets(self) -> list[str]:
        """Names of the series that are forecast."""
        return self.names[: len(self.names) - len(self.inputs)]


class Cells(NamedTuple):
    """The cells of a file or data frame.

    Attributes:
        where: the full name, with which messages begin.
        source: the short name.
        header: names of the columns.
        columns: cells of each column: strings, or an array of numbers.
        first_row: number of the first row of cells in messages.
        header_row: name of the header in messages.
    """

    where: str
    source: str
    header: list[str]
    columns: list[Sequence[Any] | np.ndarray]
    first_row: int = 2
    header_row: str = "row 1"


def read_csv(
    path: Path,
    kind: Kind = "prices",
    only: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    zone: str | None = None,
) -> Table:
    """Read a CSV with a column of dates and one column per series, blank when a market was closed; see `to_table`.

    Fields are separated by commas, semicolons or tabs. Numbers have a decimal point, or a decimal comma if the file can
    only be read that way.

    Args:
        path: the file, in UTF-8.
        kind: kind of the values.
        only: the series to read; None for all.
        inputs: see `to_table`.
        zone: see `to_table`.

    Raises:
        DataError: the file cannot be used; the message quotes row (the header is row 1), column and reason.
    """
    text = _text(path)
    separator = _separator(path, text)
    rows = _rows(path, text, separator)
    header = [name.strip() for name in rows[0]]
    _date_place(Cells(str(path), path.name, header, []))  # report a wrong header before wrong rows
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}: got {len(row)} fields, expected {len(header)} as in the header")
    columns: list[Any] = [[cell.strip() for cell in column] for column in zip(*rows[1:], strict=True)]
    cells = Cells(str(path), path.name, header, columns)
    return to_table(cells, kind, only, inputs, zone, comma_separated=separator == ",")


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError(
            f"{path}: no such file; give task.data a CSV of closes, bundled, yfinance, or the name of a package's or a "
            "synthetic panel"
        )
    return read_text(path, "a CSV of closes")


def _separator(path: Path, text: str) -> str:
    """Return the separator that gives the header a column of dates; a comma if no separator does."""
    found = []
    for separator in SEPARATORS:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        except csv.Error:
            continue  # `_rows` reports it
        if len(header) > 1 and _date_columns([name.strip() for name in header]):
            found.append(separator)
    if len(found) > 1:
        marks = " and ".join(repr(one) for one in found)
        raise DataError(
            f"{path}, row 1: {marks} could both separate the columns; put names that contain them in quotes"
        )
    return found[0] if found else ","


def _rows(path: Path, text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV: {error}") from error
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    if len(rows) < 2:
        raise DataError(f"{path}: no rows of data; expected a header and one row per day")
    return rows


def to_table(
    cells: Cells,
    kind: Kind = "prices",
    only: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    zone: str | None = None,
    *,
    comma_separated: bool = False,
) -> Table:
    """Parse cells into a table; a warning lists all guesses about the format.

    The column of dates is called date, datetime, timestamp or time, in any case, or it is the first column and has no
    name. Dates are ISO, with or without a time of day, or written with slashes or points if only one order of day and
    month fits all rows. If all times are midnight, the dates are days. `n/a`, `NA`, `-` and `.` are blanks.

    Args:
        cells: see `Cells`.
        kind: kind of the values; prices must be above 0.
        only: the series to read, in this order; other columns are dropped with a warning. None for all.
        inputs: names of series that are inputs only; they become the last ones, and may have any finite value.
        zone: name of the time zone to which times are converted; a time without an offset is local there. None: times
            stay as they are.
        comma_separated: whether commas separate the columns, so that a comma in a cell is not a decimal comma.

    Raises:
        DataError: the cells cannot be used, or can be read in two ways.
    """
    notes: list[str] = []
    cells, place = _with_dates(cells, notes)
    places = [number for number in range(len(cells.header)) if number != place]
    if only is not None:
        there = [cells.header[number] for number in places]
        places = [cells.header.index(name) for name in pick(there, only, cells.source)]
    found = [cells.header[number] for number in places]
    places = [cells.header.index(name) for name in inputs_last(found, inputs, cells.source)]
    kinds: list[Kind] = [*(len(places) - len(inputs)) * [kind], *len(inputs) * [INPUTS]]
    dates = _dates(cells, place, notes, zone)
    texts = [number for number in places if not isinstance(cells.columns[number], np.ndarray)]
    plain = _mark_reader(cells, texts, notes, comma_separated)
    blanks: Counter[str] = Counter()
    values = np.full((len(dates), len(places)), np.nan)
    for to, (number, own) in enumerate(zip(places, kinds, strict=True)):
        column = cells.columns[number]
        if isinstance(column, np.ndarray):
            values[:, to] = column
            _check_numbers(cells, number, column, own)
            continue
        for row, cell in enumerate(column):
            if cell.casefold() in BLANKS:
                blanks[cell] += 1
            else:
                values[row, to] = _number(cells, row, number, cell, plain(cell), own)
    told = [f"{word!r} in {count} cell{'s' * (count > 1)}" for word, count in sorted(blanks.items()) if word]
    notes += [f"{', '.join(told)} as blank"] if told else []
    if notes:
        warnings.warn(f"{cells.source}: read {'; '.join(notes)}", stacklevel=2)
    names = [cells.header[number] for number in places]
    outputs = len(names) - len(inputs)
    _doubt_returns(cells.source, names[:outputs], values[:, :outputs], kind)
    return Table(dates, names, values, cells.source, kind, notes=tuple(notes), inputs=tuple(inputs))


def inputs_last(names: Sequence[str], inputs: Sequence[str], source: str) -> list[str]:
    """Return names with those of inputs at the end, in the order of `inputs`.

    Raises:
        DataError: the data have no such series, or no other series, which could be forecast.
    """
    if missing := [name for name in inputs if name not in names]:
        raise DataError(f"task.inputs: no series {missing[0]!r} in {source}; the data have {', '.join(names)}")
    targets = [name for name in names if name not in inputs]
    if not targets:
        raise DataError(f"task.inputs: all series of {source} are inputs only; leave out those to forecast")
    return [*targets, *inputs]


def pick(there: Sequence[str], wanted: Sequence[str], source: str) -> list[str]:
    """Check that the data have all series of a model and return these names; warn about series that are dropped.

    Raises:
        DataError: a series is missing.
    """
    missing = [name for name in wanted if name not in there]
    if missing:
        raise DataError(
            f"{source}: {', '.join(missing)} missing; its columns are {', '.join(there)}; the model was fitted to "
            f"{', '.join(wanted)}. Give these columns, in any order"
        )
    extra = [name for name in there if name not in wanted]
    if extra:
        warnings.warn(f"{source}: ignored {', '.join(extra)}, which the model does not read", stacklevel=2)
    return list(wanted)


def _date_columns(header: Sequence[str]) -> list[int]:
    """Return the columns that may hold the dates."""
    named = [number for number, name in enumerate(header) if name.casefold() in DATE_NAMES]
    return named or ([0] if header and not header[0] else [])


def _date_place(cells: Cells) -> int:
    """Return the index of the column of dates.

    Raises:
        DataError: no column or several columns may hold the dates, a name is repeated, or there is no other column.
    """
    header, where = cells.header, f"{cells.where}, {cells.header_row}"
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(
                f"{where}: column {name!r} occurs {header.count(name)} times; give each column its own name"
            )
    found = _date_columns(header)
    if not found:
        raise _no_dates(where, header)
    if len(found) > 1:
        raise DataError(
            f"{where}: {' and '.join(header[number] for number in found)} could each hold the dates; keep one of them, "
            "with cells such as 2024-12-31 or 2024-12-31 15:30"
        )
    if len(header) < 2:
        raise DataError(f"{where}: only a date column; expected closes of at least one index beside it")
    return found[0]


def _no_dates(where: str, header: Sequence[str]) -> DataError:
    """Return the error of a table whose header names no column of dates."""
    if header and _times_of(header[0]):
        return DataError(
            f"{where}: it holds {header[0]}, like a row of data; put a row with the names of the columns first"
        )
    called = f"{', '.join(DATE_NAMES[:-1])} or {DATE_NAMES[-1]}"
    return DataError(
        f"{where}: no column of dates, called {called}; found {', '.join(header)}; rename the column of dates"
    )


def _with_dates(cells: Cells, notes: list[str]) -> tuple[Cells, int]:
    """Return the cells, without a first column that only counts the rows, and the index of the column of dates."""
    place = _date_place(cells)
    if not cells.header[0] and place > 0 and _counts(cells.columns[0]):
        notes.append("without the first column, which has no name and counts the rows")
        cells = cells._replace(header=cells.header[1:], columns=cells.columns[1:])
        place -= 1
    elif not cells.header[place] and _counts(cells.columns[place]):
        raise _no_dates(f"{cells.where}, {cells.header_row}", cells.header[1:])
    elif not cells.header[place]:
        notes.append("the first column, which has no name, as dates")
    for column, name in enumerate(cells.header, start=1):
        if not name and column - 1 != place:
            raise DataError(f"{cells.where}, {cells.header_row}, column {column}: the name is empty")
    return cells, place


def _counts(column: Sequence[Any] | np.ndarray) -> bool:
    cells = [str(cell) for cell in column]
    return any(cells == [str(number + first) for number in range(len(cells))] for first in (0, 1))


def _dates(cells: Cells, place: int, notes: list[str], zone: str | None) -> list[Moment]:
    """Return the dates: days if every time is midnight, else datetimes.

    Raises:
        DataError: a cell is not a date, dates are not strictly ascending, or two orders of day and month are possible.
    """
    texts = [str(cell) for cell in cells.columns[place]]
    label = f"column {cells.header[place] or place + 1}"
    times = _times(cells, texts, label, notes)
    if len({time.tzinfo is None for time in times}) > 1:
        raise DataError(f"{cells.where}, {label}: only some rows have a time zone; give every row a time zone, or none")
    if zone is not None:
        times = [placed(time, zone_named(zone)) for time in times]
    days = days_if_midnight(times)
    for row, (before, day) in enumerate(pairwise(days), start=1):
        if day <= before:
            problem = "is repeated" if day == before else f"comes after {before}; sort the rows by date"
            raise DataError(f"{cells.where}, row {cells.first_row + row}, {label}: {texts[row]} {problem}")
    return days


def days_if_midnight(moments: Sequence[Moment]) -> list[Moment]:
    """Return datetimes as days if every time of day is midnight, else unchanged."""
    times = [one for one in moments if isinstance(one, datetime.datetime)]
    if len(times) == len(moments) and all(time.time() == datetime.time() for time in times):
        return [time.date() for time in times]
    return list(moments)


def _times(cells: Cells, texts: Sequence[str], label: str, notes: list[str]) -> list[datetime.datetime]:
    iso = [_iso(text) for text in texts]
    if all(iso):
        return [time for time in iso if time]
    readings = {name: [_by_order(text, order) for text in texts] for name, order in ORDERS.items()}
    whole = {name: times for name, times in readings.items() if all(times)}
    if len(whole) > 1 and len({tuple(map(str, times)) for times in whole.values()}) > 1:
        raise DataError(
            f"{cells.where}, {label}: {texts[0]} could be day, month, year or month, day, year, and no row shows "
            "which; write dates such as 2024-12-31"
        )
    for name, times in whole.items():
        notes.append(f"dates as {name}")
        return [time for time in times if time]
    best = max([iso, *readings.values()], key=lambda times: sum(time is not None for time in times))
    row = best.index(None)
    raise DataError(
        f"{cells.where}, row {cells.first_row + row}, {label}: {texts[row]!r} is not a date such as 2024-12-31"
    )


def _times_of(text: str) -> list[datetime.datetime]:
    """Return the times that a text can mean; none if it is no date."""
    readings = [_iso(text), *(_by_order(text, order) for order in ORDERS.values())]
    return [time for time in readings if time]


def _iso(text: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


def _by_order(text: str, order: tuple[int, int, int]) -> datetime.datetime | None:
    """Parse 31/12/2024, 12/31/2024, 2024/12/31 or 31.12.2024, with or without a time of day after it."""
    form = DAY_FORM.fullmatch(text)
    if not form:
        return None
    year, month, day = ((form[1], form[3], form[4])[place] for place in order)
    return _iso(f"{year}-{month:0>2}-{day:0>2} {form[5] or '00:00'}") if len(year) == 4 else None


def _mark_reader(cells: Cells, places: Sequence[int], notes: list[str], comma_separated: bool) -> Callable[[str], str]:
    """Return a function that rewrites a number with a decimal point; raise a DataError if two readings are possible."""

    def numbers() -> Iterator[str]:
        return (cell for number in places for cell in cells.columns[number] if "," in cell or "." in cell)

    commas = [cell for cell in numbers() if "," in cell]
    if not commas:
        return str
    whole = [cell for cell in commas if COMMA_GROUPS.fullmatch(cell.partition(".")[0])]
    both = [cell for cell in commas if "." in cell]
    if both and len(whole) == len(commas):
        notes.append("commas as thousands separators")
        return lambda cell: cell.replace(",", "")
    points = [cell for cell in numbers() if "." in cell and cell not in BLANKS]
    if both and all(POINT_GROUPS.fullmatch(cell.partition(",")[0]) for cell in points):
        notes.append("points as thousands separators, commas as decimal commas")
        return lambda cell: cell.replace(".", "").replace(",", ".")
    if comma_separated:
        return str  # a typing error: `_number` reports the cell
    if points:
        raise DataError(
            f"{cells.where}: numbers with a comma, such as {commas[0]}, beside numbers with a point, such as "
            f"{points[0]}; write all with a decimal point and without thousands separators"
        )
    if len(whole) == len(commas):
        raise DataError(
            f"{cells.where}: the comma of {commas[0]} could be a decimal comma or a thousands separator, and no cell "
            "shows which; write numbers with a decimal point and without thousands separators"
        )
    notes.append("commas as decimal commas")
    return lambda cell: cell.replace(",", ".")


def _number(cells: Cells, row: int, number: int, cell: str, plain: str, kind: Kind) -> float:
    place = f"{cells.where}, row {cells.first_row + row}, column {cells.header[number]}"
    try:
        value = float(plain.replace("_", "?"))  # Python reads 1_000 as a number; in a table it is an error
    except ValueError as error:
        raise DataError(f"{place}: {cell!r} is not a number") from error
    _check_value(place, value, cell, kind)
    return value


def _check_numbers(cells: Cells, number: int, column: np.ndarray, kind: Kind) -> None:
    wrong = np.isinf(column) | ((column <= 0) & (kind == "prices"))
    for row in np.flatnonzero(wrong)[:1]:
        place = f"{cells.where}, row {cells.first_row + row}, column {cells.header[number]}"
        _check_value(place, float(column[row]), f"{column[row]:g}", kind)


def _check_value(place: str, value: float, cell: str, kind: Kind) -> None:
    if kind == "prices" and (not math.isfinite(value) or value <= 0):
        hint = INSTEAD if math.isfinite(value) else "; leave the cell blank if the market was closed"
        raise DataError(f"{place}: a close must be finite and above 0, got {cell}{hint}")
    if not math.isfinite(value):
        raise DataError(f"{place}: a value must be finite, got {cell}; leave the cell blank if there is no value")


def _doubt_returns(source: str, names: Sequence[str], values: np.ndarray, kind: Kind) -> None:
    """Warn about returns that are all above 0, because they are probably prices."""
    if kind != "returns" or len(values) < 30:
        return
    with np.errstate(invalid="ignore"):
        rising = [name for name, column in zip(names, values.T, strict=True) if not (column <= 0).any()]
    if rising:
        warnings.warn(
            f"{source}: every value of {', '.join(rising)} is above 0, like prices; task.values=returns uses the "
            "values unchanged, task.values=prices computes returns",
            stacklevel=3,
        )


def checksum_of(*parts: Any) -> str:
    """Return the sha256 of arrays and plain values."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return f"sha256:{digest.hexdigest()}"
