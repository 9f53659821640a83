"""What a CSV may look like, what is refused and why, and how closes become returns."""

from __future__ import annotations

import datetime
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import LEAST_ROWS, Table, clean, read_csv

FIRST = datetime.date(2020, 1, 1)


def day(number):
    return FIRST + datetime.timedelta(days=number)


def lines(rows=LEAST_ROWS + 1):
    """A good file: `a` falls and rises, `b` as well, row n + 2 holds day n."""
    return ["date,a,b", *(f"{day(i)},{100 + i % 7},{50 + i % 5}" for i in range(rows))]


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "closes.csv"
        path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode())
        return path

    return write


def table(values, names=None, **options):
    values = np.asarray(values, float)
    names = names or [f"x{i}" for i in range(values.shape[1])]
    return Table([day(i) for i in range(len(values))], names, values, "made", **options)


def prices(rows=200, series=2, seed=0):
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=(rows, series)) * 0.01, axis=0))


def test_reads_dates_names_and_closes_with_blanks(write):
    read = read_csv(write(["date,^GSPC,FTSEMIB.MI", "2020-01-01,1.5,", "2020-01-02,,3e2"]))
    assert read.dates == [day(0), day(1)]
    assert read.names == ["^GSPC", "FTSEMIB.MI"]
    np.testing.assert_array_equal(read.values, [[1.5, np.nan], [np.nan, 300.0]])
    assert read.source == "closes.csv"
    assert not read.returns


def test_the_date_column_may_stand_anywhere(write):
    read = read_csv(write(["a,date,b", "1,2020-01-01,2"]))
    assert read.names == ["a", "b"]
    np.testing.assert_array_equal(read.values, [[1, 2]])


@pytest.mark.parametrize(
    "content",
    [
        b'"date","a","b"\n"2020-01-01","1.5","2"\n"2020-01-02","1.25","3"\n',
        b"\xef\xbb\xbfdate,a,b\n2020-01-01,1.5,2\n2020-01-02,1.25,3\n",
        b"date,a,b\r\n2020-01-01,1.5,2\r\n2020-01-02,1.25,3\r\n",
        b"date,a,b\n2020-01-01,1.5,2\n2020-01-02,1.25,3\n\n\n  \n,,\n",
        b"date, a , b\n 2020-01-01 , 1.5,2 \n2020-01-02,1.25, 3",
    ],
    ids=["quoted", "byte order mark", "CRLF", "blank lines at the end", "spaces and no last line end"],
)
def test_accepts_how_spreadsheets_write(write, content):
    read = read_csv(write(content))
    assert read.names == ["a", "b"]
    assert read.dates == [day(0), day(1)]
    np.testing.assert_array_equal(read.values, [[1.5, 2], [1.25, 3]])


def test_rows_are_not_split_at_odd_line_separators(write):
    """A spreadsheet's name may hold U+2028, which Python's `splitlines` takes for the end of a line."""
    assert read_csv(write(["date,a\u2028b,c", "2020-01-01,1,2"])).names == ["a\u2028b", "c"]


