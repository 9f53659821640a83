"""What users of the forecaster pass and get: values in their own units, with their own index."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np

from grownas.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, np.dtype[np.float64]]
Kind = Literal["returns", "levels", "prices"]
FIRST_DAY = "2000-01-01"  # the date of row 0 in the run, if the index has no dates
UNNAMED = "y"  # the name in the run of a series that has none


class Units(NamedTuple):
    """How a kind of values becomes returns and back.

    Attributes:
        differenced: whether a return is a change between two rows, so that the first row has none.
        forward: maps values, shape `(n, I)`, to values whose changes are the returns.
        back: the inverse of `forward`.
    """

    differenced: bool
    forward: Callable[[Array], Array]
    back: Callable[[Array], Array]


def _same(values: Array) -> Array:
    return values


UNITS: dict[Kind, Units] = {
    "returns": Units(False, _same, _same),
    "levels": Units(True, _same, _same),
    "prices": Units(True, np.log, np.exp),
}


def units_of(kind: str) -> Units:
    """Return the units of a kind of values.

    Raises:
        DataError: the kind is unknown.
    """
    if not isinstance(kind, str) or kind not in UNITS:
        raise DataError(f"values={kind!r}: expected {', '.join(get_args(Kind))}")
    return UNITS[kind]


def as_frame(y: Any, what: str = "y") -> pd.DataFrame:
    """Return a series, data frame or array as a data frame of float64 with column names as text.

    Args:
        y: the series, data frame or array.
        what: the argument that gave it, with which messages begin.

    Raises:
        DataError: another type, a value that is missing or not a number, or a name that occurs twice.
    """
    import pandas as pd

    if isinstance(y, np.ndarray) and y.ndim in (1, 2):
        frame = pd.DataFrame(y)
    elif isinstance(y, pd.Series):
        frame = y.to_frame(UNNAMED if y.name is None else y.name)
    elif isinstance(y, pd.DataFrame):
        frame = y.copy()
    else:
        raise DataError(
            f"{what}: got {type(y).__name__}, expected a pandas Series or DataFrame, or an array of 1 or 2 axes"
        )
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if "" in frame.columns:
        raise DataError(f"{what}: a column has an empty name; give each series a name")
    if "date" in frame.columns:
        raise DataError(
            f"{what}: column 'date' is taken as the dates of the rows; make it the index: {what}.set_index('date')"
        )
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise DataError(f"{what}: column {twice[0]!r} occurs more than once; give each series its own name")
    try:
        frame = frame.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: a value is not a number: {error}; expected numbers only") from error
    if wrong := frame.columns[~np.isfinite(frame.to_numpy()).all(axis=0)].tolist():
        raise DataError(
            f"{what}: missing or infinite values in {', '.join(wrong)}; fill or remove them, for example with "
            f"{what}.ffill().dropna()"
        )
    if not frame.index.is_monotonic_increasing or frame.index.has_duplicates:
        raise DataError(f"{what}: its index is not strictly ascending; sort the rows and remove repeated labels")
    return frame


def to_returns(frame: pd.DataFrame, kind: Kind) -> Array:
    """Return the returns of values, shape `(n, I)`, or `(n - 1, I)` if a return is a change.

    Raises:
        DataError: a price is not above 0.
    """
    values, units = frame.to_numpy(), UNITS[kind]
    if kind == "prices" and not (values > 0).all():
        row, column = (int(place[0]) for place in np.nonzero(values <= 0))
        raise DataError(
            f"y: {frame.columns[column]} is {values[row, column]:g} at {frame.index[row]}, but a price is above 0; "
            "for values that may be negative set values='levels' or values='returns'"
        )
    forward = units.forward(values)
    return np.diff(forward, axis=0) if units.differenced else forward


def path_of(returns: Array, kind: Kind) -> Array:
    """Return what is known about values at several steps ahead, before the last value is added.

    Args:
        returns: returns of consecutive steps, shape `(..., h, I)`.
        kind: kind of the values.

    Returns:
        The sums of the returns up to each step if returns are changes, else the returns; the same shape.
    """
    summed: Array = np.cumsum(returns, axis=-2)
    return summed if UNITS[kind].differenced else returns


def from_path(path: Array, last: Array, kind: Kind) -> Array:
    """Return values in their own units from `path_of`, shape `(..., I)`, and the last known values, shape `(I,)`.

    A price forecast is the last price times the exponential of the summed forecast log returns, without a correction
    for its variance.
    """
    units = UNITS[kind]
    return units.back(units.forward(last) + path) if units.differenced else path


def dated(index: pd.Index[Any], returns: Array, names: Iterable[str]) -> pd.DataFrame:
    """Return the returns of the last rows of an index as a data frame with dates, as a run reads it.

    The dates are the index's own, the start of its periods, or days counted from `FIRST_DAY`.

    Args:
        index: labels of all known rows, at least as many as returns.
        returns: shape `(n, I)`.
        names: names of the columns.

    Raises:
        DataError: the index holds neither dates, periods nor whole numbers.
    """
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        dates = index.to_timestamp()
    elif isinstance(index, pd.DatetimeIndex):
        dates = index
    elif pd.api.types.is_integer_dtype(index):
        dates = pd.date_range(FIRST_DAY, periods=len(index), unit="s")
    else:
        raise DataError(
            f"y: its index holds {index.dtype}, expected dates, periods or whole numbers; for text such as 2024-12-31 "
            "set y.index = pandas.to_datetime(y.index)"
        )
    return pd.DataFrame(returns, index=dates[len(index) - len(returns) :].rename(None), columns=list(names))


def inputs_of(X: Any, index: pd.Index[Any], names: Collection[Any]) -> pd.DataFrame:
    """Return the rows of exogenous series X for the rows of y, as a data frame of float64.

    Args:
        X: a Series or DataFrame whose index has all labels of y, or an array with as many rows as y. Only these rows
            are checked.
        index: labels of the rows of y.
        names: names of the columns of y.

    Raises:
        DataError: X lacks a row, a value is missing or not a number, or a column has the name of a column of y.
    """
    frame = as_frame(rows_at(X, index) if hasattr(X, "loc") else X, "X")
    if isinstance(X, np.ndarray):
        if len(frame) != len(index):
            raise DataError(f"X: {len(frame)} rows, expected {len(index)}, for {index[0]} to {index[-1]}")
        frame = frame.set_axis(index).rename(columns=lambda name: f"X{name}")
    if both := [name for name in frame.columns if name in names]:
        raise DataError(f"X: {both[0]!r} is also the name of a column of y; rename it")
    return frame


def rows_at(X: Any, index: pd.Index[Any]) -> Any:
    """Return the rows of a Series or DataFrame X with these labels of y.

    Raises:
        DataError: a row is missing, or the index of X is of another kind.
    """
    if not len(index):
        return X.iloc[:0]
    if not len(X):
        raise DataError(f"X: it has no rows, but row {index[0]} is needed")
    check_continues(X.index, index, "X", "y")
    if len(missing := index.difference(X.index)):
        raise DataError(f"X: no row {missing[0]}, which is needed; X has the rows {X.index[0]} to {X.index[-1]}")
    return X.loc[index]


def steps_of(fh: Any) -> list[int]:
    """Return a horizon, a whole number or several, as a list.

    Raises:
        DataError: a step is not a whole number of 1 or more.
    """
    try:
        steps = [operator.index(one) for one in np.atleast_1d(np.asarray(fh)).tolist()]
    except (TypeError, ValueError):
        steps = []
    if not steps or min(steps) < 1:
        raise DataError(f"fh={fh!r}: expected steps ahead, whole numbers of 1 or more")
    return steps


def labels_after(
    index: pd.Index[Any],
    steps: int,
    following: Callable[[Sequence[datetime.date], int], Sequence[datetime.date]],
) -> pd.Index[Any]:
    """Return the labels of the next rows.

    Args:
        index: dates, periods or whole numbers; the labels of the known rows.
        steps: number of rows.
        following: predicts the next dates from dates without a regular frequency, such as trading days.
    """
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1], periods=steps + 1, name=index.name)[1:]
    if isinstance(index, pd.DatetimeIndex):
        freq = index.freq or (pd.DatetimeIndex(index, freq="infer").freq if len(index) > 2 else None)
        if freq is not None:
            return pd.date_range(index[-1], periods=steps + 1, freq=freq, name=index.name)[1:]
        dates = map(str, following(index.to_pydatetime().tolist(), steps))
        return stamps(dates, index.tz).rename(index.name).as_unit(index.unit)
    gaps = np.unique(np.diff(index.to_numpy()))
    step = int(gaps[0]) if len(gaps) == 1 else 1
    return pd.RangeIndex(index[-1] + step, index[-1] + step * (steps + 1), step, name=index.name)


def stamps(dates: Iterable[str], zone: str | datetime.tzinfo | None) -> pd.DatetimeIndex:
    """Return ISO dates as pandas' time stamps.

    Args:
        dates: days, or times with or without an offset from UTC.
        zone: time zone to which times are converted; days become its midnights. None: none, or the offset that all
            times have, or UTC if their offsets differ.
    """
    import pandas as pd

    found = [pd.Timestamp(date) for date in dates]
    if zone is None:
        differ = len({one.utcoffset() for one in found}) > 1
        return pd.to_datetime(found, utc=True) if differ else pd.DatetimeIndex(found)
    if found[0].tz is None:  # a midnight that comes twice is the first, one that the clocks skip the time after the gap
        found = [one.tz_localize(zone, ambiguous=True, nonexistent="shift_forward") for one in found]
    return pd.DatetimeIndex([one.tz_convert(zone) for one in found])


class Form(NamedTuple):
    """The type of y, in which forecasts are returned.

    Attributes:
        kind: `series`, `frame`, or `array` with its number of axes.
        labels: names of the columns as the user gave them.
        name: name of a series.
    """

    kind: Literal["series", "frame", "array1", "array2"]
    labels: list[Any]
    name: Any = None

    @classmethod
    def of(cls, y: Any) -> Form:
        """Return the form of y."""
        if isinstance(y, np.ndarray):
            return cls("array1" if y.ndim == 1 else "array2", list(range(y.shape[1] if y.ndim == 2 else 1)))
        if y.ndim == 1:
            return cls("series", [0 if y.name is None else y.name], y.name)
        return cls("frame", list(y.columns))

    def shape(self, values: Array, index: pd.Index[Any]) -> Any:
        """Return forecasts, shape `(k, I)`, in this form."""
        import pandas as pd

        if self.kind == "series":
            return pd.Series(values[:, 0], index=index, name=self.name)
        if self.kind == "frame":
            return pd.DataFrame(values, index=index, columns=pd.Index(self.labels))
        return values[:, 0] if self.kind == "array1" else values

    @property
    def is_array(self) -> bool:
        """Whether y was an array, whose rows are only counted."""
        return self.kind.startswith("array")


def wide(values: Array, index: pd.Index[Any], names: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Return a data frame with several levels of column names."""
    import pandas as pd

    return pd.DataFrame(values, index=index, columns=pd.MultiIndex.from_tuples(names))


