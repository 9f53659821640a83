"""Bundled panels against `arch.data`; downloads against recorded answers; the cache."""

from __future__ import annotations

import datetime
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from grownas.errors import DataError
from grownas.tasks.index_returns import sources
from grownas.tasks.index_returns.cleaning import clean

yfinance = pytest.importorskip("yfinance", reason="needs the extra `finance`")


# Bundled


def test_bundled_has_four_series_of_every_day():
    table = sources.read("bundled")
    assert table.names == ["SP500", "NASDAQ", "SP500_range", "NASDAQ_range"]
    assert table.values.shape == (5031, 4)  # arch.data: 5031 days from 1999-01-04 on
    assert table.dates[0] == datetime.date(1999, 1, 4)
    assert table.dates[-1] == datetime.date(2018, 12, 31)
    assert table.kind == "returns"


def test_bundled_values_are_those_of_arch():
    from arch.data import nasdaq, sp500

    table = sources.bundled()
    for place, frame in enumerate([sp500.load(), nasdaq.load()]):
        assert [d.date() for d in frame.index] == table.dates
        returns = np.log(frame["Adj Close"]).diff()
        ranges = np.log(np.log(frame["High"]) - np.log(frame["Low"]))
        np.testing.assert_allclose(table.values[:, place], returns, rtol=0, atol=1e-14)
        np.testing.assert_allclose(table.values[:, 2 + place], ranges, rtol=1e-12)


def test_bundled_is_clean_from_its_second_day_on():
    panel = clean(sources.bundled())
    assert panel.returns.shape == (5030, 4)
    assert np.isfinite(panel.returns).all()
    assert panel.dates[0] == datetime.date(1999, 1, 5)
    assert set(panel.report["carried_forward"].values()) == {0}


def test_bundled_shows_no_day_its_own_future():
    """The first day's return needs the day before, and is blank rather than borrowed from a later day."""
    assert np.isnan(sources.bundled().values[0, :2]).all()


# By name or path


def test_a_synthetic_panel_by_name():
    one, two = (sources.read("white_noise", data_seed=seed) for seed in (1, 2))
    assert one.source == "synthetic: white_noise, data_seed 1"
    assert (one.values != two.values).any()