REFUSED = [  # the row that is replaced in a good file, what stands there, what is said after the file's name
    (1, "Date,a,b", "row 1: no column called date; found Date, a, b"),
    (1, "day,a,b", "row 1: no column called date; found day, a, b"),
    (1, "date,a,a", "row 1: column 'a' stands 2 times"),
    (1, "date,date,a", "row 1: column 'date' stands 2 times"),
    (1, "date,a,", "row 1, column 3: the name is empty"),
    (1, "date,  ,b", "row 1, column 2: the name is empty"),
    (1, "date", "row 1: only a date column; expected closes of at least one index beside it"),
    (5, "2020-01-03,100,50", "row 5, column date: 2020-01-03 stands twice"),
    (5, "2020-01-02,100,50", "row 5, column date: 2020-01-02 comes after 2020-01-03; sort the rows by date"),
    (5, "03/01/2020,100,50", "row 5, column date: '03/01/2020' is not a date such as 2024-12-31"),
    (5, "2020-02-30,100,50", "row 5, column date: '2020-02-30' is not a date such as 2024-12-31"),
    (5, "2020-01-04 00:00,100,50", "row 5, column date: '2020-01-04 00:00' is not a date such as 2024-12-31"),
    (5, ",100,50", "row 5, column date: '' is not a date such as 2024-12-31"),
    (5, "2020-01-04,abc,50", "row 5, column a: 'abc' is not a number"),
    (5, '2020-01-04,"12,5",50', "row 5, column a: '12,5' is not a number"),
    (5, '2020-01-04,"1\n2",50', r"row 5, column a: '1\n2' is not a number"),
    (5, "2020-01-04,100,1_000", "row 5, column b: '1_000' is not a number"),
    (5, "2020-01-04,0,50", "row 5, column a: a close must be finite and above 0, got 0"),
    (5, "2020-01-04,100,-3.5", "row 5, column b: a close must be finite and above 0, got -3.5"),
    (5, "2020-01-04,inf,50", "row 5, column a: a close must be finite and above 0, got inf"),
    (5, "2020-01-04,-Infinity,50", "row 5, column a: a close must be finite and above 0, got -Infinity"),
    (5, "2020-01-04,nan,50", "row 5, column a: a close must be finite and above 0, got nan"),
    (5, "2020-01-04,1e999,50", "row 5, column a: a close must be finite and above 0, got 1e999"),
    (5, "2020-01-04,1", "row 5: 2 fields, the header has 3"),
    (5, "2020-01-04,1,2,3", "row 5: 4 fields, the header has 3"),
    (5, "", "row 5: 0 fields, the header has 3"),
]


@pytest.mark.parametrize(("row", "text", "words"), REFUSED, ids=[text or "blank" for _, text, _ in REFUSED])
def test_refuses_a_row_with_file_place_and_reason(write, row, text, words):
    content = lines()
    content[row - 1] = text
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value) == f"{path}, {words}"


