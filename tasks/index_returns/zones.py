"""Time zones of dates, by name: the offset from UTC that a time has in a zone."""

from __future__ import annotations

import datetime
import zoneinfo


def zone_named(name: str) -> datetime.tzinfo:
    """Return a time zone by its name, such as `Europe/Berlin` or `UTC+01:00`.

    Raises:
        ValueError: the name is unknown.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        pass
    zone = datetime.datetime.strptime(name, "UTC%z").tzinfo
    assert zone is not None
    return zone


def placed(time: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return a time as it is written in a zone, with its offset from UTC; a time without an offset is local.

    The offset is fixed, because Python compares times of one changing zone by the clock alone: where the clocks go
    back, an hour comes twice. A local time that the clocks skip becomes the time after the gap.
    """
    utc = (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(datetime.UTC)
    there = utc.astimezone(zone)
    return there.replace(tzinfo=datetime.timezone(there.utcoffset() or datetime.timedelta()))
