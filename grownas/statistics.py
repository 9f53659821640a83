"""Tests of equal forecast accuracy on losses by step: days, or blocks of a text. Heavy libraries are imported late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

EQUAL = 1e-5  # share of the largest loss: closer than float32 tells two ways of computing the same forecast apart
REPLICATIONS = 1000  # of the model confidence set's bootstrap


class NeweyWest(NamedTuple):
    """A mean, its standard error and their ratio."""

    mean: float
    error: float
    t: float


def newey_west_t(differences: Array) -> NeweyWest:
    """Return a series' mean, its standard error that allows for autocorrelation, and t = mean / error.

    Bartlett weights over floor(4 (n / 100)^(2/9)) lags, as `statsmodels` does without its small-sample correction.
    A constant series has error 0: t is then 0 if the mean is 0 too, else infinite with the mean's sign.

    Args:
        differences: shape `(n,)`, n >= 2, for example of two models' losses at each step.

    Reference:
        Newey & West (1987), A Simple, Positive Semi-definite, Heteroskedasticity and Autocorrelation Consistent
        Covariance Matrix; the number of lags is from Newey & West (1994).
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 differences, got {n}")
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return NeweyWest(mean, 0.0, math.copysign(math.inf, mean) if mean else 0.0)
    centred = differences - mean
    lags = min(math.floor(4 * (n / 100) ** (2 / 9)), n - 1)
    total = float(centred @ centred)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    error = math.sqrt(max(total, 0.0)) / n  # Bartlett weights keep the total above 0 but for rounding
    return NeweyWest(mean, error, mean / error if error else math.copysign(math.inf, mean))


class DieboldMariano(NamedTuple):
    """A Diebold-Mariano test of losses a against losses b.

    Attributes:
        statistic: above 0 where b is better.
        p_value: two-sided.
        p_one_sided: of the null that b is not better than a.
        difference: mean loss of a less mean loss of b.
        equal: the losses are the same but for rounding; there is nothing to test, statistic 0 and p 1 by definition.
    """

    statistic: float
    p_value: float
    p_one_sided: float
    difference: float
    equal: bool


def diebold_mariano(losses_a: Array, losses_b: Array) -> DieboldMariano:
    """Test whether two models' losses differ in the mean, with the small-sample adjustment of Harvey et al. (1997).

    Args:
        losses_a: at each step, for a panel the mean over its series, at least 0, shape `(n,)`.
        losses_b: of the other model at the same steps.

    Reference:
        Diebold & Mariano (1995), Comparing Predictive Accuracy. `statsmodels` takes one series and forecasts of it:
        zeros and the roots of the losses give exactly these losses. Its ceil(n^(1/3)) Newey-West lags are kept.
    """
    difference = float(losses_a.mean() - losses_b.mean())
    if equal_losses(losses_a, losses_b):
        return DieboldMariano(0.0, 1.0, 1.0, difference, equal=True)
    from statsmodels.tsa.stattools import diebold_mariano_test

    result = diebold_mariano_test(np.zeros(len(losses_a)), np.sqrt(losses_a), np.sqrt(losses_b), harvey_adj=True)
    statistic, half = float(result.statistic), float(result.pvalue) / 2
    return DieboldMariano(statistic, 2 * half, half if statistic > 0 else 1 - half, difference, equal=False)


def equal_losses(losses_a: Array, losses_b: Array) -> bool:
    """Say whether two models' losses are the same but for rounding."""
    largest = max(float(np.abs(losses_a).max()), float(np.abs(losses_b).max()))
    return bool(np.abs(losses_a - losses_b).max() <= EQUAL * largest)


class ConfidenceSet(NamedTuple):
    """A model confidence set: the models that cannot be told apart from the best.

    Attributes:
        members: names, in the order given.
        p_values: of each model; members have one above `size`.
        size: level of the test.
        block: mean length of the bootstrap's blocks, steps.
    """

    members: list[str]
    p_values: dict[str, float]
    size: float
    block: int


def model_confidence_set(losses: Mapping[str, Array], *, size: float = 0.1, seed: int = 0) -> ConfidenceSet:
    """Return the models that hold the best one with probability 1 - size.

    Range statistic, stationary bootstrap with 1000 replications and blocks of floor(sqrt(n)) steps. Models with equal
    losses stand or fall together: their differences have no variance, so one of them is tested for all.

    Args:
        losses: of each model at the same steps, shape `(n,)` each.
        size: level of the test.
        seed: of the bootstrap.

    Reference:
        Hansen, Lunde & Nason (2011), The Model Confidence Set.
    """
    stands_for: dict[str, str] = {}
    for name, series in losses.items():
        same = (other for other in dict.fromkeys(stands_for.values()) if equal_losses(losses[other], series))
        stands_for[name] = next(same, name)
    tested = list(dict.fromkeys(stands_for.values()))
    block = max(1, math.isqrt(len(losses[tested[0]])))
    found = {tested[0]: 1.0}
    if len(tested) > 1:
        from arch.bootstrap import MCS

        test = MCS(np.stack([losses[name] for name in tested], axis=1), size, REPLICATIONS, block, seed=seed)
        test.compute()
        table = test.pvalues  # indexed by column, in order of elimination
        found = {tested[c]: float(p) for c, p in zip(table.index.tolist(), table["Pvalue"].tolist(), strict=True)}
    p_values = {name: found[other] for name, other in stands_for.items()}
    return ConfidenceSet([name for name, p in p_values.items() if p > size], p_values, size, block)
