"""Predicts the date of the next row from the dates of the past rows: daily, weekly, monthly or intraday."""

from __future__ import annotations

import calendar
import datetime
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from grownas.tasks.index_returns.zones import placed, zone_named

Moment = datetime.date  # a day, or its subclass `datetime` if rows have a time of day
Time = datetime.datetime

WEEKS = 26  # number of recent weeks with rows from which weekdays and hours are learned
MOST_ROWS = 20_000  # most rows of these weeks
RECENT = 24  # number of recent steps from which gaps and months are learned
SLOT_SHARE = 0.25  # least share of weeks in which a weekday and hour must occur to be expected again
LEAST_WEEKS, LEAST_STEPS = 3, 6
LEAST_HITS = 0.8  # least share of past steps that a rule must predict; holidays are misses
MONTH = 365.25 / 12  # days
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORKDAYS = range(5)
DAY = datetime.timedelta(days=1)


class Step(NamedTuple):
    """The date of the next row.

    Attributes:
        when: the date, of the same type as the past dates and in their time zone.
        frequency: the frequency as text, such as `Monday to Friday`.
        doubt: why the date is uncertain, as text; empty if it is certain.
    """

    when: Moment
    frequency: str
    doubt: str


class _Rule(NamedTuple):
    """A rule that predicts the time of the next row from the time of the last, and the times used to test it."""

    words: str
    next: Callable[[Time], Time]
    sample: Sequence[Time]
    doubt: str = ""

    def hits(self) -> float:
        """Return the share of past steps that the rule predicts."""
        steps = list(pairwise(self.sample))
        return sum(self.next(one) == other for one, other in steps) / max(1, len(steps))


def next_step(dates: Sequence[Moment], before: Iterable[Moment] = (), zone: str | None = None) -> Step:
    """Predict the date of the row after the last.

    Several rules are tried on the past rows (days and hours of the week, months, a fixed gap); the rule that predicts
    most of the past steps is used. Holidays are unknown. Times are local times, so daylight saving time does not shift
    them.

    Args:
        dates: dates of the rows, ascending, at least one.
        before: dates of earlier rows of the same series, if known; dates from the first of `dates` on are ignored.
        zone: name of the time zone of the dates; None: the offset of the last date is kept.
    """
    last = dates[-1]
    alike = [day for day in before if _form(day) == _form(last)]
    times = [_clock(day) for day in [*(day for day in alike if day < dates[0]), *dates]]
    rules = [rule for make in (_weekly, _short, _monthly, _fixed_gap) for rule in make(times)]
    hits = [rule.hits() for rule in rules]
    best = max(range(len(rules)), key=lambda i: hits[i])  # ties: the first rule
    rule, steps = rules[best], len(rules[best].sample) - 1
    doubt = rule.doubt
    if steps < LEAST_STEPS:
        doubt = f"the frequency is derived from only {steps + 1} row{'s' * (steps > 0)}"
    elif hits[best] < LEAST_HITS:
        doubt = f"the dates are irregular: {rule.words} predicts {hits[best]:.0%} of the last {steps} steps"
    when = rule.next(times[-1])
    if isinstance(last, Time):
        when = when.replace(tzinfo=last.tzinfo) if zone is None else placed(when, zone_named(zone))
        return Step(when, rule.words, doubt)
    return Step(when.date(), rule.words, doubt)


def frequencies_apart(dates: Sequence[Moment], before: Sequence[Moment]) -> tuple[str, str] | None:
    """Return the frequencies of rows and of earlier rows as text, if one median gap is at least 1.5 times the other.

    None if the gaps differ less, or if there are too few rows.
    """
    if min(len(dates), len(before)) <= LEAST_STEPS:
        return None
    here, there = (median((later - earlier) / DAY for earlier, later in pairwise(each)) for each in (dates, before))
    if max(here, there) < 1.5 * min(here, there):
        return None
    return next_step(dates).frequency, next_step(before).frequency


def _form(day: Moment) -> tuple[bool, bool]:
    """Return whether a date has a time of day and a time zone; only dates with equal answers can be compared."""
    return isinstance(day, Time), isinstance(day, Time) and day.tzinfo is not None


def _clock(day: Moment) -> Time:
    """Return the local date and time without time zone."""
    if isinstance(day, Time):
        return day.replace(tzinfo=None)
    return Time(day.year, day.month, day.day)


def _week(time: Time) -> Time:
    """Return Monday, 0:00, of the week of a time."""
    return Time(time.year, time.month, time.day) - time.weekday() * DAY


