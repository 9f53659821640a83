"""What a CSV may look like, what is refused and why, and how closes become returns."""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import LEAST_ROWS, Table, clean, clean_moving, read_csv, still_rows

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


# ---- series that stand still. The parts: 70 % training, 15 % validation, the rest test.


def parts(rows):
    val, test = int(0.7 * rows), int(0.85 * rows)
    return {"train": slice(0, val), "val": slice(val, test), "test": slice(test, rows)}


def moving(values, **options):
    """Clean and return the panel and the warnings."""
    read = values if isinstance(values, Table) else table(values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        panel = clean_moving(read, cut=parts, **options)
    return panel, [str(one.message) for one in caught]


def still_for(rows, first=50, count=300):
    """Prices of three series of which the second stands still from row `first` on for some rows."""
    values = prices(count, 3)
    values[first : first + rows, 1] = values[first - 1, 1]
    return values


@pytest.mark.parametrize("first", [1, 50, 215, 280], ids=["beginning", "training", "across two parts", "test"])
def test_ten_rows_of_stillness_are_a_holiday_and_eleven_drop_the_series(first):
    panel, told = moving(still_for(10, first))
    assert panel.names == ["x0", "x1", "x2"]
    assert panel.report["dropped"] == told == []
    panel, told = moving(still_for(11, first))
    assert panel.names == ["x0", "x2"]
    words = f"does not move for 11 rows, {day(first)} to {day(first + 10)}"
    assert panel.report["dropped"] == [
        {"series": "x1", "rows": 11, "first": str(day(first)), "last": str(day(first + 10)), "words": words}
    ]
    assert len(told) == 1
    assert told[0].startswith(f"made: dropped x1, which {words}; correct or remove the column")
    np.testing.assert_array_equal(panel.returns, clean(table(still_for(11, first))).returns[:, [0, 2]])


def test_how_long_is_too_long_can_be_chosen():
    assert moving(still_for(25), longest_still=25)[0].names == ["x0", "x1", "x2"]
    assert moving(still_for(3), longest_still=2)[0].names == ["x0", "x2"]


def test_a_delisted_series_is_dropped_though_its_cells_are_blank():
    values = prices(300, 3)
    values[288:, 2] = np.nan  # 12 rows carried forward
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x1"]
    assert f"x2, which does not move for 12 rows, {day(288)} to {day(299)}" in told


def test_blanks_before_a_series_begins_are_no_stillness():
    values = prices(300, 3)
    values[:40, 2] = np.nan
    panel, told = moving(values)
    assert panel.names == ["x0", "x1", "x2"]
    assert not told


def test_without_a_dropped_series_the_others_begin_when_they_begin_and_are_looked_at_again():
    values = prices(400, 4)
    values[:100, 3] = np.nan  # begins on day 100, and then stands still
    values[200:220, 3] = values[199, 3]
    values[20:40, 1] = values[19, 1]  # outside of the common days as long as x3 counts
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x2"]
    assert panel.report["first_day_of_all"] == str(day(0))
    assert len(panel.returns) == panel.report["rows_used"] == 399
    assert [one["series"] for one in panel.report["dropped"]] == ["x3", "x1"]
    assert "x3, which does not move for 20 rows" in told
    assert "x1, which does not move for 20 rows" in told


@pytest.mark.parametrize(
    ("rows", "words"), [((70, 85), "validation"), ((85, 100), "test"), ((70, 100), "validation and test")]
)
def test_a_series_that_is_dead_in_a_part_is_dropped_however_short_the_part_is(rows, words):
    values = prices(101, 3)
    values[rows[0] + 1 : rows[1] + 1, 0] = values[rows[0], 0]
    panel, (told,) = moving(values, longest_still=1000)
    assert panel.names == ["x1", "x2"]
    count = rows[1] - rows[0]
    said = f"x0, which does not move in the {words} part for {count} rows, {day(rows[0] + 1)} to {day(rows[1])}"
    assert said in told


def test_values_that_only_repeat_are_still_too():
    """A range that is carried forward repeats its value: of values as they are read, zero is not the only sign."""
    values = np.random.default_rng(0).normal(size=(300, 2))
    values[51:62, 1] = values[50, 1]
    assert still_rows(values).sum(0).tolist() == [0, 11]
    assert moving(table(values, returns=True))[0].names == ["x0"]
    assert moving(table(values[:-1], returns=True), longest_still=11)[0].names == ["x0", "x1"]
    rising = prices(300, 2)
    rising[50:70, 0] = rising[49, 0] * 1.001 ** np.arange(1, 21)  # a gap that was interpolated
    assert moving(rising)[0].names == ["x1"]


def test_a_differenced_level_is_looked_at_as_it_is_forecast():
    values = np.random.default_rng(0).normal(size=(300, 3))
    values[50:70, 1] = values[49, 1]
    names = ["a", "a_range", "b_range"]
    panel, (told,) = moving(table(values, names, returns=True), difference=["ranges"])
    assert panel.names == ["a", "b_range"]
    assert panel.report["differenced"] == ["b_range"]
    assert f"a_range, which does not move for 20 rows, {day(50)} to {day(69)}" in told
    np.testing.assert_array_equal(panel.returns[:, 1], np.diff(values[:, 2]))
    assert moving(table(values, names, returns=True), difference=["a_range"])[0].report["differenced"] == []


def test_rows_that_stand_twice_are_warned_of_and_stay():
    values = np.repeat(prices(150, 2), 2, axis=0)
    panel, (told,) = moving(values)
    assert panel.names == ["x0", "x1"]
    assert panel.report["still_share"] == {"x0": pytest.approx(0.5, abs=0.01), "x1": pytest.approx(0.5, abs=0.01)}
    assert "only repeats the row before in x0 (50%), x1 (50%)" in told


@pytest.mark.parametrize("step", [5, 7])
def test_weekly_closes_are_as_good_as_daily_ones(step):
    panel, told = moving(prices(200 * step, 3)[::step])
    assert panel.names == ["x0", "x1", "x2"]
    assert not told
    assert set(panel.report["still_share"].values()) == {0}


def test_refuses_a_panel_in_which_every_series_stands_still():
    values = prices(300, 2)
    values[50:70, 0] = values[49, 0]
    values[90:130, 1] = values[89, 1]
    with pytest.raises(DataError) as caught:
        clean_moving(table(values), cut=parts)
    assert str(caught.value).startswith(
        f"made: every series stands still: x0, which does not move for 20 rows, {day(50)} to {day(69)}; "
        f"x1, which does not move for 40 rows, {day(90)} to {day(129)}; correct or remove the column"
    )


@pytest.mark.parametrize("growth", [1.0, 1.001])
def test_refuses_a_series_that_is_constant_over_the_training_part(growth):
    values = prices(300, 2)
    values[:250, 1] = 5 * growth ** np.arange(250)
    with pytest.raises(DataError, match="made: x1 constant over the training part; remove the column, or give data"):
        clean_moving(table(values), cut=parts)


def test_what_a_model_reads_stays_with_a_warning():
    values = still_for(30)
    panel, (told,) = moving(values, only=["x1", "x2"])
    assert panel.names == ["x1", "x2"]
    assert panel.report["dropped"] == []
    assert [one["series"] for one in panel.report["kept_still"]] == ["x1"]
    assert told.startswith(
        f"made: kept x1, which does not move for 30 rows, {day(50)} to {day(79)}: the model reads it"
    )


def test_the_checksum_of_a_panel_without_a_dropped_series_is_its_own():
    values = still_for(30)
    without = moving(values)[0].checksum
    assert without == clean(table(values[:, [0, 2]], ["x0", "x2"])).checksum
    assert without != moving(values, longest_still=30)[0].checksum
    of_other = moving(table(values, origin="sha256:raw"))[0].checksum
    assert of_other != moving(table(values, origin="sha256:raw"), longest_still=30)[0].checksum


@given(st.integers(1, 280), st.integers(1, 40), st.integers(1, 40))
def test_a_series_stays_exactly_if_no_run_is_too_long(first, rows, longest):
    values = still_for(rows, first)
    rows = min(rows, 300 - first)
    stays = rows <= longest and rows < 45  # the shortest part has 45 rows
    assert ("x1" in moving(values, longest_still=longest)[0].names) == stays
