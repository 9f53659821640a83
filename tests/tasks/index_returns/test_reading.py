"""What a file or data frame may look like, what is refused and why, and what is told."""

from __future__ import annotations

import datetime
import gzip
import io
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import LEAST_ROWS, clean
from grownas.tasks.index_returns.reading import read_csv

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


def test_reads_dates_names_and_closes_with_blanks(write):
    read = read_csv(write(["date,^GSPC,FTSEMIB.MI", "2020-01-01,1.5,", "2020-01-02,,3e2"]))
    assert read.dates == [day(0), day(1)]
    assert read.names == ["^GSPC", "FTSEMIB.MI"]
    np.testing.assert_array_equal(read.values, [[1.5, np.nan], [np.nan, 300.0]])
    assert read.source == "closes.csv"
    assert read.kind == "prices"


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


TWO_DATES = (
    "row 1: date and Time could each hold the dates; keep one of them, "
    "with cells such as 2024-12-31 or 2024-12-31 15:30"
)
NO_DATES = "row 1: no column of dates, called date, datetime, timestamp or time"
BLANK = "; leave the cell blank if the market was closed"
INSTEAD = "; if the file holds returns set task.values=returns, for yields or temperatures task.values=levels"
REFUSED = [  # the row that is replaced in a good file, what stands there, what is said after the file's name
    (1, "day,a,b", f"{NO_DATES}; found day, a, b; rename the column of dates"),
    (
        1,
        "2020-01-01,1,2",
        "row 1: it holds 2020-01-01, like a row of data; put a row with the names of the columns first",
    ),
    (
        1,
        "31.12.2019,1,2",
        "row 1: it holds 31.12.2019, like a row of data; put a row with the names of the columns first",
    ),
    (1, "date,Time,a", TWO_DATES),
    (1, "date,a,a", "row 1: column 'a' occurs 2 times; give each column its own name"),
    (1, "date,date,a", "row 1: column 'date' occurs 2 times; give each column its own name"),
    (1, "date,a,", "row 1, column 3: the name is empty"),
    (1, "date,  ,b", "row 1, column 2: the name is empty"),
    (1, "date", "row 1: only a date column; expected closes of at least one index beside it"),
    (5, "2020-01-03,100,50", "row 5, column date: 2020-01-03 is repeated"),
    (5, "2020-01-02,100,50", "row 5, column date: 2020-01-02 comes after 2020-01-03; sort the rows by date"),
    (5, "03/01/2020,100,50", "row 5, column date: '03/01/2020' is not a date such as 2024-12-31"),
    (5, "2020-02-30,100,50", "row 5, column date: '2020-02-30' is not a date such as 2024-12-31"),
    (5, "2020-01-04T25:00,100,50", "row 5, column date: '2020-01-04T25:00' is not a date such as 2024-12-31"),
    (
        5,
        "2020-01-04 00:00Z,100,50",
        "column date: only some rows have a time zone; give every row a time zone, or none",
    ),
    (5, "2020-01-03 00:00,100,50", "row 5, column date: 2020-01-03 00:00 is repeated"),
    (5, ",100,50", "row 5, column date: '' is not a date such as 2024-12-31"),
    (5, "2020-01-04,abc,50", "row 5, column a: 'abc' is not a number"),
    (5, '2020-01-04,"12,5",50', "row 5, column a: '12,5' is not a number"),
    (5, '2020-01-04,"1\n2",50', r"row 5, column a: '1\n2' is not a number"),
    (5, "2020-01-04,100,1_000", "row 5, column b: '1_000' is not a number"),
    (5, "2020-01-04,0,50", "row 5, column a: a close must be finite and above 0, got 0" + INSTEAD),
    (5, "2020-01-04,100,-3.5", "row 5, column b: a close must be finite and above 0, got -3.5" + INSTEAD),
    (5, "2020-01-04,inf,50", "row 5, column a: a close must be finite and above 0, got inf" + BLANK),
    (5, "2020-01-04,-Infinity,50", "row 5, column a: a close must be finite and above 0, got -Infinity" + BLANK),
    (5, "2020-01-04,nan,50", "row 5, column a: a close must be finite and above 0, got nan" + BLANK),
    (5, "2020-01-04,1e999,50", "row 5, column a: a close must be finite and above 0, got 1e999" + BLANK),
    (5, "2020-01-04,1", "row 5: got 2 fields, expected 3 as in the header"),
    (5, "2020-01-04,1,2,3", "row 5: got 4 fields, expected 3 as in the header"),
    (5, "", "row 5: got 0 fields, expected 3 as in the header"),
]