def test_anything_else_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "mine.csv").write_text("date,a\n2020-01-01,1\n")
    assert sources.read(str(tmp_path / "mine.csv")).names == ["a"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.read("~/mine.csv").names == ["a"]


def test_a_home_that_does_not_exist_is_a_missing_file():
    with pytest.raises(DataError, match=r"~no-such-user-here/closes\.csv: no such file"):
        sources.read("~no-such-user-here/closes.csv")


# Downloads. yfinance 1.7 answers with columns (Price, Ticker), tickers sorted by name, nan where a market was shut.

DAYS = pd.date_range("2020-01-01", periods=5, name="Date")
PRICES = {"^N225": 23000.0, "^GSPC": 3200.5, "^FTSE": 7600.25, "IMOEX.ME": 3000.0, "^BVSP": 1e5, "A": 1.0, "B": 0.1}


def closes_of(ticker):
    return PRICES[ticker] * np.array([1, 1.01, 1.02, 0.99, 1 / 3])


def answer(tickers, **replaced):
    """Return what yfinance sends for some tickers, with the closes of a few replaced."""
    columns = {}
    for ticker in sorted(tickers):
        close = np.asarray(replaced.get(ticker, closes_of(ticker)), float)
        for price, factor in (("Close", 1), ("High", 1.01), ("Low", 0.99), ("Open", 1), ("Volume", 1e4)):
            columns[price, ticker] = close * factor
    frame = pd.DataFrame(columns, index=DAYS)
    frame.columns = frame.columns.set_names(["Price", "Ticker"])
    return frame.sort_index(axis=1)


@pytest.fixture
def yahoo(monkeypatch):
    """Stand in for Yahoo: notes requests and pauses, and answers with `yahoo.reply`."""

    class Yahoo:
        def __init__(self):
            self.log, self.reply = [], answer

        def download(self, tickers, **options):
            self.log.append(("request", list(tickers), options))
            return self.reply(tickers)

        def requests(self):
            return [entry[1] for entry in self.log if entry[0] == "request"]

    fake = Yahoo()
    monkeypatch.setattr(yfinance, "download", fake.download)
    monkeypatch.setattr("time.sleep", lambda seconds: fake.log.append(("pause", seconds)))
    return fake


ASKED = ("^N225", "^GSPC", "^FTSE")


TODAY = datetime.date(2020, 1, 6)  # Monday; DAYS are Wednesday to Sunday


def get(tmp_path, tickers=ASKED, start="2020-01-01", end=None, today=TODAY):
    return sources.read("yfinance", tickers=tickers, start=start, end=end, cache=tmp_path / "cache", today=today)


def refusal(tmp_path, tickers=ASKED):
    with pytest.raises(DataError) as caught:
        get(tmp_path, tickers)
    return str(caught.value)


def test_a_download_keeps_our_order_and_every_digit(tmp_path, yahoo):
    table = get(tmp_path)
    assert table.names == list(ASKED)
    assert table.dates == [d.date() for d in DAYS]
    np.testing.assert_array_equal(table.values, np.stack([closes_of(t) for t in ASKED], axis=1))
    assert table.kind == "prices"
    assert table.source == "Yahoo Finance, 2020-01-06"


def test_a_download_asks_for_adjusted_closes_of_the_days_wanted(tmp_path, yahoo):
    get(tmp_path, start="2020-01-01", end="2020-01-04")
    get(tmp_path, start="2020-01-02")
    (_, tickers, options), (_, _, until_today) = yahoo.log
    assert tickers == list(ASKED)
    assert {"start": "2020-01-01", "end": "2020-01-04", "auto_adjust": True}.items() <= options.items()
    assert {"start": "2020-01-02", "end": "2020-01-06"}.items() <= until_today.items()


def test_blanks_stay_blank(tmp_path, yahoo):
    blank = [np.nan, 1, 2, np.nan, 3]
    yahoo.reply = lambda tickers: answer(tickers, **{"^GSPC": blank})
    np.testing.assert_array_equal(get(tmp_path).values[:, 1], blank)


def test_days_of_several_requests_are_joined_and_requests_are_throttled(tmp_path, yahoo, monkeypatch):
    monkeypatch.setattr(sources, "BATCH", 3)
    tickers = ("^N225", "^GSPC", "^FTSE", "IMOEX.ME", "B", "^BVSP", "A")
    yahoo.reply = lambda asked: answer(asked).iloc[1:] if "^N225" in asked else answer(asked).iloc[:-1]
    table = get(tmp_path, tickers)
    assert [entry[0] for entry in yahoo.log] == ["request", "pause", "request", "pause", "request"]
    assert yahoo.requests() == [list(tickers[:3]), list(tickers[3:6]), ["A"]]
    assert all(entry[1] >= 0.5 for entry in yahoo.log if entry[0] == "pause")
    assert table.names == list(tickers)
    assert table.dates == [d.date() for d in DAYS]
    assert np.isnan(table.values[0, :3]).all()
    assert np.isnan(table.values[-1, 3:]).all()
    np.testing.assert_array_equal(table.values[1:4, 6], closes_of("A")[1:4])


def test_the_default_list_is_that_of_the_g7_and_brics():
    assert len(sources.TICKERS) == len(set(sources.TICKERS)) == 12
    assert sources.TICKERS[:2] == ("^GSPC", "^GSPTSE")


def test_the_cache_is_written_once_with_date_and_checksum_and_used_offline(tmp_path, yahoo):
    online = get(tmp_path)
    files = sorted((tmp_path / "cache").iterdir())
    assert [path.suffix for path in files] == [".csv", ".json"]
    note = json.loads(files[1].read_text())
    assert note["sha256"] == hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert (note["downloaded"], note["start"], note["end"]) == ("2020-01-06", "2020-01-01", "2020-01-06")
    assert note["tickers"] == list(ASKED)

    yahoo.reply = offline
    again = get(tmp_path)
    assert len(yahoo.requests()) == 1
    assert again.source == "Yahoo Finance, 2020-01-06"
    assert (again.names, again.dates) == (online.names, online.dates)
    np.testing.assert_array_equal(again.values, online.values)


@pytest.mark.parametrize(
    "other", [{"tickers": ("^GSPC", "^N225", "^FTSE")}, {"start": "2020-01-02"}, {"end": "2020-01-03"}]
)
def test_another_request_has_another_cache(tmp_path, yahoo, other):
    get(tmp_path)
    get(tmp_path, **other)
    assert len(yahoo.requests()) == 2


def test_a_changed_cache_is_refused(tmp_path, yahoo):
    get(tmp_path)
    path = next((tmp_path / "cache").glob("*.csv"))
    path.write_text(path.read_text().replace("3200.5", "3200.6"))
    assert refusal(tmp_path).startswith(f"{path}: does not match its checksum in {path.stem}.json; delete both")
    path.write_bytes(b"\0\xff")  # the checksum is looked at before the file is read
    assert "does not match its checksum" in refusal(tmp_path)


# Days: what is finished, what is refreshed, what is kept.


def offline(tickers):
    raise ConnectionError("no route to host")


@pytest.fixture
def live(yahoo):
    """Let Yahoo answer as if it were called on a day: `live(day)`; rows of weekdays from 2019-12-02 to that day."""

    def live(today, holidays=()):
        def reply(tickers):
            days = pd.bdate_range("2019-12-02", today, name="Date")
            days = days[[day.date().isoformat() not in holidays for day in days]]
            closes = {("Close", t): PRICES[t] + np.arange(len(days), dtype=float) for t in sorted(tickers)}
            return pd.DataFrame(closes, index=days)

        yahoo.reply = reply
        return datetime.date.fromisoformat(today)

    return live


@pytest.mark.parametrize("end", [None, "2020-01-08", "2030-01-01"])
def test_the_row_of_today_is_not_finished_and_left_out(tmp_path, live, end):
    table = get(tmp_path, end=end, today=live("2020-01-07"))
    assert table.dates[-1] == datetime.date(2020, 1, 6)
    assert np.isfinite(table.values[-1]).all()


def test_rows_of_days_that_have_not_begun_in_utc_are_left_out(tmp_path, yahoo):
    assert get(tmp_path, today=datetime.date(2020, 1, 3)).dates == [d.date() for d in DAYS[:2]]


def test_nothing_but_today_is_nothing(tmp_path, yahoo):
    with pytest.raises(
        DataError, match=r"sent no closes before 2020-01-01 for .*; check the name, task.start and task.end"
    ):
        get(tmp_path, today=datetime.date(2020, 1, 1))
    assert not (tmp_path / "cache").exists()


def test_a_panel_is_refreshed_once_a_weekday_is_missing(tmp_path, yahoo, live):
    last = {}
    for day in ("2020-01-03", "2020-01-04", "2020-01-05", "2020-01-06", "2020-01-07", "2020-01-07", "2020-01-08"):
        last[day] = get(tmp_path, today=live(day)).dates[-1].isoformat(), len(yahoo.requests())
    assert last == {
        "2020-01-03": ("2020-01-02", 1),  # Friday
        "2020-01-04": ("2020-01-03", 2),  # Friday is over
        "2020-01-05": ("2020-01-03", 2),
        "2020-01-06": ("2020-01-03", 2),  # Monday is not over
        "2020-01-07": ("2020-01-06", 3),  # called twice, asked once
        "2020-01-08": ("2020-01-07", 4),
    }


def test_a_holiday_is_asked_for_once_a_day(tmp_path, yahoo, live):
    get(tmp_path, today=live("2020-01-06"))
    for _ in range(3):
        assert get(tmp_path, today=live("2020-01-07", holidays=["2020-01-06"])).dates[-1].isoformat() == "2020-01-03"
    assert len(yahoo.requests()) == 2


def test_a_request_with_an_end_reads_the_same_panel_on_any_later_day(tmp_path, yahoo, live):
    """So that a run, whose config says the end, can be resumed and scored after newer rows were downloaded."""
    first = get(tmp_path, today=live("2020-01-07"))
    get(tmp_path, today=live("2020-02-07"))
    yahoo.reply = offline
    again = get(tmp_path, end="2020-01-07", today=datetime.date(2020, 2, 7))
    assert len(yahoo.requests()) == 2
    assert (again.dates, again.source) == (first.dates, first.source)
    np.testing.assert_array_equal(again.values, first.values)


def test_so_does_one_that_was_served_from_an_earlier_download(tmp_path, yahoo, live):
    get(tmp_path, today=live("2020-01-04"))
    sunday = get(tmp_path, today=live("2020-01-05"))
    get(tmp_path, today=live("2020-02-07"))
    yahoo.reply = offline
    again = get(tmp_path, end="2020-01-05", today=datetime.date(2020, 2, 7))
    assert (again.dates, again.source) == (sunday.dates, "Yahoo Finance, 2020-01-04")


def test_an_end_in_the_future_is_refreshed_until_it_is_past(tmp_path, yahoo, live):
    ends = [get(tmp_path, end="2020-01-09", today=live(f"2020-01-{d}")).dates[-1].day for d in ("07", "08", "10", "13")]
    assert ends == [6, 7, 9, 9]  # the fake sends what it has, whatever the end asked for
    assert len(yahoo.requests()) == 3


def test_an_offline_machine_uses_the_newest_download_with_a_warning(tmp_path, yahoo, live):
    get(tmp_path, today=live("2020-01-03"))
    newest = get(tmp_path, today=live("2020-01-08"))
    yahoo.reply = offline
    told = r"no route to host; try again later. Using the download of 2020-01-08, with last row 2020-01-07"
    with pytest.warns(UserWarning, match=told):
        stale = get(tmp_path, today=datetime.date(2020, 3, 2))
    assert (stale.dates, stale.source) == (newest.dates, "Yahoo Finance, 2020-01-08")
    live("2020-03-02")
    assert get(tmp_path, today=datetime.date(2020, 3, 2)).dates[-1] == datetime.date(2020, 2, 28)  # online again


def test_an_offline_machine_does_not_take_other_tickers_other_starts_or_the_future(tmp_path, yahoo, live):
    get(tmp_path, today=live("2020-01-08"))
    yahoo.reply = offline
    later = datetime.date(2020, 3, 2)
    for asked in ({"tickers": ASKED[:2]}, {"start": "2019-12-03"}, {"end": "2019-12-20"}):
        with pytest.raises(DataError, match="no route to host"):
            get(tmp_path, today=later, **asked)


def test_a_download_of_an_early_version_is_used_offline(tmp_path, yahoo, live):
    """It had one file for `end: null`, whose note said neither start nor end."""
    get(tmp_path, today=live("2020-01-08"))
    path, note = sorted((tmp_path / "cache").iterdir())
    old = sources._path(tmp_path / "cache", ASKED, "2020-01-01", None)
    path.rename(old)
    told = json.loads(note.read_text())
    note.unlink()
    old.with_suffix(".json").write_text(json.dumps({key: told[key] for key in ("downloaded", "sha256", "tickers")}))
    yahoo.reply = offline
    with pytest.warns(UserWarning, match="Using the download of 2020-01-08"):
        assert len(get(tmp_path, today=datetime.date(2020, 1, 10)).dates) == 27
    with pytest.raises(DataError, match="no route"):
        get(tmp_path, start="2020-01-02", today=datetime.date(2020, 1, 10))


def test_another_requests_damaged_download_does_not_matter(tmp_path, yahoo, live):
    get(tmp_path, today=live("2020-01-03"))
    next((tmp_path / "cache").glob("*.csv")).write_text("nonsense")
    assert get(tmp_path, today=live("2020-01-08")).dates[-1] == datetime.date(2020, 1, 7)


@pytest.mark.parametrize(
    ("day", "following"), [("2024-01-04", 5), ("2024-01-05", 8), ("2024-01-06", 8), ("2024-01-07", 8)]
)
def test_the_next_weekday(day, following):
    assert sources.next_weekday(datetime.date.fromisoformat(day)) == datetime.date(2024, 1, following)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b'{"sha256": "0"}', b"\xff\xfe"])
