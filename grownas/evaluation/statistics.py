"""Tests of equal forecast accuracy on losses by step (days, or blocks of a text). Imports heavy libraries lazily.

`diebold_mariano` compares two given forecasts. `two_way_t`, `welch_t` and `model_confidence_set` compare kinds of
models: their results also hold for other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

EQUAL = 1e-5  # relative to the largest loss; float32 rounding of the same forecast stays below this difference
REPLICATIONS = 1000  # bootstrap replications of the model confidence set


class MeasuredSize(NamedTuple):
    """How often a test rejects that two groups of seeds of one procedure are equally good.

    Attributes:
        test: `days_and_seeds` (`two_way_t`), `over_seeds` (`welch_t`), `finding` (both reject), `diebold_mariano` on
            losses averaged over the group, or `mcs` (one group leaves the set).
        nominal: nominal level of the test.
        lowest: lowest share of rejected splits, over panels and group sizes.
        highest: highest share of rejected splits, over panels and group sizes.
        source: the seeds that were split.
    """

    test: str
    nominal: float
    lowest: float
    highest: float
    source: str


_SPLITS = "60 seeds of one LSTM in two random groups of 3, 5 or 10, on bundled, nonlinear and planted"
MEASURED_SIZE = (  # measured by tests/runs/test_measured_size.py with 4,000 splits each; 500 for the set
    MeasuredSize("days_and_seeds", 0.05, 0.034, 0.046, _SPLITS),
    MeasuredSize("over_seeds", 0.05, 0.031, 0.052, _SPLITS),
    MeasuredSize("finding", 0.05, 0.031, 0.046, _SPLITS),
    MeasuredSize("diebold_mariano", 0.05, 0.108, 0.612, _SPLITS),
    MeasuredSize("mcs", 0.10, 0.060, 0.108, _SPLITS),  # with four groups 1.0 to 11.4 %
)


class NeweyWest(NamedTuple):
    """A mean, its standard error and the ratio t = mean / error."""

    mean: float
    error: float
    t: float


def newey_west_t(differences: Array) -> NeweyWest:
    """Return the mean of a series, its autocorrelation-consistent standard error, and t = mean / error.

    Bartlett weights over floor(4 (n / 100)^(2/9)) lags, as in `statsmodels` without its small-sample correction.
    A constant series has error 0: t is then 0 if the mean is 0 too, else infinite with the mean's sign.

    Args:
        differences: for example between two models' losses at each step, shape `(n,)`, n >= 2.

    Raises:
        ValueError: there are fewer than 2 differences.

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
    """Return the variance of a series' mean with Bartlett weights; for several series `(m, n)`, the sum."""
    rows = np.atleast_2d(series)
    centred = rows - rows.mean(axis=1, keepdims=True)
    total = float((centred * centred).sum())
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float((centred[:, lag:] * centred[:, :-lag]).sum())
    return max(total, 0.0) / int(rows.shape[1]) ** 2  # Bartlett weights keep the total at 0 or more, up to rounding


class DieboldMariano(NamedTuple):
    """A Diebold-Mariano test of losses a against losses b.

    Attributes:
        statistic: above 0 if b is better.
        p_value: two-sided p-value.
        p_one_sided: one-sided p-value; the null hypothesis is that b is not better than a.
        difference: mean loss of a minus mean loss of b.
        equal: whether the losses are the same up to rounding; statistic is then 0 and p is 1 by definition.
    """

    statistic: float
    p_value: float
    p_one_sided: float
    difference: float
    equal: bool


def diebold_mariano(losses_a: Array, losses_b: Array) -> DieboldMariano:
    """Test whether two models' mean losses differ, with the small-sample adjustment of Harvey et al. (1997).

    Args:
        losses_a: loss of model a at each step (for a panel the mean over its series), at least 0, shape `(n,)`.
        losses_b: loss of model b at the same steps.

    Reference:
        Diebold & Mariano (1995), Comparing Predictive Accuracy. `statsmodels` takes a series and two forecasts of it;
        zeros as the series and the roots of the losses as forecasts give exactly these losses. We keep its
        ceil(n^(1/3)) Newey-West lags.
    """
    difference = float(losses_a.mean() - losses_b.mean())
    if equal_losses(losses_a, losses_b):
        return DieboldMariano(0.0, 1.0, 1.0, difference, equal=True)
    from statsmodels.tsa.stattools import diebold_mariano_test

    result = diebold_mariano_test(np.zeros(len(losses_a)), np.sqrt(losses_a), np.sqrt(losses_b), harvey_adj=True)
    statistic, half = float(result.statistic), float(result.pvalue) / 2
    return DieboldMariano(statistic, 2 * half, half if statistic > 0 else 1 - half, difference, equal=False)


