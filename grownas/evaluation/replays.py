"""Compares strategies whose searches were repeated on a table of genotypes, and measures the spread of the space.

All intervals are 95 % intervals. Those about strategies are over repeated searches: they hold for this table, not for
other genotypes of the space. Those about the space are over its genotypes, by bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grownas.evaluation.groups import read_part
from grownas.evaluation.ranks import rank_correlation, ranks
from grownas.genotype_table import GenotypeTable

Tree = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]

KEYS = {"metric", "strategy", "at", "picks", "val", "test"}  # of a part of the study
KIND = "replay"  # entry `kind` of study.json
Z = 1.959964  # 97.5 % quantile of the normal distribution
RESAMPLES = 2000
CONTROL = "random"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def compare(folders: Sequence[Path], table: GenotypeTable) -> Tree:
    """Compare the strategies of a study of replays.

    Returns:
        The content of `study.json`: `kind`, `metric`, `space` (see `spread_of`), `at` (numbers of genotypes) and
        `strategies`. A strategy has `strategy`, `repeats` and for each entry of `at` the means with interval of `val`
        and `test` of the best trial so far, of its genotype's `rank` (by mean test figure over seeds, 1 is the best),
        and `beats_random`: the probability that its test figure is lower than that of random search, equal ones
        counting half; None for random search, and without it.

    Raises:
        RunError: a part is not finished or damaged.
    """
    parts = [read_part(folder, KEYS) for folder in folders]
    by_test, at = mean_ranks(table), parts[0]["at"]
    control = next((np.array(part["test"]) for part in parts if part["strategy"] == CONTROL), None)
    rows = []
    for part in parts:
        test, is_control = np.array(part["test"]), part["strategy"] == CONTROL
        rows.append(
            {
                "strategy": part["strategy"],
                "repeats": len(test),
                "val": _means(np.array(part["val"])),
                "test": _means(test),
                "rank": _means(by_test[np.array(part["picks"])]),
                "beats_random": None if control is None or is_control else _means(wins(test, control)),
            }
        )
    return {"kind": KIND, "metric": parts[0]["metric"], "space": spread_of(table), "at": at, "strategies": rows}


def wins(ours: Array, others: Array) -> Array:
    """Return 1 where our search has the lower figure, 1/2 where both are equal, else 0; one row per search.

    Searches with the same seed draw the same first genotypes, so each of ours is compared with the other strategy's
    search of the next seed.
    """
    count = min(len(ours), len(others))
    shifted = np.roll(others[:count], -1, axis=0)
    return np.array((ours[:count] < shifted) + 0.5 * (ours[:count] == shifted), dtype=np.float64)


def spread_of(table: GenotypeTable) -> Tree:
    """Measure the spread of a table's genotypes.

    Returns:
        `genotypes, seeds`; for `val` and `test` the `quantiles` (`QUANTILES`) of the genotypes' means over seeds and
        `from_genotypes`, the share of the variance of single trainings that comes from genotypes, not from seeds;
        `correlation`, Spearman's rank correlation between validation and test figure over genotypes, of their means
        over seeds; `correlation_best`, the same among the quarter of genotypes with the lowest validation figures;
        `correlation_single`, that of single trainings, averaged over seeds; and `of_params`, that between the number of
        parameters and the mean test figure. Shares and correlations have intervals.
    """
    val, test = figures(table, "val"), figures(table, "test")
    params = np.array([[float(one.params)] for one in table.entries])

    def correlation(one: Array, other: Array) -> float:
        return spearman(one.mean(1), other.mean(1))

    best = np.argsort(val.mean(1), kind="stable")[: max(2, len(val) // 4)]

    def single(one: Array, other: Array) -> float:
        return float(np.mean([spearman(a, b) for a, b in zip(one.T, other.T, strict=True)]))

    found: Tree = {"genotypes": len(val), "seeds": val.shape[1]}
    for name, each in (("val", val), ("test", test)):
        found[name] = {
            "quantiles": [float(one) for one in np.quantile(each.mean(1), QUANTILES)],
            "from_genotypes": _bootstrapped(share_between, each),
        }
    return {
        **found,
        "correlation": _bootstrapped(correlation, val, test),
        "correlation_best": _bootstrapped(correlation, val[best], test[best]),
        "correlation_single": _bootstrapped(single, val, test),
        "of_params": _bootstrapped(correlation, params, test),
    }


def share_between(figures: Array) -> float:
    """Return the share of variance between rows: the intraclass correlation of one-way random effects, at least 0.

    Args:
        figures: one row per genotype, one column per seed.

    Reference:
        Shrout & Fleiss (1979), Intraclass Correlations, ICC(1, 1).
    """
    count = figures.shape[1]
    between = count * figures.mean(1).var(ddof=1)
    within = figures.var(axis=1, ddof=1).mean()
    return max(0.0, float((between - within) / (between + (count - 1) * within)))


def spearman(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; 0 if one of the series is constant."""
    return rank_correlation(one, other) or 0.0


def mean_ranks(table: GenotypeTable) -> Array:
    """Return each genotype's rank by its mean test figure over seeds; 1 is the lowest."""
    return 1 + ranks(figures(table, "test").mean(1))


def figures(table: GenotypeTable, name: str) -> Array:
    """Return `val` or `test` of all trainings, one row per genotype, one column per seed."""
    return np.array([[getattr(training, name) for training in one.trainings] for one in table.entries])


def _means(rows: Array) -> list[Tree]:
    """Return the mean over searches of each column, with the interval of the mean."""
    means, errors = rows.mean(0), Z * rows.std(0, ddof=1) / np.sqrt(len(rows))
    return [_interval(*one) for one in zip(means, means - errors, means + errors, strict=True)]


def _bootstrapped(figure: Callable[..., float], *each: Array) -> Tree:
    """Return a figure of arrays whose rows are genotypes, with its percentile interval over resampled genotypes."""
    rng, count = np.random.default_rng(0), len(each[0])
    drawn = rng.integers(count, size=(RESAMPLES, count))
    low, high = np.quantile([figure(*(one[rows] for one in each)) for rows in drawn], (0.025, 0.975))
    return _interval(figure(*each), low, high)


def _interval(mean: float, low: float, high: float) -> Tree:
    return {"mean": float(mean), "low": float(low), "high": float(high)}
