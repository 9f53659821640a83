"""Reads the data: the bundled panel, a panel of another package, a download, a file, or a data frame."""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.protocols import FRAME
from grownas.tasks.index_returns import packaged, synthetic
from grownas.tasks.index_returns.cleaning import only_series
from grownas.tasks.index_returns.frequency import Moment
from grownas.tasks.index_returns.reading import Cells, Kind, Table, checksum_of, inputs_last, read_csv, to_table
from grownas.tasks.index_returns.zones import zone_named

if TYPE_CHECKING:
    import pandas as pd

TICKERS = (  # G7, then BRICS
    "^GSPC", "^GSPTSE", "^FTSE", "^GDAXI", "^FCHI", "FTSEMIB.MI", "^N225",
    "^BVSP", "IMOEX.ME", "^NSEI", "000001.SS", "^J200.JO",
)  # fmt: skip
PAUSE_S = 1.0  # pause between requests, out of courtesy to the server
BATCH = 6  # tickers per request


KINDS: dict[str, Kind] = {  # name of a source -> kind of its values
    "bundled": "returns",
    "yfinance": "prices",
    **{name: panel.kind for name, panel in packaged.PANELS.items()},
    **dict.fromkeys(synthetic.PANELS, "returns"),
    "random_walk": "prices",
}
NAMES = tuple(KINDS)
PARQUET, SPREADSHEETS = (".parquet", ".pq"), (".xlsx", ".xls", ".ods")


def read(
    data: str,
    kind: Kind = "prices",
    only: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    zone: str | None = None,
    **options: Any,
) -> Table:
    """Read a source by name, or a file by its path.

    Args:
        data: `bundled`, `yfinance`, a name of `packaged.PANELS` or `synthetic.NAMES`, or the path of a CSV, parquet
            file or spreadsheet.
        kind: kind of the values in a file.
        only: the series to read, in this order; others are dropped with a warning. None for all.
        inputs: names of series that are inputs only, see `reading.to_table`.
        zone: name of the time zone of a file's times, see `reading.to_table`.
        options: `tickers`, `start`, `end`, `cache`, `today` for yfinance; `data_seed` for synthetic panels;
            `planted_nodes`, `planted_units` for the cell of `planted`.

    Raises:
        DataError: the data cannot be read or used.
    """
    if data in NAMES:
        table = _by_name(data, **options)
        wanted = inputs_last(table.names if only is None else only, inputs, table.source)
        return replace(only_series(table, wanted), inputs=tuple(inputs))
    if data == FRAME:
        raise DataError(
            "task.data=frame: the run read a data frame given from Python; give a file with task.data=, or the data "
            "frame again from Python"
        )
    path = Path(os.path.expanduser(data))  # unchanged if `~USER` names no user; then the file does not exist
    near = difflib.get_close_matches(path.name, NAMES, n=1)
    if near and not path.exists():
        raise DataError(f"{data}: no such file; did you mean {near[0]}?")
    if path.suffix.lower() in (*PARQUET, *SPREADSHEETS) and path.is_file():
        return to_table(_frame_cells(_read_file(path), path), kind, only, inputs, zone)
    return read_csv(path, kind, only, inputs, zone)


def _by_name(data: str, **options: Any) -> Table:
    if data == "bundled":
        return bundled()
    if data == "yfinance":
        return downloaded(options["tickers"], options["start"], options["end"], options["cache"], options.get("today"))
    if data in packaged.PANELS:
        return packaged.table(data)
    nodes, units = options.get("planted_nodes", synthetic.NODES), options.get("planted_units", synthetic.UNITS)
    return synthetic.table(data, options["data_seed"], nodes=nodes, units=units)


