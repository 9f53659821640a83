"""Where the data come from: bundled, downloaded, or a CSV of closes."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grownas.tasks.index_returns import synthetic
from grownas.tasks.index_returns.cleaning import Table, read_csv

from grownas.errors import DataError

TICKERS = (  # G7, then BRICS
    "^GSPC", "^GSPTSE", "^FTSE", "^GDAXI", "^FCHI", "FTSEMIB.MI", "^N225",
    "^BVSP", "IMOEX.ME", "^NSEI", "000001.SS", "^J200.JO",
)  # fmt: skip
PAUSE_S = 1.0  # between requests, to be polite
BATCH = 6  # tickers a request


def read(data: str, **options: Any) -> Table:
    """Read a source by name, or a CSV by its path.

    Args:
        data: `bundled`, `yfinance`, a name of `synthetic.NAMES`, or a path.
        options: `tickers`, `start`, `end`, `cache` for yfinance; `data_seed` for synthetic panels.

    """
    if data == "bundled":
        return bundled()
    if data == "yfinance":
        return downloaded(options["tickers"], options["start"], options["end"], options["cache"])
    if data in synthetic.NAMES:
        return synthetic.table(data, options["data_seed"])
    return read_csv(Path(data).expanduser())


def bundled() -> Table:
    """Return the daily S&P 500 and NASDAQ that `arch` ships, 1999-2018: log returns, and log(log(High / Low)) ranges."""
    from arch.data import nasdaq, sp500

    frames = {"SP500": sp500.load(), "NASDAQ": nasdaq.load()}
    dates = [day.date() for day in frames["SP500"].index]
    closes = {name: np.log(frame["Adj Close"].to_numpy(float)) for name, frame in frames.items()}
    columns = {name: np.diff(close, prepend=np.nan) for name, close in closes.items()}
    for name, frame in frames.items():
        columns[f"{name}_range"] = np.log(np.log(frame["High"].to_numpy(float) / frame["Low"].to_numpy(float)))
    values = np.stack(list(columns.values()), axis=1)
    return Table(dates, list(columns), values, "bundled (arch.data: S&P 500 and NASDAQ)", returns=True)


def downloaded(tickers: Sequence[str], start: str, end: str | None, cache: Path) -> Table:
    """Return adjusted closes from Yahoo Finance, from the cache if they were downloaded before.

    The cache holds one CSV a request, with its date and checksum beside it; delete it to download again.

    Raises:
        DataError: nothing came for a ticker, the cache is damaged, or yfinance is not installed.

    """
    key = hashlib.sha256(json.dumps([list(tickers), start, end]).encode()).hexdigest()[:16]
    path, note = cache / f"yfinance-{key}.csv", cache / f"yfinance-{key}.json"
    if path.exists() and note.exists():
        wanted = json.loads(note.read_text())
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted["sha256"]:
            raise DataError(f"{path}: does not match its checksum in {note.name}; delete both to download again")
    else:
        text = _to_csv(tickers, _download(tickers, start, end))
        cache.mkdir(parents=True, exist_ok=True)
        _write(path, text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        today = datetime.date.today().isoformat()
        _write(note, json.dumps({"downloaded": today, "sha256": digest, "tickers": list(tickers)}))
    table = read_csv(path)
    return Table(table.dates, table.names, table.values, f"Yahoo Finance, {json.loads(note.read_text())['downloaded']}")


def _download(tickers: Sequence[str], start: str, end: str | None) -> Any:
    """Ask Yahoo for a few tickers at a time; return a frame of closes in the tickers' order."""
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
        frame = yfinance.download(asked, start=start, end=end, auto_adjust=True, progress=False)
        if frame is None or frame.empty:
            raise DataError(f"Yahoo Finance sent nothing for {', '.join(asked)}; check the network and the names")
        closes = frame["Close"].reindex(columns=asked)
        for ticker in asked:
            if closes[ticker].isna().all():
                raise DataError(f"Yahoo Finance sent no closes for {ticker}; check the name, or leave it out")
        parts.append(closes)
    return pd.concat(parts, axis=1).sort_index()


def _to_csv(tickers: Sequence[str], closes: Any) -> str:
    lines = [",".join(["date", *tickers])]
    for day, row in zip(closes.index, closes.to_numpy(float), strict=True):
        lines.append(",".join([day.date().isoformat(), *("" if np.isnan(v) else repr(float(v)) for v in row)]))
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