def check_continues(index: pd.Index[Any], known: pd.Index[Any], what: str = "y", of: str = "fit") -> None:
    """Check that labels can be compared with those of the known rows.

    Args:
        index: the labels.
        known: labels of the known rows.
        what: the argument that has the labels, with which the message begins.
        of: what has the known rows, for the message.

    Raises:
        DataError: they are of another kind, or have another time zone or frequency.
    """
    import pandas as pd

    if isinstance(index, pd.DatetimeIndex) and isinstance(known, pd.DatetimeIndex):
        same = str(index.tz) == str(known.tz)  # units of time may differ
    else:
        are_whole = all(pd.api.types.is_integer_dtype(one) for one in (index, known))
        same = are_whole or index.dtype == known.dtype
    if not same:
        raise DataError(
            f"{what}: its index holds {index.dtype}, that of {of} {known.dtype}; convert it to the same kind"
        )


def index_to_numbers(index: pd.Index[Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an index as whole numbers and plain values, for files."""
    import pandas as pd

    about: dict[str, Any] = {"name": index.name}
    if isinstance(index, pd.DatetimeIndex):
        zone = None if index.tz is None else str(index.tz)
        return index.asi8, {**about, "kind": "dates", "unit": index.unit, "zone": zone, "freq": index.freqstr}
    if isinstance(index, pd.PeriodIndex):
        return index.asi8, {**about, "kind": "periods", "freq": index.freqstr}
    numbers = np.asarray(index, dtype=np.int64)
    step = index.step if isinstance(index, pd.RangeIndex) else None
    return numbers, {**about, "kind": "numbers", "step": step}


def index_from_numbers(numbers: np.ndarray, about: dict[str, Any]) -> pd.Index[Any]:
    """Return the index of `index_to_numbers`.

    Raises:
        KeyError: a value is missing.
        ValueError: a value is unknown.
    """
    import pandas as pd

    name, period_index = about["name"], cast(Any, pd.PeriodIndex)  # the stubs lack `from_ordinals`
    if about["kind"] == "dates":
        dates = pd.DatetimeIndex(numbers.astype(f"M8[{about['unit']}]"), name=name)
        dates = dates if about["zone"] is None else dates.tz_localize("UTC").tz_convert(about["zone"])
        return pd.DatetimeIndex(dates, freq=about["freq"])
    if about["kind"] == "periods":
        return cast("pd.Index[Any]", period_index.from_ordinals(numbers, freq=about["freq"], name=name))
    if about["kind"] != "numbers":
        raise ValueError(f"unknown kind of index {about['kind']!r}")
    if about["step"] is not None:
        return pd.RangeIndex(int(numbers[0]), int(numbers[-1]) + about["step"], about["step"], name=name)
    return cast("pd.Index[Any]", pd.Index(numbers, name=name))