def test_a_damaged_note_beside_the_cache_is_refused(tmp_path, yahoo, note):
    get(tmp_path)
    path = next((tmp_path / "cache").glob("*.json"))
    path.write_bytes(note)
    assert refusal(tmp_path).startswith(f"{path}: damaged; delete it and {path.stem}.csv")


def test_half_a_cache_is_downloaded_again(tmp_path, yahoo):
    get(tmp_path)
    next((tmp_path / "cache").glob("*.json")).unlink()
    get(tmp_path)
    assert len(yahoo.requests()) == 2


def test_a_cache_that_cannot_be_written_is_an_error_in_words(tmp_path, yahoo):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'cache'}: cannot be written: ")


@pytest.mark.parametrize("empty", [None, pd.DataFrame(), answer(ASKED).iloc[:0]], ids=["None", "no columns", "no rows"])
def test_an_empty_answer_is_refused_with_the_names(tmp_path, yahoo, empty):
    yahoo.reply = lambda tickers: empty
    assert "sent no data for ^N225, ^GSPC, ^FTSE; check the network" in refusal(tmp_path)


def test_an_answer_without_closes_is_refused(tmp_path, yahoo):
    yahoo.reply = lambda tickers: answer(tickers).drop(columns="Close", level=0)
    assert "sent no data for ^N225, ^GSPC, ^FTSE" in refusal(tmp_path)