def forecast_frame(rows: Sequence[tuple[str, str, float, float | None]]) -> pd.DataFrame:
    """Return rows of date, series, forecast and actual as a data frame; unknown actual values become nan."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["date", "series", "forecast", "actual"])
    return frame.astype({"forecast": float, "actual": float})


def frame_of(table: Table) -> pd.DataFrame:
    """Return a table as a data frame with a column `date` of ISO text; `from_frame` reads the same table."""
    import pandas as pd

    columns = dict(zip(table.names, table.values.T, strict=True))
    return pd.DataFrame({"date": [str(day) for day in table.dates], **columns})


def from_frame(
    frame: pd.DataFrame,
    kind: Kind = "prices",
    only: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    zone: str | None = None,
) -> Table:
    """Read a data frame: the same table as the CSV that `frame.to_csv` writes.

    Args:
        frame: one column per series; the dates are its `DatetimeIndex`, or an index or column called date, datetime,
            timestamp or time. Missing values are blanks.
        kind: kind of the values.
        only: the series to read, in this order; others are dropped with a warning. None for all.
        inputs: names of series that are inputs only, see `reading.to_table`.
        zone: see `reading.to_table`.

    Raises:
        DataError: the data frame cannot be used; the message counts rows from 0.
    """
    return to_table(_frame_cells(frame), kind, only, inputs, zone)


def zone_of(frame: pd.DataFrame) -> str | None:
    """Return the name of the time zone of a data frame's index, or else of its first column of times.

    None if there is none, or with a warning if it has no name that `zone_named` knows.
    """
    import pandas as pd

    found = [one.tz for one in (frame.index.dtype, *frame.dtypes) if isinstance(one, pd.DatetimeTZDtype)]
    if not found:
        return None
    try:
        zone_named(name := str(found[0]))
    except ValueError:
        warnings.warn(
            f"the data frame: its time zone, {found[0]}, has no known name, so forecasts only keep offsets from UTC; "
            "convert it, for example with frame.tz_convert('Europe/Berlin')",
            stacklevel=2,
        )
        return None
    return name


def _frame_cells(frame: pd.DataFrame, path: Path | None = None) -> Cells:
    """Return the cells of a data frame; pandas' `Unnamed: N` headers of spreadsheets become empty names."""
    import pandas as pd

    where, source = ("the data frame", "data frame") if path is None else (str(path), path.name)
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"expected a pandas DataFrame, got {type(frame).__name__}; `series.to_frame()` makes one")
    if frame.columns.nlevels > 1 or frame.index.nlevels > 1:
        raise DataError(f"{where}: several levels of columns or rows; give one column per series and one row per date")
    if frame.empty:
        raise DataError(f"{where}: no rows of data; expected one row per date")
    if isinstance(frame.index, pd.PeriodIndex):
        raise DataError(f"{where}: the index holds periods, expected dates; convert it with `frame.to_timestamp()`")
    header = [str(name).strip() for name in frame.columns]
    columns: list[Any] = [_cells(frame.iloc[:, place]) for place in range(frame.shape[1])]
    name = "" if frame.index.name is None else str(frame.index.name)
    if name or not pd.api.types.is_integer_dtype(frame.index):  # an unnamed integer index only counts the rows
        header.insert(0, "date" if isinstance(frame.index, pd.DatetimeIndex) else name)
        columns.insert(0, [str(day) for day in frame.index])
    if path is not None and path.suffix.lower() in SPREADSHEETS:
        header = ["" if name.startswith("Unnamed: ") else name for name in header]
        return Cells(where, source, header, columns)
    return Cells(where, source, header, columns, first_row=0, header_row="columns")


def _cells(column: pd.Series[Any]) -> np.ndarray | list[str]:
    """Return a numeric column as an array, any other column as a list of strings."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        if getattr(column.dtype, "itemsize", 8) < 8:  # via the decimal text: 0.1 in float32 becomes 0.1
            column = column.astype(str).astype(float)
        return column.to_numpy(dtype=float, na_value=np.nan)
    return ["" if pd.isna(cell) else str(cell).strip() for cell in column]


def _read_file(path: Path) -> pd.DataFrame:
    """Read a parquet file or a spreadsheet of one sheet.

    Raises:
        DataError: the file cannot be read, or the package that reads it is not installed.
    """
    import pandas as pd

    try:
        if path.suffix.lower() in PARQUET:
            return pd.read_parquet(path)
        sheets = {name: sheet for name, sheet in pd.read_excel(path, sheet_name=None).items() if not sheet.empty}
    except ImportError as error:
        package = {".xlsx": "openpyxl", ".xls": "xlrd", ".ods": "odfpy"}.get(path.suffix.lower(), "pyarrow")
        raise DataError(f"{path}: reading this file needs a package: python -m pip install {package}") from error
    except Exception as error:  # the reading libraries raise many kinds of errors
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}") from error
    if len(sheets) != 1:
        found = f"its sheets {', '.join(map(str, sheets))} hold data" if sheets else "no sheet holds data"
        raise DataError(f"{path}: {found}; keep one sheet with a header and one row per date")
    return next(iter(sheets.values()))


def bundled() -> Table:
    """Return daily log returns and ranges log(log(High / Low)) of S&P 500 and NASDAQ, 1999-2018, from `arch`."""
    from arch.data import nasdaq, sp500

    frames = {"SP500": sp500.load(), "NASDAQ": nasdaq.load()}
    dates: list[Moment] = [day.date() for day in frames["SP500"].index]
    closes = {name: np.log(frame["Adj Close"].to_numpy(float)) for name, frame in frames.items()}
    columns = {name: np.diff(close, prepend=np.nan) for name, close in closes.items()}
    for name, frame in frames.items():
        columns[f"{name}_range"] = np.log(np.log(frame["High"].to_numpy(float) / frame["Low"].to_numpy(float)))
    values = np.stack(list(columns.values()), axis=1)
    read = [frame[["Adj Close", "High", "Low"]].to_numpy(float) for frame in frames.values()]
    source = "bundled (arch.data: S&P 500 and NASDAQ)"
    return Table(dates, list(columns), values, source, "returns", checksum_of(dates, *read))


def utc_today() -> datetime.date:
    """Return today's date in UTC."""
    return datetime.datetime.now(datetime.UTC).date()


