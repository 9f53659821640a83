"""Tests of equal forecast accuracy on losses by step: days, or blocks of a text. Heavy libraries are imported late.

`diebold_mariano` compares two given forecasts. `two_way_t`, `welch_t` and `model_confidence_set` compare kinds of
models: they ask whether other seeds, too, would give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

EQUAL = 1e-5  # share of the largest loss: closer than float32 tells two ways of computing the same forecast apart
REPLICATIONS = 1000  # of the model confidence set's bootstrap


class MeasuredSize(NamedTuple):
    """How often a test rejects that two groups of seeds of one procedure are equally good.

    Attributes:
        test: `days_and_seeds` (`two_way_t`), `over_seeds` (`welch_t`), `finding` (both reject), `diebold_mariano` on
            losses averaged over the group, or `mcs` (one group leaves the set).
        nominal: the level that the test is made at.
        lowest: share of splits that it rejects, of the panel and group size where that is lowest.
        highest: where it is highest.
        source: what was split.
    """

    test: str
    nominal: float
    lowest: float
    highest: float
    source: str


_SPLITS = "60 seeds of one LSTM in two random groups of 3, 5 or 10, on bundled, nonlinear and planted"
MEASURED_SIZE = (  # tests/runs/test_measured_size.py measures them: 4,000 splits each, of the set 500
    MeasuredSize("days_and_seeds", 0.05, 0.034, 0.046, _SPLITS),
    MeasuredSize("over_seeds", 0.05, 0.031, 0.052, _SPLITS),
    MeasuredSize("finding", 0.05, 0.031, 0.046, _SPLITS),
    MeasuredSize("diebold_mariano", 0.05, 0.108, 0.612, _SPLITS),
    MeasuredSize("mcs", 0.10, 0.060, 0.108, _SPLITS),  # of four groups 1.0 to 11.4 %
)


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
    error = math.sqrt(_variance_of_mean(differences, min(math.floor(4 * (n / 100) ** (2 / 9)), n - 1)))
    return NeweyWest(mean, error, mean / error if error else math.copysign(math.inf, mean))


def _variance_of_mean(series: Array, lags: int) -> float:
    """Return the variance of a series' mean with Bartlett weights; of several, shape `(m, n)`, the sum of theirs."""
    rows = np.atleast_2d(series)
    centred = rows - rows.mean(axis=1, keepdims=True)
    total = float((centred * centred).sum())
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float((centred[:, lag:] * centred[:, :-lag]).sum())
    return max(total, 0.0) / int(rows.shape[1]) ** 2  # Bartlett weights keep the total above 0 but for rounding


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


class KindTest(NamedTuple):
    """A t-test of whether two kinds of models differ in their mean loss.

    Attributes:
        statistic: above 0 where b is better.
        p_value: two-sided.
        freedom: degrees of freedom of t.
    """

    statistic: float
    p_value: float
    freedom: float


def two_way_t(losses_a: Array, losses_b: Array) -> KindTest:
    """Test whether two kinds of models differ in the mean loss over all seeds and days.

    The variance of the difference is the sum of what other seeds and what other days would change. For the seeds it is
    the variance of either kind's mean over its seeds. For the days it is that of the mean of the daily differences,
    with Bartlett weights over ceil(n^(1/3)) lags, less what is in both: single seeds' deviations on single days.

    Args:
        losses_a: of each seed at each step, shape `(m, n)`, n >= 2. One row, or equal rows, are of a kind whose
            forecast does not depend on the seed: then it has no variance over seeds.
        losses_b: of the other kind at the same steps, of any number of seeds. Seeds of the two kinds count as
            independent: where they share what makes a seed good, the test rejects less often than it could.

    Reference:
        The variance is that of Cameron, Gelbach & Miller (2011), Robust Inference With Multiway Clustering; that of the
        days is made larger by n / (n - lags - 1), which makes it unbiased on independent days, where Diebold and
        Mariano's test as adjusted by Harvey et al. (1997) takes n / (n - 1). The degrees of freedom are by
        Satterthwaite (1946), with 3 n / (2 (lags + 1)) for the days.
    """
    n = losses_a.shape[1]
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 steps, got {n}")
    a, b = _distinct(losses_a), _distinct(losses_b)
    days = a.mean(axis=0) - b.mean(axis=0)
    if len(a) == len(b) == 1 and equal_losses(a[0], b[0]):
        return KindTest(0.0, 1.0, math.inf)
    lags = min(math.ceil(n ** (1 / 3)), n - 2)
    of_both = [
        _variance_of_mean(_interaction(each), lags) / (len(each) * (len(each) - 1)) for each in (a, b) if len(each) > 1
    ]
    of_days = max(0.0, _variance_of_mean(days, lags) - sum(of_both)) * n / (n - lags - 1)
    parts = [(of_days, 1.5 * n / (lags + 1)), *(_over_seeds(each.mean(axis=1)) for each in (a, b))]
    return _t_test(float(days.mean()), parts)


