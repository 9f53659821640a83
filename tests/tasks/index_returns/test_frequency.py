"""The next row's date: of a regular calendar it is the one that comes; of an irregular one the doubt is told."""

from __future__ import annotations

import calendar
import datetime
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grownas.tasks.index_returns.frequency import frequencies_apart, next_step

DAY = datetime.timedelta(days=1)


def days(freq, count=200, start="2015-01-01"):
    return [one.date() for one in pd.date_range(start, periods=count, freq=freq)]


def times(freq, count=2000, start="2015-01-05", keep=lambda time: True, tz=None):
    return [one.to_pydatetime() for one in pd.date_range(start, periods=count, freq=freq, tz=tz) if keep(one)]


def in_session(time):
    return time.weekday() < 5 and 9 <= time.hour <= 16


def currencies(time):
    """From Sunday 17:00 to Friday 16:00."""
    return (time.weekday() < 4) or (time.weekday() == 4 and time.hour <= 16) or (time.weekday() == 6 and time.hour > 16)


CALENDARS = {
    "every day": days("D"),
    "Monday to Friday": days("B"),
    "on Monday, Tuesday, Wednesday, Thursday, Sunday": [day for day in days("D", 300) if day.weekday() not in (4, 5)],
    "on Monday, Wednesday, Friday": [day for day in days("D", 300) if day.weekday() in (0, 2, 4)],
    **{f"weekly, on {calendar.day_name[day]}": days(f"W-{calendar.day_abbr[day].upper()}") for day in range(7)},
    "every 14 days": days("14D", 60),
    "monthly, on day 1": days("MS", 60),
    "monthly, on day 15": [day.replace(day=15) for day in days("MS", 60)],
    "monthly, on the last day": days("ME", 60),
    "monthly, on the last workday": days("BME", 60),
    "monthly, on the first workday": days("BMS", 60),
    "every 3 months, on the last day": days("QE", 40),
    "yearly, on the last day": days("YE", 50, "1960-01-01"),
    "every hour, day and night": times("h"),
    "every hour, Monday to Friday": times("h", 4000, keep=in_session),
    "every 5 minutes, Monday to Friday": times("5min", 30_000, keep=in_session),
    "every hour, on Monday, Tuesday, Wednesday, Thursday, Friday, Sunday": times("h", 4000, keep=currencies),
    "Monday to Friday, at 16:00": times("24h", 300, "2015-01-05 16:00", keep=lambda time: time.weekday() < 5),
}


@pytest.mark.parametrize("words", CALENDARS)
def test_a_regular_calendar_goes_on_as_it_does(words):
    dates = CALENDARS[words]
    for end in range(len(dates) - 30, len(dates)):
        found = next_step(dates[:end])
        assert found.when == dates[end]
        assert type(found.when) is type(dates[end])
        assert found.frequency == words.removesuffix(", at 16:00")
        assert found.doubt == ""


@pytest.mark.parametrize("words", ["every day", "Monday to Friday", "every hour, Monday to Friday"])
@given(seed=st.integers(0, 99), end=st.integers(1, 30))
def test_holidays_do_not_change_what_is_expected(words, seed, end):
    dates = CALENDARS[words]
    rng = np.random.default_rng(seed)
    off = {dates[place] if type(dates[0]) is datetime.date else dates[place].date() for place in
           rng.choice(len(dates) - 40, len(dates) // 30, replace=False)}  # fmt: skip
    known = [one for one in dates[:-end] if one not in off and getattr(one, "date", lambda: None)() not in off]
    found = next_step(known)
    assert (found.when, found.doubt) == (dates[-end], "")


@given(
    st.lists(st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)), min_size=1, max_size=60, unique=True),
    st.booleans(),
)
def test_the_next_step_is_always_later_and_of_the_same_type(dates, timed):
    dates = sorted(dates)
    if timed:
        dates = [datetime.datetime(one.year, one.month, one.day, one.day % 24) for one in dates]
    found = next_step(dates)
    assert found.when > dates[-1]
    assert type(found.when) is type(dates[-1])
    assert found.frequency


