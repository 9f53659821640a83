"""Time zones by name, and the clock of a time in a zone."""

from __future__ import annotations

import datetime

import pandas as pd
import pytest

from grownas.tasks.index_returns.zones import placed, zone_named

BERLIN = zone_named("Europe/Berlin")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", "UTC+05:30", "UTC-03:00"])
def test_the_name_of_pandas_names_the_same_zone(zone):
    noon = datetime.datetime(2024, 7, 1, 12)
    there = pd.Timestamp(noon).tz_localize(zone)
    assert noon.replace(tzinfo=zone_named(str(there.tz))) == there


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "UTC+1", "../etc/passwd"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(ValueError, match="does not match format"):
        zone_named(name)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("2024-07-01 12:00", "2024-07-01 12:00:00+02:00"),
        ("2024-07-01 12:00-04:00", "2024-07-01 18:00:00+02:00"),
        ("2024-10-27 01:00+00:00", "2024-10-27 02:00:00+01:00"),  # the second two o'clock of the night
        ("2024-03-31 02:30", "2024-03-31 03:30:00+02:00"),  # the clocks skip this time
    ],
)
def test_a_time_has_the_offset_of_its_place(given, wanted):
    assert str(placed(datetime.datetime.fromisoformat(given), BERLIN)) == wanted


def test_the_hour_that_comes_twice_stays_in_order():
    first, second = (placed(datetime.datetime(2024, 10, 27, hour, tzinfo=datetime.UTC), BERLIN) for hour in (0, 1))
    assert first.time() == second.time()
    assert first < second