def test_a_first_column_that_counts_the_rows_holds_no_dates(write):
    path = write([",Quarter,a", *(f"{row},1970 Q1,{row + 1}" for row in range(5))])
    with pytest.raises(DataError, match=f"{NO_DATES}; found Quarter, a; rename the column of dates"):
        read_csv(path)


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


def test_reads_a_compressed_file(tmp_path, write):
    plain = write(["date,a", "2020-01-01,1", "2020-01-02,2"])
    packed = tmp_path / "closes.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_csv(packed).values, read_csv(plain).values)


def test_refuses_a_missing_file_and_says_what_else_may_stand_there(tmp_path):
    with pytest.raises(DataError, match=r"closs\.csv: no such file; give task.data a CSV of closes, bundled"):
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


# ---- what people's files look like


def quietly(write, content, kind="prices", only=None):
    """Read and return the table and what was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = read_csv(write(content), kind, only)
    return read, [str(one.message) for one in caught]


PLAIN = ["date,a,b", "2020-01-01,1234.5,2", "2020-01-02,,3.25", "2020-01-14,7,4"]
OTHERWISE = {  # other ways to write the same, and what is told of them
    "semicolons": (["date;a;b", "2020-01-01;1234.5;2", "2020-01-02;;3.25", "2020-01-14;7;4"], None),
    "tabs": (["date\ta\tb", "2020-01-01\t1234.5\t2", "2020-01-02\t\t3.25", "2020-01-14\t7\t4"], None),
    "decimal comma": (
        ["date;a;b", "2020-01-01;1234,5;2", "2020-01-02;;3,25", "2020-01-14;7;4"],
        "commas as decimal commas",
    ),
    "decimal comma, points": (
        ["date;a;b", "2020-01-01;1.234,5;2", "2020-01-02;;3,25", "2020-01-14;7;4"],
        "points as thousands separators, commas as decimal commas",
    ),
    "thousands": (
        ["date,a,b", '2020-01-01,"1,234.5",2', "2020-01-02,,3.25", "2020-01-14,7,4"],
        "commas as thousands separators",
    ),
    "thousands, semicolons": (
        ["date;a;b", "2020-01-01;1,234.5;2", "2020-01-02;;3.25", "2020-01-14;7;4"],
        "commas as thousands separators",
    ),
    **{
        f"blank {word}": (
            ["date,a,b", "2020-01-01,1234.5,2", f"2020-01-02,{word},3.25", "2020-01-14,7,4"],
            f"{word!r} in 1 cell as blank",
        )
        for word in ("n/a", "NA", "-", ".", "#N/A", "null")
    },
    "blank among decimal commas": (
        ["date;a;b", "2020-01-01;1234,5;2", "2020-01-02;.;3,25", "2020-01-14;7;4"],
        "commas as decimal commas; '.' in 1 cell as blank",
    ),
    "slashes": (
        ["date,a,b", "1/1/2020,1234.5,2", "2/1/2020,,3.25", "14/1/2020,7,4"],
        "dates as day, month, year",
    ),
    "American": (
        ["date,a,b", "01/01/2020,1234.5,2", "01/02/2020,,3.25", "01/14/2020,7,4"],
        "dates as month, day, year",
    ),
    "points": (
        ["date,a,b", "01.01.2020,1234.5,2", "02.01.2020,,3.25", "14.01.2020 00:00:00,7,4"],
        "dates as day, month, year",
    ),
    "year first": (
        ["date,a,b", "2020/1/1,1234.5,2", "2020/1/2,,3.25", "2020/1/14,7,4"],
        "dates as year, month, day",
    ),
    "midnight": (["date,a,b", "2020-01-01 00:00,1234.5,2", "2020-01-02T00:00:00,,3.25", "20200114,7,4"], None),
    "midnight in New York": (
        ["date,a,b", "2020-01-01 00:00-05:00,1234.5,2", "2020-01-02 00:00-05:00,,3.25", "2020-01-14 00:00-05:00,7,4"],
        None,
    ),
    **{name: ([f"{name},a,b", *PLAIN[1:]], None) for name in ("Date", "datetime", "TIMESTAMP", "Time")},
    "no name": ([",a,b", *PLAIN[1:]], "the first column, which has no name, as dates"),
    "counted": (
        [",date,a,b", *(f"{row},{line}" for row, line in enumerate(PLAIN[1:]))],
        "without the first column, which has no name and counts the rows",
    ),
}


@pytest.mark.parametrize("way", OTHERWISE)
def test_what_is_written_otherwise_is_read_alike_and_every_guess_is_told(write, way):
    content, told = OTHERWISE[way]
    plain, nothing = quietly(write, PLAIN)
    read, said = quietly(write, content)
    assert nothing == []
    assert said == ([] if told is None else [f"closes.csv: read {told}"])
    assert read.notes == (() if told is None else tuple(told.split("; ")))
    assert (read.dates, read.names) == (plain.dates, plain.names)
    np.testing.assert_array_equal(read.values, plain.values)
    assert type(read.dates[0]) is datetime.date


DOUBTS = {
    "day or month": (
        ["date,a", "01/02/2020,1", "02/02/2020,2"],
        "column date: 01/02/2020 could be day, month, year or month, day, year, and no row shows which; write "
        "dates such as 2024-12-31",
    ),
    "decimal comma or thousands": (
        ["date;a", "2020-01-01;1,234", "2020-01-02;2,345"],
        ": the comma of 1,234 could be a decimal comma or a thousands separator, and no cell shows which",
    ),
    "both marks as decimal": (
        ["date;a", "2020-01-01;1,5", "2020-01-02;2.5"],
        ": numbers with a comma, such as 1,5, beside numbers with a point, such as 2.5",
    ),
    "separators": (["date;x,date", "2020-01-01;1,2020-01-01"], "row 1: ',' and ';' could both separate the columns"),
    "two-digit years": (["date,a", "31/12/20,1", "01/01/21,2"], "row 2, column date: '31/12/20' is not a date"),
    "one reading fails later": (
        ["date,a", "31/12/2020,1", "01/13/2021,2"],
        "row 3, column date: '01/13/2021' is not a date such as 2024-12-31",
    ),
    "a summer hour that is repeated": (
        ["date,a", "2020-10-25 01:00,1", "2020-10-25 02:00,2", "2020-10-25 02:00,3"],
        "row 4, column date: 2020-10-25 02:00 is repeated",
    ),
    "newest first": (
        ["date,a", "2020-01-02,1", "2020-01-01,2"],
        "row 3, column date: 2020-01-01 comes after 2020-01-02; sort the rows by date",
    ),
    "no name twice": ([",date,", "x,2020-01-01,1"], "row 1, column 1: the name is empty"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_doubt_is_refused_with_what_to_do(write, doubt):
    content, words = DOUBTS[doubt]
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_three_decimals_with_a_comma_are_no_doubt_where_a_cell_decides(write):
    read, told = quietly(write, ["date;a", "2020-01-01;0,123", "2020-01-02;1,234"])
    np.testing.assert_array_equal(read.values[:, 0], [0.123, 1.234])
    assert told == ["closes.csv: read commas as decimal commas"]


def test_rows_with_a_time_of_day_have_datetimes(write):
    read, told = quietly(write, ["timestamp,a", "2020-01-01 09:30,1", "2020-01-01 10:00:00,2", "2020-01-02T00:00,3"])
    assert told == []
    assert [day.isoformat(" ") for day in read.dates] == [
        "2020-01-01 09:30:00",
        "2020-01-01 10:00:00",
        "2020-01-02 00:00:00",
    ]


def test_times_with_a_zone_are_ordered_by_it(write):
    """The clocks go back: two o'clock comes twice, and the zone tells which is first."""
    rows = ["date,a", "2020-10-25 02:00+02:00,1", "2020-10-25 02:00+01:00,2", "2020-10-25 03:00+01:00,3"]
    read, _ = quietly(write, rows)
    assert [day.utcoffset() for day in read.dates] == [datetime.timedelta(hours=hours) for hours in (2, 1, 1)]
    with pytest.raises(DataError, match="comes after"):
        read_csv(write([rows[0], rows[2], rows[1]]))


