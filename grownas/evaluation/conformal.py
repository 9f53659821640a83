"""Prediction intervals from the errors of past forecasts: split conformal, and adaptive conformal for changing series.

Functions of arrays, for any model. A score is an absolute error divided by a volatility that was known before it, so
that the intervals are wide in turbulent times and narrow in calm times.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

DECAY = 0.94  # decay of the variance's moving average, as in RiskMetrics (1996) for daily data
TINY = 1e-300  # least variance of a series whose errors are all zero, so that scores are finite
FLOOR = 0.1  # least variance, as a share of the mean variance, so that small errors do not make an interval vanish


def volatility(errors: Array, *, typical: Array | None = None) -> Array:
    """Return the standard deviation that an exponentially weighted average of earlier squared errors predicts.

    Args:
        errors: one-step forecast errors, shape `(n, I)`.
        typical: mean squared error at which the average starts and from which its floor is computed, shape `(I,)`;
            None: that of all errors.

    Returns:
        Shape `(n + 1, I)`: row t depends on the errors before row t and on `typical`; the last row is for the step
        after the last error.
    """
    squares = errors**2
    typical = squares.mean(axis=0) if typical is None else typical
    variances = np.empty((len(errors) + 1, errors.shape[1]))
    variances[0] = typical
    for series, column in enumerate(squares.T.tolist()):  # plain numbers: ten times as fast as rows of an array
        variance = float(typical[series])
        variances[1:, series] = [variance := DECAY * variance + (1 - DECAY) * square for square in column]
    scale: Array = np.sqrt(np.maximum(variances, np.maximum(FLOOR * typical, TINY)))
    return scale


def least_scores(coverage: float) -> int:
    """Return the smallest number of scores for which an interval of this coverage is finite."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def quantile(scores: Array, coverage: float) -> Array:
    """Return the score below which a further score lies with probability `coverage` or more: split conformal.

    This holds in finite samples if the further score and the given scores are exchangeable.

    Args:
        scores: at least 0, shape `(n, ...)`; n may be 0.
        coverage: 0 <= coverage < 1.

    Returns:
        The ceil((n + 1) coverage)-th smallest score, shape `(...)`: 0 for coverage 0, and infinity if there are fewer
        than `least_scores(coverage)` scores.

    Reference:
        Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), Distribution-Free Predictive Inference for Regression,
        algorithm 2.
    """
    rank = _rank(len(scores), coverage)
    if rank <= 0:
        return np.zeros(scores.shape[1:])
    if rank > len(scores):
        return np.full(scores.shape[1:], np.inf)
    found: Array = np.sort(scores, axis=0)[rank - 1]
    return found


def _rank(count: int, coverage: float) -> int:
    return math.ceil((count + 1) * coverage - 1e-9)  # 1e-9: (99 + 1) * 0.99 is 99, whatever the last bit


class Adaptive(NamedTuple):
    """The result of adaptive conformal intervals on a sequence of scores.

    Attributes:
        bounds: largest score that each interval holds, shape `(n,)`; infinity, or -1 for an empty interval.
        missed: whether each score lies outside of its interval, shape `(n,)`, bool.
        misses: the adapted miscoverage of each step, shape `(n,)`.
    """

    bounds: Array
    missed: np.ndarray[Any, np.dtype[np.bool_]]
    misses: Array


def adapt(miss: float, missed: bool, *, target: float, rate: float) -> float:
    """Return the miscoverage for the next step: lower after a miss, so that the next interval is wider.

    Args:
        miss: the miscoverage that the last interval was computed for; may leave [0, 1].
        missed: whether the value was outside of the last interval.
        target: the miscoverage wanted in the long run, 1 - coverage.
        rate: gamma, the size of a step; larger adapts faster and varies more.

    Reference:
        Gibbs & Candes (2021), Adaptive Conformal Inference Under Distribution Shift, equation 2.
    """
    return miss + rate * (target - missed)


def adaptive(past: Array, scores: Array, *, coverage: float, ahead: int = 1, rate: float = 0.005) -> Adaptive:
    """Form an interval before each score from the scores before it, with a miscoverage that follows the misses.

    One step ahead, the share of misses is within (1 - coverage + rate) / (n rate) of 1 - coverage, or within
    (coverage + rate) / (n rate) if that is more, for any sequence of scores (their proposition 4.1).

    Args:
        past: scores before the first interval, shape `(m,)`.
        scores: scores in the order of time, shape `(n,)`, at least 0; nan for the latest, if they are not known yet.
        coverage: the coverage wanted in the long run.
        ahead: steps from a forecast to the value that it forecasts. An interval is formed, and its miscoverage is
            adapted, from the scores that are known this number of steps earlier.
        rate: see `adapt`; 0.005 is the authors' value.

    Reference:
        Gibbs & Candes (2021), Adaptive Conformal Inference Under Distribution Shift, equation 2.
    """
    values, first, target = np.concatenate([past, scores]).tolist(), len(past), 1 - coverage
    known = sorted(values[: max(0, first - ahead)])
    bounds, missed, misses = np.empty(len(scores)), np.zeros(len(scores), bool), np.empty(len(scores))
    miss = target
    for t in range(len(scores)):
        if first + t >= ahead:
            insort(known, values[first + t - ahead])
        if t >= ahead:
            miss = adapt(miss, bool(missed[t - ahead]), target=target, rate=rate)
        misses[t] = miss
        bounds[t] = _bound(known, 1 - miss)
        missed[t] = values[first + t] > bounds[t]
    return Adaptive(bounds, missed, misses)


def _bound(known: Sequence[float], coverage: float) -> float:
    """Return the quantile of ascending scores for an adapted coverage: -1, an empty interval, if it is 0 or less."""
    rank = _rank(len(known), coverage)
    if rank <= 0:
        return -1.0
    return known[rank - 1] if rank <= len(known) else math.inf