def workbook():
    """What a spreadsheet program saves by default: a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet><row>1</row></worksheet>" * 20)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"date,a\n2020-01-01,1\0\n", "a binary file"),
        ("date,Börse\n2020-01-01,1\n".encode("latin-1"), r"not a text file in UTF-8 \(byte 6\)"),
        ("date,a\n2020-01-01,1\n".encode("utf-16"), r"not a text file in UTF-8 \(byte 0\)"),
        (workbook(), "not a text file in UTF-8|a binary file"),
        (b'date,a\n2020-01-01,"1\n', "line 2: not a CSV: unexpected end of data"),
        (b"", "no rows of data"),
        (b"\n\n", "no rows of data"),
        (b"date,a\n\n", "no rows of data"),
    ],
    ids=["NUL", "latin-1", "UTF-16", "xlsx", "open quote", "empty", "blank lines", "header alone"],
)
def test_refuses_what_is_no_table(write, content, reason):
    path = write(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path))


def test_refuses_a_missing_file_and_says_what_else_may_stand_there(tmp_path):
    with pytest.raises(DataError, match=r"closs\.csv: no such file; task.data takes a CSV of closes, bundled"):
        read_csv(tmp_path / "closs.csv")


def test_refuses_a_directory(tmp_path):
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: cannot be read: ")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "closes.csv"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_csv(path)  # 300 random bytes with a column called date: not in this universe


@given(
    st.lists(st.sampled_from(["2020-01-01", "2020-01-02", "1", "0", "", "x", '"', ",", "\n", "date", "a"]), max_size=30)
)
def test_any_text_gives_a_table_or_an_error_in_words(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("text") / "closes.csv"
    path.write_text("date,a\n" + ",".join(parts))
    read, refused = None, ""
    try:
        read = read_csv(path)
    except DataError as error:
        refused = str(error)
    assert (read is None) == refused.startswith(str(path))
    if read:
        assert read.values.shape == (len(read.dates), len(read.names))
        known = read.values[~np.isnan(read.values)]
        assert (known > 0).all()
        assert np.isfinite(known).all()


def test_a_file_becomes_log_returns_of_the_later_day(write):
    panel = clean(read_csv(write(lines(150))))
    assert panel.returns.shape == (149, 2)
    assert panel.dates[0] == day(1)
    assert panel.dates[-1] == day(149)
    assert panel.returns[0, 0] == pytest.approx(np.log(101 / 100), abs=1e-15)
    assert panel.returns[6, 0] == pytest.approx(np.log(100 / 106), abs=1e-15)
    assert panel.returns[4, 1] == pytest.approx(np.log(50 / 54), abs=1e-15)


def test_begins_with_the_first_day_on_which_all_exist_and_counts_blanks_after_it():
    values = prices()
    values[:5, 1] = np.nan  # the second series begins on day 5
    values[[2, 5, 20, 21], 0] = np.nan  # day 2 lies before the beginning; day 5 takes the close of day 4
    values[[30, 199], 1] = np.nan
    panel = clean(table(values))
    assert panel.report["first_day_of_all"] == day(5).isoformat()
    assert panel.report["carried_forward"] == {"x0": 3, "x1": 2}
    assert panel.report["rows_read"] == 200
    assert panel.report["rows_used"] == len(panel.returns) == 194
    assert panel.dates == [day(i) for i in range(6, 200)]
    assert panel.returns[0, 0] == pytest.approx(np.log(values[6, 0] / values[4, 0]), abs=1e-15)
    np.testing.assert_array_equal(panel.returns[[14, 15], 0], [0, 0])  # days 20 and 21
    assert panel.returns[16, 0] == pytest.approx(np.log(values[22, 0] / values[19, 0]), abs=1e-15)
    assert panel.returns[-1, 1] == 0
    assert np.isnan(values[20, 0])  # what was read is left alone


def test_changing_the_future_changes_no_return_before_it():
    values = prices()
    values[[50, 51, 120], 0] = np.nan
    before = clean(table(values)).returns
    values[120:] *= np.random.default_rng(1).uniform(0.5, 2, size=values[120:].shape)
    after = clean(table(values)).returns
    np.testing.assert_array_equal(after[:119], before[:119])
    assert (after[119:] != before[119:]).any()


def test_returns_are_taken_as_they_are():
    values = np.random.default_rng(0).normal(size=(150, 2))
    values[0, 0] = np.nan
    panel = clean(table(values, returns=True))
    np.testing.assert_array_equal(panel.returns, values[1:])
    assert panel.dates[0] == day(1)


def test_differences_the_series_that_are_named():
    values = np.random.default_rng(0).normal(size=(150, 3))
    names = ["a", "a_range", "b_range"]
    panel = clean(table(values, names, returns=True), ["ranges", "a_range"])
    np.testing.assert_array_equal(panel.returns[:, 0], values[1:, 0])  # the first day has no change: it goes
    np.testing.assert_array_equal(panel.returns[:, 1:], values[1:, 1:] - values[:-1, 1:])
    assert panel.dates == [day(i) for i in range(1, 150)]
    assert panel.report["differenced"] == ["a_range", "b_range"]


@pytest.mark.parametrize(("wanted", "names"), [("c", ["a", "b"]), ("ranges", ["a", "b"])])
def test_refuses_to_difference_what_is_not_there(wanted, names):
    with pytest.raises(DataError, match=f"no series '{wanted}'; the data have a, b"):
        clean(table(prices(), names), [wanted])


def test_refuses_a_column_without_a_value():
    values = prices()
    values[:, 1] = np.nan
    with pytest.raises(DataError, match="made, column x1: every value is blank"):
        clean(table(values))


@pytest.mark.parametrize("series", [np.full(200, 7.0), 100 * 1.001 ** np.arange(200)], ids=["level", "steady growth"])
def test_refuses_a_series_without_movement(series):
    values = prices()
    values[:, 1] = series
    with pytest.raises(DataError, match="made, column x1: constant"):
        clean(table(values))


def test_refuses_too_few_rows_but_not_just_enough():
    with pytest.raises(DataError, match="99 rows of returns are left, at least 100 are needed"):
        clean(table(prices(100)))
    assert len(clean(table(prices(101))).returns) == 100


def test_counts_the_rows_that_are_left_not_those_read():
    values = prices(300)
    values[:250, 0] = np.nan
    with pytest.raises(DataError, match="49 rows of returns are left"):
        clean(table(values))