def equal_losses(losses_a: Array, losses_b: Array) -> bool:
    """Return whether two models' losses are the same up to rounding."""
    largest = max(float(np.abs(losses_a).max()), float(np.abs(losses_b).max()))
    return bool(np.abs(losses_a - losses_b).max() <= EQUAL * largest)


class KindTest(NamedTuple):
    """A t-test of whether two kinds of models, a and b, differ in their mean loss.

    Attributes:
        statistic: above 0 if b is better.
        p_value: two-sided p-value.
        freedom: degrees of freedom of t.
    """

    statistic: float
    p_value: float
    freedom: float


def two_way_t(losses_a: Array, losses_b: Array) -> KindTest:
    """Test whether two kinds of models differ in the mean loss over all seeds and days.

    The variance of the difference is the sum of a part for seeds and a part for days. The part for seeds is the
    variance of each kind's mean over its seeds. The part for days is the variance of the mean daily difference, with
    Bartlett weights over ceil(n^(1/3)) lags, minus the interaction that both parts contain: deviations of single seeds
    on single days.

    Args:
        losses_a: loss of kind a for each seed at each step, shape `(m, n)`, n >= 2. One row, or equal rows, mean that
            the forecasts do not depend on the seed; the variance over seeds is then 0.
        losses_b: loss of kind b at the same steps, for any number of seeds. The test treats the seeds of the two kinds
            as independent: if equal seeds have correlated losses, it rejects less often than it could.

    Raises:
        ValueError: there are fewer than 2 steps.

    Reference:
        The variance follows Cameron, Gelbach & Miller (2011), Robust Inference With Multiway Clustering. We multiply
        the part for days by n / (n - lags - 1), which makes it unbiased for independent days; the Diebold-Mariano test
        adjusted by Harvey et al. (1997) multiplies by n / (n - 1). The degrees of freedom follow Satterthwaite (1946),
        with 3 n / (2 (lags + 1)) for the days.
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
    """Test whether two kinds of models differ in the mean loss over all seeds, on the same steps.

    Args:
        means_a: mean loss of each seed of kind a, shape `(m,)`. One value, or equal values, mean that the forecasts do
            not depend on the seed; the test is then a one-sample t-test against a constant.
        means_b: mean loss of each seed of kind b.

    Returns:
        The test; None if neither kind depends on the seed.

    Reference:
        Welch (1947), The Generalization of 'Student's' Problem When Several Different Population Variances Are
        Involved.
    """
    a, b = (_distinct(each[:, None])[:, 0] for each in (means_a, means_b))
    if len(a) == len(b) == 1:
        return None
    return _t_test(float(a.mean() - b.mean()), [_over_seeds(a), _over_seeds(b)])


def _distinct(losses: Array) -> Array:
    """Return only the first row if all rows are the same up to rounding, else all rows."""
    return losses[:1] if all(equal_losses(losses[0], row) for row in losses[1:]) else losses


def _interaction(losses: Array) -> Array:
    """Return the interaction of losses `(m, n)`: the residuals after removing the means of seeds and of steps."""
    left: Array = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0) + losses.mean()
    return left


def _over_seeds(means: Array) -> tuple[float, float]:
    """Return the variance of the mean over seeds and its degrees of freedom; 0 and infinity for one seed."""
    m = len(means)
    return (float(means.var(ddof=1)) / m, m - 1) if m > 1 else (0.0, math.inf)


def _t_test(difference: float, parts: Sequence[tuple[float, float]]) -> KindTest:
    """Return the t-test of a difference whose variance is the sum of `parts`, each (variance, degrees of freedom)."""
    from scipy.special import stdtr

    total = sum(variance for variance, _ in parts)
    if not total:
        return KindTest(math.copysign(math.inf, difference), 0.0, math.inf)
    freedom = total**2 / sum(variance**2 / own for variance, own in parts)
    statistic = difference / math.sqrt(total)
    return KindTest(statistic, 2 * float(stdtr(freedom, -abs(statistic))), freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the given order: the chance of any false rejection is bounded.

    Reference:
        Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        highest = max(highest, (len(p_values) - rank) * p_values[number])
        corrected[number] = min(1.0, highest)
    return corrected


class ConfidenceSet(NamedTuple):
    """A model confidence set: the kinds of models that the test cannot tell apart from the best kind.

    Attributes:
        members: names of the models in the set, in the given order.
        p_values: p-value of each model; members have a p-value above `size`.
        size: level of the test.
        block: mean length of the bootstrap blocks, in steps.
    """

    members: list[str]
    p_values: dict[str, float]
    size: float
    block: int


def model_confidence_set(losses: Mapping[str, Array], *, size: float = 0.1, seed: int = 0) -> ConfidenceSet:
    """Return the set of models that contains the best kind with probability 1 - size.

    Range statistic, 1000 replications. The stationary bootstrap resamples days, in blocks of floor(sqrt(n)) steps on
    average. For the seeds, each replication adds a normal deviate with the variance of the kind's mean over its seeds.
    Both parts contain the deviations of single seeds on single days, which are removed from the part for days, as in
    `two_way_t`. The variances in the denominators are drawn too, as scaled chi-squared: with n / block degrees of
    freedom for days and m - 1 for seeds. So few days or seeds make the set larger. Of models with equal losses only one
    is tested, since their differences have no variance; the result holds for all of them.

    Args:
        losses: model -> loss of each seed at the same steps, shape `(m, n)`; `(n,)` or equal rows if the forecasts do
            not depend on the seed.
        size: level of the test.
        seed: seed of the bootstrap.

    Reference:
        Hansen, Lunde & Nason (2011), The Model Confidence Set. Theirs compares given forecasts; ours approaches it when
        no forecast depends on the seed and there are many days. Drawing the denominators is the parametric bootstrap of
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
    """Return the t of each pair of models `(k, k)`, and its replications under equal accuracy `(R, k, k)`."""
    from arch.bootstrap import StationaryBootstrap

    n, k, rng = kinds[0].shape[1], len(kinds), np.random.default_rng([seed, 1])
    resampled = StationaryBootstrap(block, np.arange(n), seed=seed).bootstrap(REPLICATIONS)
    weights = np.stack([np.bincount(data[0][0], minlength=n) for data in resampled]) / n  # weight of each day, (R, n)
    means, days = np.stack([each.mean() for each in kinds]), np.stack([each.mean(axis=0) for each in kinds])
    other_days = _pairs(weights @ days.T - means)
    of_days = (other_days**2).mean(axis=0) + np.finfo(np.float64).tiny  # tiny: a model minus itself has variance 0
    of_both = np.array([_interaction_variance(each, weights) for each in kinds])
    with np.errstate(over="ignore"):  # of a model minus itself: the share is 0
        kept = np.clip(1 - (of_both[:, None] + of_both) / of_days, 0, 1)  # of the variance, without the interaction
    kept /= 1 - (2 * block - 1) / n  # undo the loss of variance by centring, for independent days
    of_days, other_days = kept * of_days + np.finfo(np.float64).tiny, np.sqrt(kept) * other_days
    of_seeds, freedom = np.array([_over_seeds(each.mean(axis=1)) for each in kinds]).T
    other_seeds = np.sqrt(of_seeds) * rng.standard_normal((REPLICATIONS, k))
    days_drawn = of_days * _chi_squared_shares(n / block, (REPLICATIONS, 1, 1), rng)
    seeds_drawn = of_seeds * _chi_squared_shares(freedom, (REPLICATIONS, k), rng)
    t = (means[:, None] - means) / np.sqrt(of_days + of_seeds[:, None] + of_seeds)
    drawn = (other_days + _pairs(other_seeds)) / np.sqrt(days_drawn + seeds_drawn[:, :, None] + seeds_drawn[:, None, :])
    return t, drawn