def next_weekday(day: datetime.date) -> datetime.date:
    """Return the next day that is not a Saturday or Sunday; holidays are unknown."""
    return day + datetime.timedelta(days={4: 3, 5: 2}.get(day.weekday(), 1))


def downloaded(
    tickers: Sequence[str], start: str, end: str | None, cache: Path, today: datetime.date | None = None
) -> Table:
    """Return adjusted closes from Yahoo Finance, or from the cache if they were downloaded before.

    Rows dated today or later in UTC are dropped, because an exchange may still be trading. The cache holds one CSV for
    each combination of tickers, `start` and `end`, with date and checksum in a file beside it. So a run whose config
    sets `end` reads the same panel on any later day; delete the CSV to download again. An earlier download with another
    `end` is used if no weekday lies between its last row and `end`. If Yahoo fails, the newest earlier download is used
    with a warning.

    Args:
        tickers: names at Yahoo, each once.
        start: first day, ISO.
        end: the day after the last, ISO; None: today.
        cache: folder for downloads.
        today: today's date in UTC; None: read the clock.

    Raises:
        DataError: Yahoo sent no data for a ticker and the cache has none, the cache is damaged, or yfinance is not
            installed.
    """
    twice = sorted({ticker for ticker in tickers if tickers.count(ticker) > 1})
    if twice or not tickers:
        raise DataError(
            f"task.tickers: {', '.join(twice)} is repeated; list each ticker once"
            if twice
            else "task.tickers is empty; give at least one ticker"
        )
    today = today or utc_today()
    end = end or today.isoformat()
    before = min(datetime.date.fromisoformat(end), today)  # all rows are dated before this day
    path = _path(cache, tickers, start, end)
    own = _cached(path)
    if own and (own.downloaded >= before or own.reaches(before)):
        return own.table
    earlier = [one for one in (own, *_others(cache, tickers, start, path)) if one and one.table.dates[-1] < before]
    newest = max(earlier, key=lambda one: (one.table.dates[-1], one.downloaded), default=None)
    if newest and newest.reaches(before):
        text, day = newest.path.read_text("utf-8"), newest.downloaded
    else:
        try:
            text, day = _to_csv(tickers, _download(tickers, start, end, today)), today
        except DataError as error:
            if not newest:
                raise
            warnings.warn(
                f"{error}. Using the download of {newest.downloaded}, with last row {newest.table.dates[-1]}",
                stacklevel=2,
            )
            return newest.table
    note = {
        "downloaded": day.isoformat(),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tickers": list(tickers),
        "start": start,
        "end": end,
    }
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _write(path, text)
        _write(path.with_suffix(".json"), json.dumps(note))
    except OSError as error:
        raise DataError(f"{cache}: cannot be written: {error.strerror}; set task.cache to a folder") from error
    written = _cached(path)
    assert written is not None
    return written.table


class _Cached(NamedTuple):
    """A download in the cache."""

    path: Path
    downloaded: datetime.date
    table: Table

    def reaches(self, before: datetime.date) -> bool:
        """Return whether no weekday lies between the last row and the day `before`."""
        return next_weekday(self.table.dates[-1]) >= before