def welch_t(means_a: Array, means_b: Array) -> KindTest | None:
    """Test whether two kinds of models differ in the mean over all seeds of their loss on the same steps.

    Args:
        means_a: mean loss of each seed, shape `(m,)`. One, or equal ones, are of a kind whose forecast does not depend
            on the seed: then the test is that of one sample against a constant.
        means_b: of the other kind.

    Returns:
        None where neither depends on the seed.

    Reference:
        Welch (1947), The Generalization of 'Student's' Problem When Several Different Population Variances Are
        Involved.
    """
    a, b = (_distinct(each[:, None])[:, 0] for each in (means_a, means_b))
    if len(a) == len(b) == 1:
        return None
    return _t_test(float(a.mean() - b.mean()), [_over_seeds(a), _over_seeds(b)])


def _distinct(losses: Array) -> Array:
    """Return the first row alone where all rows are the same but for rounding."""
    return losses[:1] if all(equal_losses(losses[0], row) for row in losses[1:]) else losses


def _interaction(losses: Array) -> Array:
    """Return what is left of losses `(m, n)` without the means of seeds and of steps."""
    left: Array = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0) + losses.mean()
    return left


def _over_seeds(means: Array) -> tuple[float, float]:
    """Return the variance of the mean over seeds and its degrees of freedom; of one seed 0 and infinity."""
    m = len(means)
    return (float(means.var(ddof=1)) / m, m - 1) if m > 1 else (0.0, math.inf)


def _t_test(difference: float, parts: Sequence[tuple[float, float]]) -> KindTest:
    """Return the test of a difference whose variance is a sum of parts: (variance, degrees of freedom)."""
    from scipy.special import stdtr

    total = sum(variance for variance, _ in parts)
    if not total:
        return KindTest(math.copysign(math.inf, difference), 0.0, math.inf)
    freedom = total**2 / sum(variance**2 / own for variance, own in parts)
    statistic = difference / math.sqrt(total)
    return KindTest(statistic, 2 * float(stdtr(freedom, -abs(statistic))), freedom)