def _pairs(values: Array) -> Array:
    """Return the differences of all pairs, shape `(R, k)` -> `(R, k, k)`."""
    differences: Array = values[:, :, None] - values[:, None, :]
    return differences


def _chi_squared_shares(freedom: Array | float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw chi-squared divided by its degrees of freedom; 1 for infinitely many degrees of freedom."""
    finite = np.where(np.isinf(freedom), 1.0, freedom)
    return np.where(np.isinf(freedom), 1.0, rng.chisquare(finite, shape) / finite)


def _interaction_variance(losses: Array, weights: Array) -> float:
    """Return the interaction's share in the variance of a mean over seeds and bootstrapped days."""
    m = len(losses)
    if m == 1:
        return 0.0
    return float(((weights @ _interaction(losses).T) ** 2).mean(axis=0).sum()) / (m * (m - 1))


def _eliminate(t: Array, drawn: Array) -> list[float]:
    """Return each model's p-value: remove the worst model repeatedly; p-values never fall in this order."""
    left, p_values, highest = list(range(len(t))), [1.0] * len(t), 0.0
    while len(left) > 1:
        among, replicated = t[left][:, left], drawn[:, left][:, :, left]
        worst = left[int(among.max(axis=1).argmax())]
        highest = max(highest, float((among.max() < replicated.max(axis=(1, 2))).mean()))
        p_values[worst] = highest
        left.remove(worst)
    return p_values
