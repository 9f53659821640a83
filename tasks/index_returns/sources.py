"""Where the data come from: bundled, downloaded, or a CSV of closes."""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns import synthetic
from grownas.tasks.index_returns.cleaning import Table, checksum_of, read_csv

TICKERS = (  # G7, then BRICS
    "^GSPC", "^GSPTSE", "^FTSE", "^GDAXI", "^FCHI", "FTSEMIB.MI", "^N225",
    "^BVSP", "IMOEX.ME", "^NSEI", "000001.SS", "^J200.JO",
)  # fmt: skip
PAUSE_S = 1.0  # between requests, to be polite
BATCH = 6  # tickers a request


NAMES = ("bundled", "yfinance", *synthetic.NAMES)  # all that is no path


def read(data: str, **options: Any) -> Table:
    """Read a source by name, or a CSV by its path.

    Args:
        data: `bundled`, `yfinance`, a name of `synthetic.NAMES`, or a path.
        options: `tickers`, `start`, `end`, `cache`, `today` for yfinance; `data_seed` for synthetic panels;
            `planted_nodes`, `planted_units` for the cell of `planted`.
    """
    if data == "bundled":
        return bundled()
    if data == "yfinance":
        return downloaded(options["tickers"], options["start"], options["end"], options["cache"], options.get("today"))
    if data in synthetic.NAMES:
        nodes, units = options.get("planted_nodes", synthetic.NODES), options.get("planted_units", synthetic.UNITS)
        return synthetic.table(data, options["data_seed"], nodes=nodes, units=units)
    near = difflib.get_close_matches(Path(data).name, NAMES, n=1)
    if near and not Path(os.path.expanduser(data)).exists():
        raise DataError(f"{data}: no such file; did you mean {near[0]}?")
    return read_csv(Path(os.path.expanduser(data)))  # as given where there is no such user: then no such file


def bundled() -> Table:
    """Return daily S&P 500 and NASDAQ as `arch` ships them, 1999-2018: log returns and log(log(High / Low)) ranges."""
    from arch.data import nasdaq, sp500

    frames = {"SP500": sp500.load(), "NASDAQ": nasdaq.load()}
    dates = [day.date() for day in frames["SP500"].index]
    closes = {name: np.log(frame["Adj Close"].to_numpy(float)) for name, frame in frames.items()}
    columns = {name: np.diff(close, prepend=np.nan) for name, close in closes.items()}
    for name, frame in frames.items():
        columns[f"{name}_range"] = np.log(np.log(frame["High"].to_numpy(float) / frame["Low"].to_numpy(float)))
    values = np.stack(list(columns.values()), axis=1)
    read = [frame[["Adj Close", "High", "Low"]].to_numpy(float) for frame in frames.values()]
    source = "bundled (arch.data: S&P 500 and NASDAQ)"
    return Table(dates, list(columns), values, source, returns=True, origin=checksum_of(dates, *read))


def utc_today() -> datetime.date:
    """Return the day in UTC."""
    return datetime.datetime.now(datetime.UTC).date()


def next_weekday(day: datetime.date) -> datetime.date:
    """Return the next day that is no Saturday or Sunday; holidays are not known."""
    return day + datetime.timedelta(days={4: 3, 5: 2}.get(day.weekday(), 1))


def downloaded(
    tickers: Sequence[str], start: str, end: str | None, cache: Path, today: datetime.date | None = None
) -> Table:
    """Return adjusted closes from Yahoo Finance, from the cache if they were downloaded before.

    Rows dated today or later in UTC are left out: an exchange may still be trading. The cache holds one CSV for each
    list of tickers, `start` and `end`, with its date and checksum beside it, so that a run whose config says `end`
    reads the same panel again on another day; delete it to download again. What an earlier download for another
    `end` holds is used if no weekday lies between its last row and `end`. Where Yahoo fails, the newest earlier
    download is used with a warning.

    Args:
        tickers: names at Yahoo, each once.
        start: first day, ISO.
        end: the day after the last, ISO; None: today.
        cache: folder of the downloads.
        today: the day in UTC; None: read from the clock.

    Raises:
        DataError: nothing came for a ticker and nothing is cached, the cache is damaged, or yfinance is not installed.
    """
    twice = sorted({ticker for ticker in tickers if tickers.count(ticker) > 1})
    if twice or not tickers:
        raise DataError(f"task.tickers: {', '.join(twice)} twice" if twice else "task.tickers is empty; name an index")
    today = today or utc_today()
    end = end or today.isoformat()
    before = min(datetime.date.fromisoformat(end), today)  # all rows are
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
                f"{error}. The download of {newest.downloaded} is used, whose last row is of {newest.table.dates[-1]}",
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
        """Say whether no weekday lies between the last row and a day."""
        return next_weekday(self.table.dates[-1]) >= before


