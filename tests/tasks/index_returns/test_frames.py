"""Data frames, parquet files and spreadsheets: the same table as the CSV of the frame."""

from __future__ import annotations

import builtins
import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
from dateutil import tz
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.index_returns import sources
from grownas.tasks.index_returns.cleaning import clean
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.reading import read_csv
from grownas.tasks.index_returns.task import IndexReturns

ROWS = 300


def frame_of(rows=ROWS, seed=0, index=None):
    values = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=(rows, 3)) * 0.01, axis=0))
    values[5, 1] = np.nan
    dates = pd.date_range("2020-01-01", periods=rows, freq="B") if index is None else index
    return pd.DataFrame(values, index=dates, columns=["A", "B", "C"])


def same(one, other):
    assert (one.dates, one.names, one.kind) == (other.dates, other.names, other.kind)
    assert [type(day) for day in one.dates] == [type(day) for day in other.dates]
    assert one.values.tobytes() == other.values.tobytes()


@pytest.fixture
def quiet():
    """Guesses are told, which is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* read ")
        yield


INDEXES = {
    "days": pd.date_range("2020-01-01", periods=ROWS, freq="B"),
    "hours": pd.date_range("2020-01-01", periods=ROWS, freq="h"),
    "hours in New York": pd.date_range("2020-10-30", periods=ROWS, freq="h", tz="America/New_York"),
    "midnights in Tokyo": pd.date_range("2020-01-01", periods=ROWS, freq="D", tz="Asia/Tokyo"),
}


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("name", [None, "date", "Datum"])
@pytest.mark.usefixtures("quiet")
def test_a_frame_is_its_csv(tmp_path, index, name):
    frame = frame_of(index=INDEXES[index].set_names(name))
    frame.to_csv(tmp_path / "frame.csv", index_label="" if name is None else "date")
    read = sources.from_frame(frame)
    same(read, read_csv(tmp_path / "frame.csv"))
    assert isinstance(read.dates[0], datetime.datetime) == index.startswith("hours")
    assert clean(read).checksum == clean(read_csv(tmp_path / "frame.csv")).checksum


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=9), st.sampled_from(["float64", "float32", "object"]))
def test_numbers_of_a_frame_are_those_of_its_csv(tmp_path_factory, numbers, dtype):
    path = tmp_path_factory.mktemp("frame") / "frame.csv"
    numbers = [min(number, 1e30) if dtype == "float32" else number for number in numbers]
    numbers = [max(number, 1e-30) if dtype == "float32" else number for number in numbers]
    dates = pd.date_range("2020-01-01", periods=len(numbers), name="date")
    frame = pd.DataFrame({"a": np.array(numbers).astype(dtype)}, index=dates)
    frame.to_csv(path)
    same(sources.from_frame(frame), read_csv(path))


@pytest.mark.parametrize("name", ["date", "Timestamp"])
@pytest.mark.parametrize("as_text", [True, False])
def test_the_dates_may_be_a_column(name, as_text):
    frame = frame_of()
    dates = frame.index.strftime("%Y-%m-%d") if as_text else frame.index
    column = frame.reset_index(drop=True)
    column.insert(1, name, dates)
    same(sources.from_frame(column), sources.from_frame(frame))
    same(sources.from_frame(column[column[name] > column[name][2]]), sources.from_frame(frame.iloc[3:]))
    same(sources.from_frame(frame.set_index(pd.Index(dates, name=name))), sources.from_frame(frame))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "n/a", "."])
def test_what_is_missing_is_blank(missing, quiet):
    frame = frame_of().astype(object)
    frame.iloc[5, 1] = missing
    same(sources.from_frame(frame), sources.from_frame(frame_of()))
    if missing is pd.NA:
        same(sources.from_frame(frame_of().convert_dtypes()), sources.from_frame(frame_of()))


def changed(**columns):
    return frame_of().assign(**columns)


NOT_USED = {
    "a series": (frame_of()["A"], "expected a pandas DataFrame, got Series"),
    "levels": (pd.concat({"close": frame_of()}, axis=1), "several levels of columns or rows"),
    "no rows": (frame_of().iloc[:0], "no rows of data"),
    "periods": (frame_of().to_period("M"), "the index holds periods"),
    "no dates": (
        frame_of().reset_index(drop=True),
        "columns: no column of dates, called date, datetime, timestamp or time",
    ),
    "dates twice": (changed(date="2020-01-01"), "column 'date' occurs 2 times"),
    "text": (changed(D="abc"), "row 0, column D: 'abc' is not a number"),
    "flags": (changed(D=True), "row 0, column D: 'True' is not a number"),
    "infinite": (changed(D=[1.0] * 7 + [np.inf] * 293), "row 7, column D: a close must be finite and above 0, got inf"),
    "negative": (changed(D=[1] * 9 + [-3] * 291), "row 9, column D: a close must be finite and above 0, got -3"),
    "unsorted": (frame_of().iloc[::-1], "row 1, column date: .* comes after 2021-02-23; sort the rows by date"),
    "no date": (frame_of(index=[*INDEXES["days"][:-1], pd.NaT]), "row 299, column date: 'NaT' is not a date"),
    "one level": (frame_of()[[]], "no rows of data"),
}


@pytest.mark.parametrize("what", NOT_USED)
def test_a_frame_that_cannot_be_used_is_refused(what):
    frame, words = NOT_USED[what]
    with pytest.raises(DataError, match=words):
        sources.from_frame(frame)


def test_a_models_series_are_read_from_a_frame():
    frame = frame_of()[["C", "A", "B"]].assign(note="text")
    with pytest.warns(UserWarning, match="data frame: ignored note, which the model does not read"):
        read = sources.from_frame(frame, only=["A", "B", "C"])
    same(read, sources.from_frame(frame_of()))


# ---- files


def parquet(frame, path):
    pytest.importorskip("pyarrow", reason="needs the extra `files`")
    frame.to_parquet(path)


def xlsx(frame, path):
    pytest.importorskip("openpyxl", reason="needs the extra `files`")
    frame.to_excel(path)


FILES = {".parquet": parquet, ".pq": parquet, ".xlsx": xlsx, ".XLSX": xlsx}


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("name", [None, "date"])
def test_parquet_and_xlsx_are_read_as_the_frame(tmp_path, suffix, name, quiet):
    path, frame = tmp_path / f"closes{suffix}", frame_of().round(4)  # a spreadsheet keeps 16 digits
    FILES[suffix](frame.rename_axis(name), path)
    read = sources.read(str(path))
    same(read, sources.from_frame(frame))
    assert read.source == path.name


def test_a_cell_of_a_spreadsheet_is_named_as_the_spreadsheet_names_it(tmp_path):
    xlsx(changed(D=[1] * 9 + [-3] * 291).rename_axis("date"), tmp_path / "closes.xlsx")
    with pytest.raises(DataError, match=r"closes\.xlsx, row 11, column D: a close must"):  # the header is row 1
        sources.read(str(tmp_path / "closes.xlsx"))


def test_a_workbook_of_two_sheets_is_doubted(tmp_path):
    pytest.importorskip("openpyxl", reason="needs the extra `files`")
    path = tmp_path / "closes.xlsx"
    with pd.ExcelWriter(path) as writer:
        frame_of().to_excel(writer, sheet_name="one")
        frame_of().to_excel(writer, sheet_name="two")
        pd.DataFrame().to_excel(writer, sheet_name="empty")
    with pytest.raises(DataError, match="its sheets one, two hold data; keep one sheet"):
        sources.read(str(path))


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".xlsx", "openpyxl"), (".ods", "odfpy")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix, package):
    path = tmp_path / f"closes{suffix}"
    path.write_bytes(b"PK")

    def refuse(*arguments, **options):
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", refuse)
    monkeypatch.setattr(pd, "read_excel", refuse)
    with pytest.raises(DataError, match=f"reading this file needs a package: python -m pip install {package}"):
        sources.read(str(path))


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx"])
def test_a_file_of_another_kind_is_refused(tmp_path, suffix):
    pytest.importorskip({".parquet": "pyarrow", ".xlsx": "openpyxl"}[suffix], reason="needs the extra `files`")
    (tmp_path / f"closes{suffix}").write_text("date,a\n2020-01-01,1\n")
    with pytest.raises(DataError, match=rf"closes\{suffix}: cannot be read as {suffix[1:]}"):
        sources.read(str(tmp_path / f"closes{suffix}"))


@pytest.mark.parametrize("name", ["closes.parquet", "closes.xlsx"])
def test_a_missing_file_is_missing_whatever_its_kind(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: no such file"):
        sources.read(str(tmp_path / name))


# ---- the task

OPTIONS = {"loss": "squared", "bptt": 5, "streams": 4, "context": 30}


@pytest.mark.parametrize("kind", ["prices", "returns", "levels"])
@pytest.mark.usefixtures("quiet")
def test_the_task_of_a_frame_has_the_bits_of_the_task_of_its_csv(tmp_path, kind):
    frame = frame_of() if kind == "prices" else frame_of().diff().iloc[1:].fillna(0.1)
    frame.to_csv(tmp_path / "frame.csv")
    one = IndexReturns.load(Options(data="frame", values=kind, **OPTIONS), frame=frame)
    other = IndexReturns.load(Options(data=str(tmp_path / "frame.csv"), values=kind, **OPTIONS))
    assert one.values.tobytes() == other.values.tobytes()
    assert one.checksum == other.checksum
    assert (one.dates("val"), one.names, one.next_day) == (other.dates("val"), other.names, other.next_day)
    assert one.source == "data frame"


def test_a_frame_that_is_gone_is_asked_for():
    with pytest.raises(DataError, match=r"task\.data=frame: the run read a data frame given from Python; give a file"):
        IndexReturns.load(Options(data="frame"))


def test_the_kind_decides_what_is_forecast():
    frame = frame_of().dropna()
    values = frame.to_numpy()
    given = {"data": "frame", **OPTIONS}
    prices = IndexReturns.load(Options(**given), frame=frame)
    levels = IndexReturns.load(Options(values="levels", **given), frame=frame - 100)
    with pytest.warns(UserWarning, match="above 0, like prices"):
        returns = IndexReturns.load(Options(values="returns", **given), frame=frame)
    np.testing.assert_array_equal(prices.panel.returns, np.diff(np.log(values), axis=0))
    np.testing.assert_array_equal(levels.panel.returns, np.diff(values - 100, axis=0))
    np.testing.assert_array_equal(returns.panel.returns, values)
    assert len(returns.panel.dates) == len(frame) == len(prices.panel.dates) + 1
    assert prices.panel.dates == levels.panel.dates == returns.panel.dates[1:]


def test_blank_returns_are_zero_and_told():
    frame = frame_of().diff().iloc[1:]
    with pytest.warns(UserWarning, match=r"data frame: replaced blank returns by 0: B \(2\)"):
        task = IndexReturns.load(Options(data="frame", values="returns", **OPTIONS), frame=frame)
    np.testing.assert_array_equal(task.panel.returns, frame.fillna(0).to_numpy())
    assert task.panel.report["carried_forward"] == {"A": 0, "B": 2, "C": 0}


def test_pandas_is_not_imported_for_a_csv(tmp_path, monkeypatch):
    frame_of().to_csv(tmp_path / "frame.csv", index_label="date")
    known = builtins.__import__

    def watched(name, *arguments, **options):
        assert name.split(".")[0] != "pandas"
        return known(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert len(sources.read(str(tmp_path / "frame.csv")).dates) == ROWS


def test_the_zone_of_a_frame_is_that_of_its_index_or_of_a_column():
    times = pd.date_range("2024", periods=3, tz="Asia/Tokyo")
    assert sources.zone_of(pd.DataFrame({"a": [1, 2, 3]}, index=times)) == "Asia/Tokyo"
    assert sources.zone_of(pd.DataFrame({"date": times, "a": [1, 2, 3]})) == "Asia/Tokyo"
    assert sources.zone_of(pd.DataFrame({"date": times.tz_localize(None), "a": [1, 2, 3]})) is None


def test_a_zone_without_a_name_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas may deprecate such zones
        times = pd.date_range("2024", periods=3, tz=tz.tzoffset(None, 3600))
    with pytest.warns(UserWarning, match=r"has no known name.*tz_convert"):
        assert sources.zone_of(pd.DataFrame({"a": [1, 2, 3]}, index=times)) is None