class ConfidenceSet(NamedTuple):
    """A model confidence set: the kinds of models that cannot be told apart from the best.

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
    """Return the models that hold the best kind with probability 1 - size.

    Range statistic, 1000 replications. Days come from the stationary bootstrap with blocks of floor(sqrt(n)) steps;
    to them comes what other seeds would change: a normal deviate with the variance of the kind's mean over its seeds.
    What single seeds do on single days is in both, and taken off the days, as in `two_way_t`. The denominators of the
    replications are drawn too, as chi-squared: those of the days with n / block degrees of freedom, those of the seeds
    with m - 1. So few days or seeds make the set larger. Models with equal losses stand or fall together: their
    differences have no variance, so one of them is tested for all.

    Args:
        losses: of each model's seeds at the same steps, shape `(m, n)`; `(n,)` or equal rows where the forecast does
            not depend on the seed.
        size: level of the test.
        seed: of the bootstrap.

    Reference:
        Hansen, Lunde & Nason (2011), The Model Confidence Set: it is of given forecasts, and ours comes near it where
        no forecast depends on the seed and the days are many. Drawing the denominators is the parametric bootstrap of
        Krishnamoorthy, Lu & Mathew (2007), A Parametric Bootstrap Approach for ANOVA with Unequal Variances.
    """
    kinds = {name: _distinct(np.atleast_2d(each)) for name, each in losses.items()}
    steps = {name: each.mean(axis=0) for name, each in kinds.items()}
    stands_for: dict[str, str] = {}
    for name, series in steps.items():
        same = (other for other in dict.fromkeys(stands_for.values()) if equal_losses(steps[other], series))
        stands_for[name] = next(same, name)
    tested = list(dict.fromkeys(stands_for.values()))
    block = max(1, math.isqrt(len(steps[tested[0]])))
    found = dict(zip(tested, _eliminate(*_range_bootstrap([kinds[name] for name in tested], block, seed)), strict=True))
    p_values = {name: found[other] for name, other in stands_for.items()}
    return ConfidenceSet([name for name, p in p_values.items() if p > size], p_values, size, block)


def _range_bootstrap(kinds: Sequence[Array], block: int, seed: int) -> tuple[Array, Array]:
    """Return the t of each pair of models, shape `(k, k)`, and its replications if all are equally good `(R, k, k)`."""
    from arch.bootstrap import StationaryBootstrap

    n, k, rng = kinds[0].shape[1], len(kinds), np.random.default_rng([seed, 1])
    resampled = StationaryBootstrap(block, np.arange(n), seed=seed).bootstrap(REPLICATIONS)
    weights = np.stack([np.bincount(data[0][0], minlength=n) for data in resampled]) / n  # of each day, (R, n)
    means, days = np.stack([each.mean() for each in kinds]), np.stack([each.mean(axis=0) for each in kinds])
    other_days = _pairs(weights @ days.T - means)
    of_days = (other_days**2).mean(axis=0) + np.finfo(np.float64).tiny  # a model beside itself has no variance
    of_both = np.array([_interaction_variance(each, weights) for each in kinds])
    kept = np.clip(1 - (of_both[:, None] + of_both) / of_days, 0, 1)  # share of the days alone
    kept /= 1 - (2 * block - 1) / n  # what centring takes off the variance of independent days
    of_days, other_days = kept * of_days + np.finfo(np.float64).tiny, np.sqrt(kept) * other_days
    of_seeds, freedom = np.array([_over_seeds(each.mean(axis=1)) for each in kinds]).T
    other_seeds = np.sqrt(of_seeds) * rng.standard_normal((REPLICATIONS, k))
    days_drawn = of_days * _chi_squared_shares(n / block, (REPLICATIONS, 1, 1), rng)
    seeds_drawn = of_seeds * _chi_squared_shares(freedom, (REPLICATIONS, k), rng)
    t = (means[:, None] - means) / np.sqrt(of_days + of_seeds[:, None] + of_seeds)
    drawn = (other_days + _pairs(other_seeds)) / np.sqrt(days_drawn + seeds_drawn[:, :, None] + seeds_drawn[:, None, :])
    return t, drawn


def _pairs(values: Array) -> Array:
    """Return the differences of each pair, shape `(R, k)` -> `(R, k, k)`."""
    differences: Array = values[:, :, None] - values[:, None, :]
    return differences


def _chi_squared_shares(freedom: Array | float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw chi-squared over its degrees of freedom; 1 where they are infinite."""
    finite = np.where(np.isinf(freedom), 1.0, freedom)
    return np.where(np.isinf(freedom), 1.0, rng.chisquare(finite, shape) / finite)


def _interaction_variance(losses: Array, weights: Array) -> float:
    """Return the variance, of a mean over seeds and bootstrapped days, that is of single seeds on single days."""
    m = len(losses)
    if m == 1:
        return 0.0
    return float(((weights @ _interaction(losses).T) ** 2).mean(axis=0).sum()) / (m * (m - 1))


def _eliminate(t: Array, drawn: Array) -> list[float]:
    """Return each model's p-value: the worst leaves first, and none has a lower one than those before it."""
    left, p_values, highest = list(range(len(t))), [1.0] * len(t), 0.0
    while len(left) > 1:
        among, replicated = t[left][:, left], drawn[:, left][:, :, left]
        worst = left[int(among.max(axis=1).argmax())]
        highest = max(highest, float((among.max() < replicated.max(axis=(1, 2))).mean()))
        p_values[worst] = highest
        left.remove(worst)
    return p_values