def _weekly(times: Sequence[Time]) -> list[_Rule]:
    """Return the rule for recurring days and hours of the week, if there are enough weeks to learn them."""
    weeks = sorted({_week(time) for time in times})[-WEEKS:]
    recent = [time for time in times[-MOST_ROWS:] if time >= weeks[0]]
    counts = Counter(time - _week(time) for time in recent)
    slots = sorted(slot for slot, count in counts.items() if count >= max(2, SLOT_SHARE * len(weeks)))
    if len(weeks) < LEAST_WEEKS or not slots:
        return []

    def after(time: Time) -> Time:
        place = bisect_right(slots, time - _week(time))
        return _week(time) + slots[place] if place < len(slots) else _week(time) + 7 * DAY + slots[0]

    return [_Rule(_in_words(sorted({slot.days for slot in slots}), recent), after, recent)]


def _short(times: Sequence[Time]) -> list[_Rule]:
    """Return the rule for recurring hours on workdays (all days if a weekend has rows), for data of a few weeks.

    There is none for rows of a single day, in which no hour recurs.
    """
    if len({_week(time) for time in times}) >= LEAST_WEEKS or times[0].date() == times[-1].date():
        return []
    days = WORKDAYS if all(time.weekday() in WORKDAYS for time in times) else range(7)
    counts, first = Counter(time.time() for time in times), times[0].date()
    hours = sorted(hour for hour, count in counts.items() if count >= max(counts.values()) / 2)

    def after(time: Time) -> Time:
        place = bisect_right(hours, time.time())
        if place < len(hours) and time.weekday() in days:
            return Time.combine(time, hours[place])
        day = time + DAY
        while day.weekday() not in days:
            day += DAY
        return Time.combine(day, hours[0])

    has_weekend = any((first + i * DAY).weekday() == 5 for i in range((times[-1].date() - first).days))
    doubt = "" if has_weekend else "the rows span no weekend, so trading on weekends is unknown"
    return [_Rule(_in_words(list(days), times), after, times, doubt)]


def _monthly(times: Sequence[Time]) -> list[_Rule]:
    """Return the rules for a day of the month that recurs each month, quarter or year."""
    recent = times[-RECENT - 1 :]
    gaps = [(later - earlier) / DAY for earlier, later in pairwise(recent)]
    months = round(median(gaps) / MONTH) if gaps else 0
    if months < 1 or median(gaps) < 27:
        return []
    highest = max(time.day for time in recent)
    often = "monthly" if months == 1 else "yearly" if months == 12 else f"every {months} months"

    def rule(words: str, choose: Callable[[datetime.date], datetime.date]) -> _Rule:
        def after(time: Time) -> Time:
            number = 12 * time.year + time.month - 1 + months
            return Time.combine(choose(datetime.date(number // 12, number % 12 + 1, 1)), time.time())

        return _Rule(f"{often}, {words}", after, recent)

    return [
        rule("on the last day", _last_day),
        rule("on the last workday", lambda first: _workday(_last_day(first), -DAY)),
        rule("on the first workday", lambda first: _workday(first, DAY)),
        rule(f"on day {highest}", lambda first: first.replace(day=min(highest, _last_day(first).day))),
    ]


def _last_day(first: datetime.date) -> datetime.date:
    return first.replace(day=calendar.monthrange(first.year, first.month)[1])


def _workday(day: datetime.date, step: datetime.timedelta) -> datetime.date:
    while day.weekday() not in WORKDAYS:
        day += step
    return day


def _fixed_gap(times: Sequence[Time]) -> list[_Rule]:
    """Return the rule for the most common gap between rows."""
    recent = times[-RECENT - 1 :]
    gaps = Counter(later - earlier for earlier, later in pairwise(recent) if later > earlier)
    gap = max(gaps, key=lambda one: (gaps[one], -one)) if gaps else DAY
    return [_Rule(f"every {_span(gap)}", lambda time: time + gap, recent)]


def _span(gap: datetime.timedelta) -> str:
    """Return a gap as text."""
    for name, unit in (("day", DAY), ("hour", DAY / 24), ("minute", DAY / 1440)):
        if not gap % unit:
            count = gap // unit
            return name if count == 1 else f"{count} {name}s"
    return f"{gap.total_seconds():g} seconds"


def _in_words(days: Sequence[int], times: Sequence[Time]) -> str:
    """Return the days of the week as text, with the usual gap if there are several rows per day."""
    if list(days) == list(range(7)):
        words = "every day"
    elif list(days) == list(WORKDAYS):
        words = "Monday to Friday"
    else:
        words = ("weekly, " if len(days) == 1 else "") + "on " + ", ".join(WEEKDAYS[day] for day in days)
    gaps = Counter(later - earlier for earlier, later in pairwise(times) if later > earlier)
    usual = max(gaps, key=lambda one: gaps[one]) if gaps else DAY
    return words if usual >= DAY else f"every {_span(usual)}, {words.removeprefix('every day') or 'day and night'}"
