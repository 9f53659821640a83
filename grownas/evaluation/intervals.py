"""Prediction intervals of a backtest: before each row, from the errors before it."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from grownas.evaluation import conformal

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]


def adaptive(past: Array, errors: Array, coverage: float, *, joint: bool = False) -> Array:
    """Return half the width of an adaptive conformal interval at each row, scaled by volatility.

    Args:
        past: errors before the first interval, of rows that the model had not learned, shape `(m, O)`.
        errors: errors in the order of time, shape `(n, O)`.
        coverage: share of the rows that the intervals hold in the long run.
        joint: whether all series of a row are within their intervals in this share of the rows, not each by itself.

    Returns:
        Shape `(n, O)`: row t depends on `past` and on the errors before row t; 0 for an empty interval, and infinity
        where no finite interval is wide enough.

    Reference:
        Gibbs & Candes (2021), Adaptive Conformal Inference Under Distribution Shift.
    """
    known, first = np.concatenate([past, errors]), len(past)
    scale = conformal.volatility(known, typical=(past**2).mean(axis=0))[:-1]
    scores = np.abs(known) / scale
    if joint:
        scores = scores.max(axis=1, keepdims=True)
    found = [conformal.adaptive(one[:first], one[first:], coverage=coverage).bounds for one in scores.T]
    half: Array = np.maximum(np.stack(found, axis=1), 0) * scale[first:]
    return half


def gaussian(past: Array, errors: Array, coverage: float) -> Array:
    """Return half the width of a Gaussian interval at each row: a normal quantile of the root mean square so far.

    Arguments and shapes as of `adaptive`.
    """
    squares = np.concatenate([past, errors[:-1]]) ** 2
    means = squares.cumsum(axis=0) / np.arange(1, len(squares) + 1)[:, None]
    half: Array = -NormalDist().inv_cdf((1 - coverage) / 2) * np.sqrt(means[len(past) - 1 :])
    return half


class Intervals(NamedTuple):
    """The intervals of one model in a backtest.

    Attributes:
        half: half the width of each series' interval, shape `(n, O)`; see `adaptive`.
        summary: entry of `backtest.json`: coverages as shares of all rows, widths in units of standardised series.
    """

    half: Array
    summary: Tree

    @classmethod
    def of(cls, past: Array, errors: Array, coverage: float) -> Intervals:
        """Form the intervals of a model from its errors; arguments as of `adaptive`."""
        half, normal = adaptive(past, errors, coverage), gaussian(past, errors, coverage)
        together, held = adaptive(past, errors, coverage, joint=True), _held(errors, half)
        summary = {
            "coverages": held.mean(axis=0).tolist(),
            "coverage": float(held.mean()),
            "width": _width(half),
            "joint_coverage": float(_held(errors, together).all(axis=1).mean()),
            "joint_width": _width(together),
            "gaussian_coverage": float(_held(errors, normal).mean()),
            "gaussian_width": _width(normal),
            "unbounded": float(np.isinf(half).mean()),
        }
        return cls(half, summary)


def _held(errors: Array, half: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.abs(errors) <= half


def _width(half: Array) -> float | None:
    """Return the mean width of the intervals that have an end; None if there are none."""
    finite = half[np.isfinite(half)]
    return 2 * float(finite.mean()) if len(finite) else None