def _path(cache: Path, tickers: Sequence[str], start: str, end: str | None) -> Path:
    key = hashlib.sha256(json.dumps([list(tickers), start, end]).encode()).hexdigest()[:16]
    return cache / f"yfinance-{key}.csv"


def _others(cache: Path, tickers: Sequence[str], start: str, own: Path) -> list[_Cached]:
    """Return earlier downloads of the same tickers with the same `start` and another `end`.

    Damaged downloads are skipped; they are reported only when they are requested themselves.
    """
    found = []
    for note in sorted(cache.glob("yfinance-*.json")):
        path = note.with_suffix(".csv")
        try:
            told = json.loads(note.read_bytes())
            if path == _path(cache, tickers, start, None):  # early versions wrote neither start nor end
                told["start"] = start
            one = _cached(path) if (told["tickers"], told["start"]) == (list(tickers), start) else None
        except (ValueError, TypeError, KeyError, OSError, DataError):
            continue
        if one and path != own:
            found.append(one)
    return found


def _cached(path: Path) -> _Cached | None:
    """Read a download from the cache; None if it does not exist or is incomplete."""
    note = path.with_suffix(".json")
    if not (path.exists() and note.exists()):
        return None
    day = _checked_date(path, note)
    table = read_csv(path)
    return _Cached(path, day, Table(table.dates, table.names, table.values, f"Yahoo Finance, {day}"))


def _checked_date(path: Path, note: Path) -> datetime.date:
    """Check a download against its checksum; return the day of the download."""
    try:
        wanted = json.loads(note.read_bytes())
        digest, day = wanted["sha256"], datetime.date.fromisoformat(wanted["downloaded"])
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{note}: damaged; delete it and {path.name} to download again") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DataError(f"{path}: does not match its checksum in {note.name}; delete both to download again")
    return day


def _download(tickers: Sequence[str], start: str, end: str, today: datetime.date) -> Any:
    """Download closes in batches of tickers; return a frame of closes before today, in the order of the tickers."""
    try:
        import yfinance
    except ImportError as error:
        raise DataError("task.data=yfinance needs an extra: python -m pip install 'grownas[finance]'") from error
    import pandas as pd

    parts = []
    for first in range(0, len(tickers), BATCH):
        if first:
            time.sleep(PAUSE_S)
        asked = list(tickers[first : first + BATCH])
        try:
            frame = yfinance.download(asked, start=start, end=end, auto_adjust=True, progress=False)
        except Exception as error:  # its network and parsing libraries raise many kinds of errors
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"Yahoo Finance failed for {', '.join(asked)}: {reason}; try again later") from error
        parts.append(_closes(frame, asked, today))
    return pd.concat(parts, axis=1, sort=True)


def _closes(frame: Any, asked: list[str], today: datetime.date) -> Any:
    """Check an answer and return its closes before today, in the requested order."""
    if frame is None or frame.empty or "Close" not in frame:
        raise DataError(f"Yahoo Finance sent no data for {', '.join(asked)}; check the network and the names")
    closes = frame["Close"].reindex(columns=asked)
    closes = closes[[day.date() < today for day in closes.index]]
    days = closes.index[closes.index.duplicated()]
    if len(days):
        raise DataError(f"Yahoo Finance sent {days[0].date()} twice for {', '.join(asked)}; try again later")
    for ticker in asked:
        known = closes[ticker].dropna()
        if known.empty:
            raise DataError(
                f"Yahoo Finance sent no closes before {today} for {ticker}; check the name, task.start and task.end, "
                "or leave the ticker out"
            )
        wrong = known[~((known > 0) & np.isfinite(known))]
        if len(wrong):
            raise DataError(
                f"Yahoo Finance sent {wrong.iloc[0]} for {ticker} on {wrong.index[0].date()}, expected a number "
                "above 0; leave the ticker out"
            )
    return closes


def _to_csv(tickers: Sequence[str], closes: Any) -> str:
    lines = [",".join(["date", *tickers])]
    for day, row in zip(closes.index, closes.to_numpy(float), strict=True):
        lines.append(",".join([day.date().isoformat(), *("" if np.isnan(v) else repr(float(v)) for v in row)]))
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