def test_a_blank_column_is_refused_with_the_ticker(tmp_path, yahoo):
    yahoo.reply = lambda tickers: answer(tickers, **{"^GSPC": np.full(5, np.nan)})
    assert refusal(tmp_path).startswith("Yahoo Finance sent no closes before 2020-01-06 for ^GSPC;")


def test_a_missing_ticker_is_refused_with_its_name(tmp_path, yahoo):
    yahoo.reply = lambda tickers: answer(set(tickers) - {"^FTSE"})
    assert refusal(tmp_path).startswith("Yahoo Finance sent no closes before 2020-01-06 for ^FTSE;")


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf])
def test_an_impossible_close_is_refused_with_ticker_and_day(tmp_path, yahoo, wrong):
    yahoo.reply = lambda tickers: answer(tickers, **{"^GSPC": [1, 2, wrong, 4, 5]})
    assert refusal(tmp_path).startswith(f"Yahoo Finance sent {wrong} for ^GSPC on 2020-01-03, expected")


def test_a_day_that_comes_twice_is_refused(tmp_path, yahoo):
    yahoo.reply = lambda tickers: pd.concat([answer(tickers), answer(tickers).iloc[-1:]])
    assert "sent 2020-01-05 twice" in refusal(tmp_path)


def test_an_exception_of_yfinance_is_an_error_in_words(tmp_path, yahoo):
    def fail(tickers):
        raise ConnectionError("no route to host")

    yahoo.reply = fail
    message = refusal(tmp_path)
    assert message.startswith("Yahoo Finance failed for ^N225, ^GSPC, ^FTSE: ConnectionError: no route to host;")


def test_nothing_is_cached_when_a_download_fails(tmp_path, yahoo):
    yahoo.reply = lambda tickers: answer(tickers, **{"^GSPC": [1, 2, 0, 4, 5]})
    refusal(tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("tickers", "words"),
    [((), "task.tickers is empty"), (("^GSPC", "^FTSE", "^GSPC"), "task.tickers: ^GSPC is repeated")],
)
def test_a_wrong_list_of_tickers_is_refused_before_asking(tmp_path, yahoo, tickers, words):
    assert refusal(tmp_path, tickers).startswith(words)
    assert not yahoo.log


def test_without_yfinance_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yfinance", None)  # makes `import yfinance` fail
    assert "pip install 'grownas[finance]'" in refusal(tmp_path)


def test_a_misspelt_name_of_a_source_is_told_the_nearest():
    with pytest.raises(DataError, match="no such file; did you mean bundled"):
        sources.read("bundeld")