def test_irregular_dates_are_doubted():
    rng = np.random.default_rng(0)
    gaps = rng.integers(1, 40, size=100).tolist()
    dates = list(itertools.accumulate(gaps, lambda day, gap: day + gap * DAY, initial=datetime.date(2020, 1, 1)))
    found = next_step(dates)
    assert "the dates are irregular" in found.doubt
    assert "of the last" in found.doubt


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (days("W-FRI", 60), days("B", 60), ("weekly, on Friday", "Monday to Friday")),
        (days("B", 60), days("W-FRI", 60), ("Monday to Friday", "weekly, on Friday")),
        (times("h"), days("B", 60), ("every hour, day and night", "Monday to Friday")),
        (days("B", 7), days("B", 60), None),
        (days("W-FRI", 60), days("W-WED", 30), None),
        (days("W-FRI", 6), days("B", 60), None),  # too few
        (days("B", 1), days("B", 60), None),
        (days("B", 60), [], None),
    ],
)
def test_rows_of_another_frequency_are_told_apart(one, other, words):
    assert frequencies_apart(one, other) == words


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (1, "the frequency is derived from only 1 row"),
        (2, "the frequency is derived from only 2 rows"),
        (6, "the frequency is derived from only 6 rows"),
    ],
)
def test_a_handful_of_rows_is_doubted(rows, words):
    found = next_step(days("B", rows))
    assert found.doubt.startswith(words)
    assert found.when == days("B", rows + 1)[-1]


def test_rows_within_a_week_say_nothing_about_its_end():
    known = times("h", 4 * 24, keep=lambda time: 9 <= time.hour <= 16)  # Monday to Thursday
    found = next_step(known)
    assert found.when == known[-1].replace(hour=9) + DAY
    assert found.doubt == "the rows span no weekend, so trading on weekends is unknown"


@pytest.mark.parametrize("words", CALENDARS)
def test_a_few_new_rows_are_read_with_those_of_the_run(words):
    dates = CALENDARS[words]
    for rows in (1, 2, 5):
        found = next_step(dates[-rows - 1 : -1], before=dates[: -rows - 3])  # a row is missing between them
        assert (found.when, found.doubt) == (dates[-1], "")


def test_rows_of_another_form_are_no_history():
    found = next_step(days("B", 2), before=times("h"))
    assert found.when == days("B", 3)[-1]
    assert found.doubt


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_time_zone_stays_and_the_clock_is_the_places(zone):
    known = [
        datetime.datetime.fromisoformat(one.isoformat())
        for one in pd.date_range("2024-01-02 10:00", "2024-03-08 16:00", freq="h", tz=zone)
        if in_session(one)
    ]
    found = next_step(known)
    assert found.when.isoformat() == f"2024-03-11T09:00:00{known[-1].isoformat()[-6:]}"  # a Monday; winter time still
    assert found.doubt == ""


@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [
        ("2024-01-02 10:00", "2024-03-08 16:00", "2024-03-11T09:00:00-04:00"),
        ("2024-09-03 10:00", "2024-11-01 16:00", "2024-11-04T09:00:00-05:00"),
    ],
)
def test_the_next_step_has_the_offset_of_its_own_day(first, last, wanted):
    """The clocks of New York change between the two rows."""
    hours = pd.date_range(first, last, freq="h", tz="America/New_York")
    known = [datetime.datetime.fromisoformat(one.isoformat()) for one in hours if in_session(one)]
    assert next_step(known, zone="America/New_York").when.isoformat() == wanted


@pytest.mark.parametrize("gap", ["500ms", "1min", "30min"])
def test_rows_of_a_single_day_go_on_with_their_gap(gap):
    known = times(gap, 21)
    found = next_step(known[:-1])
    assert found.when == known[-1]
    assert found.doubt == ""