@pytest.mark.parametrize("kind", ["returns", "levels"])
def test_returns_and_levels_may_be_zero_and_negative(write, kind):
    read, _ = quietly(write, ["date,a", "2020-01-01,-0.5", "2020-01-02,0", "2020-01-03,1e-3"], kind)
    assert read.kind == kind
    np.testing.assert_array_equal(read.values[:, 0], [-0.5, 0, 1e-3])
    with pytest.raises(DataError, match="row 2, column a: a value must be finite, got inf"):
        read_csv(write(["date,a", "2020-01-01,inf"]), kind)


def test_returns_that_never_fall_are_doubted(write):
    content = ["date,a,b", *(f"{day(i)},{100 + i},{(-1) ** i}" for i in range(40))]
    _, told = quietly(write, content, "returns")
    assert told == [
        "closes.csv: every value of a is above 0, like prices; task.values=returns uses the values unchanged, "
        "task.values=prices computes returns"
    ]
    assert quietly(write, [line.replace(",-1", ",1") for line in content], "levels")[1] == []


def test_a_models_series_are_read_in_its_order_and_the_rest_is_left_out(write):
    content = ["date,c,b,Volume,a", "2020-01-01,3,2,1.5M,1", "2020-01-02,30,20,n/a,10"]
    read, told = quietly(write, content, only=["a", "b", "c"])
    assert read.names == ["a", "b", "c"]
    np.testing.assert_array_equal(read.values, [[1, 2, 3], [10, 20, 30]])
    assert told == ["closes.csv: ignored Volume, which the model does not read"]  # not even its cells are looked at
    with pytest.raises(DataError) as caught:
        read_csv(write(content), only=["a", "x", "b", "y"])
    assert str(caught.value).startswith(
        "closes.csv: x, y missing; its columns are c, b, Volume, a; the model was fitted"
    )


@given(
    st.lists(st.floats(1e-6, 1e9), min_size=2, max_size=20),
    st.sampled_from(";\t"),
    st.booleans(),
    st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y/%m/%d"]),
)
def test_numbers_and_dates_survive_any_of_the_ways(tmp_path_factory, numbers, separator, comma, form):
    """What is read is what was written, or it is refused: never another number."""
    path = tmp_path_factory.mktemp("ways") / "closes.csv"
    texts = [repr(number).replace(".", "," if comma else ".") for number in numbers]
    dates = [datetime.date(2024, 2, 12) + datetime.timedelta(days=i) for i in range(len(texts))]
    rows = [f"{date.strftime(form)}{separator}{text}" for date, text in zip(dates, texts, strict=True)]
    path.write_text("\n".join([f"date{separator}a", *rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = read_csv(path)
        except DataError as error:
            read, words = None, str(error)
    if read is None:
        assert "no cell shows which" in words or "no row shows which" in words
        return
    assert read.values[:, 0].tolist() == numbers
    assert read.dates == dates