def _path(cache: Path, tickers: Sequence[str], start: str, end: str | None) -> Path:
    key = hashlib.sha256(json.dumps([list(tickers), start, end]).encode()).hexdigest()[:16]
    return cache / f"yfinance-{key}.csv"


def _others(cache: Path, tickers: Sequence[str], start: str, own: Path) -> list[_Cached]:
    """Return what was downloaded of the same tickers from the same day on for other ends.

    A damaged one is passed over: only a request for it says so.
    """
    found = []
    for note in sorted(cache.glob("yfinance-*.json")):
        path = note.with_suffix(".csv")
        try:
            told = json.loads(note.read_bytes())
            if path == _path(cache, tickers, start, None):  # of a version that wrote neither start nor end
                told["start"] = start
            one = _cached(path) if (told["tickers"], told["start"]) == (list(tickers), start) else None
        except (ValueError, TypeError, KeyError, OSError, DataError):
            continue
        if one and path != own:
            found.append(one)
    return found


def _cached(path: Path) -> _Cached | None:
    """Read a download; None if it is not there or only half."""
    note = path.with_suffix(".json")
    if not (path.exists() and note.exists()):
        return None
    day = _checked_date(path, note)
    table = read_csv(path)
    return _Cached(path, day, Table(table.dates, table.names, table.values, f"Yahoo Finance, {day}"))


def _checked_date(path: Path, note: Path) -> datetime.date:
    """Return the day of a download whose file is as it was written."""
    try:
        wanted = json.loads(note.read_bytes())
        digest, day = wanted["sha256"], datetime.date.fromisoformat(wanted["downloaded"])
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{note}: damaged; delete it and {path.name} to download again") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DataError(f"{path}: does not match its checksum in {note.name}; delete both to download again")
    return day


def _download(tickers: Sequence[str], start: str, end: str, today: datetime.date) -> Any:
    """Ask Yahoo for a few tickers at a time; return a frame of closes before today in the tickers' order."""
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
        except Exception as error:  # whatever its network and parsing libraries raise
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"Yahoo Finance failed for {', '.join(asked)}: {reason}; try again later") from error
        parts.append(_closes(frame, asked, today))
    return pd.concat(parts, axis=1, sort=True)


def _closes(frame: Any, asked: list[str], today: datetime.date) -> Any:
    """Return an answer's closes before today in the order asked; refuse what could not be read again from the cache."""
    if frame is None or frame.empty or "Close" not in frame:
        raise DataError(f"Yahoo Finance sent nothing for {', '.join(asked)}; check the network and the names")
    closes = frame["Close"].reindex(columns=asked)
    closes = closes[[day.date() < today for day in closes.index]]
    days = closes.index[closes.index.duplicated()]
    if len(days):
        raise DataError(f"Yahoo Finance sent {days[0].date()} twice for {', '.join(asked)}; try again later")
    for ticker in asked:
        known = closes[ticker].dropna()
        if known.empty:
            raise DataError(
                f"Yahoo Finance sent no closes before {today} for {ticker}; check name and days, or leave it out"
            )
        wrong = known[~((known > 0) & np.isfinite(known))]
        if len(wrong):
            raise DataError(f"Yahoo Finance sent {wrong.iloc[0]} for {ticker} on {wrong.index[0].date()}; leave it out")
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
