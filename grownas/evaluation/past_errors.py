"""The errors of past forecasts at several steps ahead, and half the widths of conformal intervals from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grownas.errors import DataError
from grownas.evaluation import conformal

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class PastErrors:
    """Errors of forecasts of rows that the model had not learned from, by origin and step.

    Attributes:
        first: index of the first row that the model had not learned from, at least 1.
        summed: whether the error at a step is the sum of the errors up to it, for returns that add up to a value.
        one_step: errors of all rows but row 0, shape `(n - 1, I)`; rows that the model learned from are included,
            because they start the volatility.
        ahead: errors of the forecasts from row `first - 1` on, shape `(n - first + 1, h, I)`; nan where the row that is
            forecast is not known yet.
    """

    first: int
    summed: bool
    one_step: Array
    ahead: Array

    @classmethod
    def of(cls, forecasts: Array, actual: Array, first: int, *, summed: bool) -> PastErrors:
        """Compute the errors of a model.

        Args:
            forecasts: `[t, k]` forecasts row t + k + 1, shape `(n, h, I)`.
            actual: shape `(n, I)`.
            first: see the class.
            summed: see the class.
        """
        errors = _errors(forecasts, actual, summed)
        return cls(first, summed, errors[:-1, 0], errors[first - 1 :])

    @property
    def rows(self) -> int:
        """Number n of known rows."""
        return len(self.one_step) + 1

    @property
    def first_open(self) -> int:
        """Index of the first row whose forecasts reach beyond the known rows."""
        return max(self.first - 1, self.rows - int(self.ahead.shape[1]))

    def extended(self, forecasts: Array, actual: Array) -> PastErrors:
        """Add the errors of further rows, of a model that has not learned from them. Known errors stay as they are.

        Args:
            forecasts: forecasts from row `first_open` on.
            actual: the same rows of the actual values.
        """
        errors, known = _errors(forecasts, actual, self.summed), self.rows - self.first_open
        ahead = np.concatenate([self.ahead, np.full((len(forecasts) - known, *self.ahead.shape[1:]), np.nan)])
        latest = ahead[-len(forecasts) :]
        latest[:] = np.where(np.isnan(latest), errors, latest)
        return replace(self, one_step=np.concatenate([self.one_step, errors[known - 1 : -1, 0]]), ahead=ahead)

    def half_widths(self, step: int, coverage: float, *, joint: bool = False) -> Array:
        """Return half the width of each series' interval, for a forecast from the last row, shape `(I,)`.

        The interval is adaptive conformal: its miscoverage follows the misses of the earlier intervals for the same
        number of steps, from the first row with enough scores. After many misses half the width may be infinite.

        Args:
            step: steps ahead, from 1 to h.
            coverage: probability that the interval holds the value.
            joint: whether this is the probability that all series are within their intervals.

        Raises:
            DataError: step or coverage are out of range, or there are too few errors.
        """
        if not 0 <= coverage < 1:
            raise DataError(f"coverage={coverage:g}: expected a probability below 1")
        if step > self.ahead.shape[1]:
            raise DataError(
                f"fh={step}: intervals reach at most {self.ahead.shape[1]} steps ahead; predict has no such limit"
            )
        scale = conformal.volatility(self.one_step)  # row t: known after row t
        scores = np.abs(self.ahead[:, step - 1]) / scale[self.first - 1 :]  # nan: not known yet
        known, least = len(scores) - step, conformal.least_scores(coverage)
        if known < least:
            raise DataError(
                f"coverage={coverage:g} needs {least} or more rows that the model has not learned from, got {known} at "
                f"{step} step{'s' * (step > 1)} ahead; give more rows, lower the coverage or lower task.train"
            )
        first = least + step - 1  # the first forecast before which enough scores are known
        found = [
            conformal.adaptive(one[:first], one[first:], coverage=coverage, ahead=step).bounds[-1]
            for one in (scores.max(axis=1, keepdims=True) if joint else scores).T
        ]
        half: Array = np.maximum(found, 0) * scale[-1]
        return half


def _errors(forecasts: Array, actual: Array, summed: bool) -> Array:
    """Return actual minus forecast, shape `(m, h, I)`; nan beyond the last row."""
    steps = forecasts.shape[1]
    padded = np.concatenate([actual[1:], np.full((steps, actual.shape[1]), np.nan)])
    rows = np.lib.stride_tricks.sliding_window_view(padded, steps, axis=0).swapaxes(1, 2)  # (m, h, I)
    errors: Array = rows - forecasts
    return errors.cumsum(axis=1) if summed else errors
