"""A linear start: a weighted sum of two regressions, with weights from their held-out forecasts, or a long VAR.

Both are chosen by blocked folds: a VAR of low order, and a VAR(1) with two exponential averages, which is a
heterogeneous autoregression with exponential means (HExp). Their weighted sum is again a VAR. The weights stay at a
prior, which shrinks forecasts towards the mean, unless other weights are clearly better on held-out rows. On
predictable series they are. Both regressions forget within a few rows what a season repeats later: where a VAR of a
higher order is clearly better on held-out rows, it is the start.

References:
    Bollerslev, Hood, Huss & Pedersen (2018), Risk everywhere: modeling and managing volatility (HExp).
    Breiman, Friedman, Olshen & Stone (1984), Classification and regression trees (the one-standard-error rule).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from grownas.baselines.var import (
    FITS,
    FOLDS,
    RIDGES,
    VAR,
    Notify,
    cut_blocks,
    exponential_average,
    fit_rows,
    held_out,
    is_usable,
    lagged,
    prefixed,
    silent,
    unpack,
    usable_orders,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Kind = list[tuple[int, tuple[float, ...]]]  # candidate orders and centres; folds choose one of them

CENTRES = (2.0, 10.0)  # rows: about the mean ages in HAR's means of 5 and 22 rows
WARM_UP = 22  # rows that fill the averages first, left out after a held-out block: 12 % of its weight remains
HIGHEST = 2  # highest order of the VAR
PRIOR_AVERAGES, PRIOR_VAR = 0.5, 0.25  # prior weights; the rest is the forecast of zero
LONGER = (6, 13, 26, 50)  # orders that reach over a week of days, a year of months, a day of hours or of half hours
LONGEST = 128  # most lags of all series together in a longer VAR: units of the start
CLEARLY = 2.0  # standard errors over the folds by which its held-out error must be lower
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # candidate strengths of the shrinkage to the prior, per observation


class Part(NamedTuple):
    """One regression of the combination: order, centres of its averages, and the loss and ridge that folds chose."""

    order: int
    centres: tuple[float, ...]
    loss: str
    ridge: float

    def __str__(self) -> str:
        averages = f" centres={','.join(f'{centre:g}' for centre in self.centres)}" if self.centres else ""
        return f"{self.loss} p={self.order}{averages} ridge={self.ridge:g}"

    def fit(self, values: Array, outputs: int | None = None) -> VAR:
        """Fit the regression on all rows, shape `(n, I)`; `outputs` as in `var.fit_var`."""
        if not self.centres:
            return FITS[self.loss](values, self.order, ridge=self.ridge, outputs=outputs)
        design, target = _regression(values, self.order, self.centres, WARM_UP, outputs)
        beta = fit_rows(design, target, ridge=self.ridge, loss=self.loss)
        return unpack(beta, self.order, self.loss, self.centres)


@dataclass(frozen=True)
class Combination:
    """A weighted sum of VARs and how it was chosen; has the interface of `var.Selection`.

    Attributes:
        var: the sum, which is again a VAR.
        parts: the regressions in the sum.
        weights: weight of each part for each series that is forecast, shape `(parts, O)`, at least 0.
        strengths: strength of the shrinkage to the prior, for each series.
        settings: number of regressions tried.
        scores: held-out mean squared error of each regression, by name.
    """

    var: VAR
    parts: tuple[Part, ...]
    weights: Array
    strengths: tuple[float, ...]
    settings: int
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Any]:
        """The chosen settings, as plain values."""
        weights = {str(part): row.round(3).tolist() for part, row in zip(self.parts, self.weights, strict=True)}
        return {"loss": self.var.loss, "order": self.var.order, "centres": list(self.var.centres), "weights": weights}

    def refit(self, values: Array) -> VAR:
        """Return the sum of the same parts with the same weights, fitted on other rows, shape `(n, I)`."""
        return weighted_sum([part.fit(values, self.var.outputs) for part in self.parts], self.weights)

    def to_tree(self) -> dict[str, Any]:
        """Return plain values and arrays; the inverse of `from_tree`."""
        return {**vars(self), "var": self.var.to_tree(), "parts": [tuple(part) for part in self.parts]}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Combination:
        """Return the combination of a tree that `to_tree` returned."""
        parts = tuple(
            Part(order, tuple(centres), loss, ridge) for order, centres, loss, ridge in map(tuple, tree["parts"])
        )
        named = {key: tree[key] for key in ("weights", "settings", "scores")}
        return cls(VAR.from_tree(tree["var"]), parts, strengths=tuple(tree["strengths"]), **named)


def combine_by_folds(
    values: Array,
    *,
    blocks: int | None = None,
    ridges: Sequence[float] = RIDGES,
    losses: Sequence[str] = ("squared", "huber"),
    folds: int = FOLDS,
    outputs: int | None = None,
    notify: Notify = silent,
) -> Combination:
    """Choose the parts and their weights by blocked folds, then fit the parts on all rows.

    The parts are chosen as in `var.select_by_folds`. Then each series' weights minimise the squared error of the
    held-out forecasts plus a penalty on the distance to the prior, see `shrunken_weights`. Averages are left out if
    there are too few training rows for them, or if `blocks` is too small. A VAR of one of the orders `LONGER` replaces
    the sum if its error is lower by `CLEARLY` standard errors of the difference over the folds.

    Args:
        values: training rows only, shape `(n, I)`, standardised.
        blocks: most lags and averages that the sum may read, in total; None for no limit.
        ridges: candidate ridge strengths, per observation.
        losses: candidate losses.
        folds: number of blocks of rows.
        outputs: see `var.fit_var`.
        notify: called with a message for each regression and fold.

    Raises:
        DataError: there are too few rows even for a VAR(1).
    """
    room = HIGHEST + len(CENTRES) if blocks is None else blocks
    rows, series = values.shape
    columns = 1 + (1 + len(CENTRES)) * series
    has_averages = room > len(CENTRES) and (rows - WARM_UP) * (folds - 2) // folds > columns
    highest = max(1, min(HIGHEST, room - len(CENTRES) * has_averages))
    orders = usable_orders(rows, series, range(1, highest + 1), folds)
    first = WARM_UP if has_averages else max(orders)  # all parts forecast the same targets
    cut = cut_blocks(0, rows - first, folds)
    kinds: list[Kind] = [[(1, CENTRES)]] if has_averages else []
    kinds.append([(order, ()) for order in orders])
    parts, forecasts = [], []
    count, done = sum(map(len, kinds)), 0
    scores: dict[str, float] = {}
    for kind in kinds:
        told = [prefixed(notify, f"model {done + number} of {count}, ") for number in range(1, len(kind) + 1)]
        done += len(kind)
        found = _held_out_forecasts(values, kind, first, cut, ridges, losses, outputs, told)
        errors = {part: float(((values[first:, :outputs] - ahead) ** 2).mean()) for part, ahead in found.items()}
        parts.append(min(errors, key=lambda part: (errors[part], part)))
        forecasts.append(found[parts[-1]])
        scores |= {str(part): error for part, error in errors.items()}
    prior = np.array([PRIOR_AVERAGES, PRIOR_VAR] if has_averages else [PRIOR_AVERAGES + PRIOR_VAR])
    weights, strengths = shrunken_weights(np.stack(forecasts), values[first:, :outputs], prior, cut)
    longer = [
        order
        for order in LONGER
        if order * series <= LONGEST and (blocks is None or order <= blocks) and is_usable(rows, series, order, folds)
    ]
    if longer:
        ahead = np.einsum("ko,kno->no", weights, np.stack(forecasts))
        part, of_longer = _clearly_better(values, ahead, longer, ridges, folds)
        scores |= of_longer
        if part is not None:
            var = part.fit(values, outputs)
            return Combination(var, (part,), np.ones((1, var.outputs)), (0.0,) * var.outputs, len(scores), scores)
    total = weighted_sum([part.fit(values, outputs) for part in parts], weights)
    return Combination(total, tuple(parts), weights, strengths, len(scores), scores)


def _clearly_better(
    values: Array, ahead: Array, orders: Sequence[int], ridges: Sequence[float], folds: int
) -> tuple[Part | None, dict[str, float]]:
    """Compare VARs of some orders, fitted by least squares, with the sum on held-out rows.

    Args:
        values: see `combine_by_folds`.
        ahead: the sum's held-out forecasts of the last rows, shape `(m, O)`.
        orders: orders of the VARs, at least one.
        ridges: candidate ridge strengths.
        folds: number of blocks of rows.

    Returns:
        The VAR to replace the sum, None if none is clearly better; and each VAR's held-out mean squared error, by name.
    """
    first, outputs = max(*orders, len(values) - len(ahead)), ahead.shape[1]  # all are compared on the same rows
    cut, actual = cut_blocks(0, len(values) - first, folds), values[first:, :outputs]
    kind: Kind = [(order, ()) for order in orders]
    tried = _held_out_forecasts(values, kind, first, cut, ridges, ("squared",), outputs, [silent] * len(kind))

    def by_fold(forecasts: Array) -> Array:
        squared = (actual - forecasts) ** 2
        return np.array([squared[block].mean() for block in cut])

    errors = {part: by_fold(forecasts) for part, forecasts in tried.items()}
    best = min(errors, key=lambda part: (errors[part].mean(), part))
    gains = by_fold(ahead[-len(actual) :]) - errors[best]
    is_better = gains.mean() > CLEARLY * gains.std(ddof=1) / np.sqrt(folds)
    return best if is_better else None, {str(part): float(error.mean()) for part, error in errors.items()}


def _held_out_forecasts(
    values: Array,
    kind: Kind,
    first: int,
    cut: Sequence[slice],
    ridges: Sequence[float],
    losses: Sequence[str],
    outputs: int | None,
    notify: Sequence[Notify],
) -> dict[Part, Array]:
    """Return held-out forecasts of the rows from `first` on, `(n, O)`, for each order, loss and ridge."""
    found: dict[Part, Array] = {}
    for (order, centres), told in zip(kind, notify, strict=True):
        design, target = _regression(values, order, centres, first, outputs)
        gap = WARM_UP if centres else order
        for loss, ridge, block, ahead in held_out(design, target, cut, gap, ridges, losses, told):
            found.setdefault(Part(order, centres, loss, ridge), np.empty_like(target))[block] = ahead
    return found


def _regression(
    values: Array, order: int, centres: Sequence[float], first: int, outputs: int | None
) -> tuple[Array, Array]:
    """Return the design of a part (a constant, lags and averages) and the targets, from row `first` on."""
    design, target = lagged(values, order, outputs)
    averages = [exponential_average(values, centre)[order - 1 : -1] for centre in centres]
    return np.concatenate([design, *averages], axis=1)[first - order :], target[first - order :]


def shrunken_weights(
    forecasts: Array, target: Array, prior: Array, blocks: Sequence[slice]
) -> tuple[Array, tuple[float, ...]]:
    """Return the weights of forecasts for each series that minimise the squared error, shrunk towards a prior.

    The weights w >= 0 minimise mean (y - sum_k w_k f_k)^2 + strength * sum_k (w_k - prior_k)^2. Of `STRENGTHS` the
    largest is chosen whose error on held-out blocks exceeds the lowest error by at most one standard error of the
    difference over blocks.

    Args:
        forecasts: held-out forecasts of K models, shape `(K, n, I)`.
        target: shape `(n, I)`.
        prior: prior weights, shape `(K,)`, at least 0.
        blocks: blocks of rows that cover all rows.

    Returns:
        Weights `(K, I)` and the strength chosen for each series.
    """
    identity = np.eye(len(prior))
    grams = np.stack([np.einsum("kni,lni->ikl", forecasts[:, b], forecasts[:, b]) for b in blocks])  # (blocks, I, K, K)
    crosses = np.stack([np.einsum("kni,ni->ik", forecasts[:, b], target[b]) for b in blocks])  # (blocks, I, K)
    squares = np.stack([(target[b] ** 2).sum(axis=0) for b in blocks])  # (blocks, I)
    rows = np.array([b.stop - b.start for b in blocks])[:, None]
    gram, cross = grams.sum(axis=0), crosses.sum(axis=0)
    errors = np.empty((len(STRENGTHS), *squares.shape))
    for error, strength in zip(errors, STRENGTHS, strict=True):
        penalty = strength * (rows.sum() - rows)[..., None]
        w = nonnegative(
            gram - grams + penalty[..., None] * identity, cross - crosses + penalty * prior
        )  # (blocks, I, K)
        fitted = np.einsum("bik,bikl,bil->bi", w, grams, w)
        error[:] = (squares - 2 * (w * crosses).sum(axis=-1) + fitted) / rows
    lowest = errors.mean(axis=1).argmin(axis=0)
    excess = errors - np.take_along_axis(errors, lowest[None, None], axis=0)
    is_near = excess.mean(axis=1) <= excess.std(axis=1, ddof=1) / np.sqrt(len(blocks))  # (strengths, I)
    chosen = np.array(STRENGTHS)[len(STRENGTHS) - 1 - is_near[::-1].argmax(axis=0)]
    penalty = chosen[:, None] * rows.sum()
    weights = nonnegative(gram + penalty[..., None] * identity, cross + penalty * prior)
    return weights.T, tuple(chosen.tolist())


def nonnegative(gram: Array, cross: Array) -> Array:
    """Return the minimisers w >= 0 of w'Gw / 2 - c'w, by trying all sets of nonzero entries.

    Args:
        gram: G, positive definite, shape `(..., K, K)`, K small.
        cross: c, shape `(..., K)`.
    """
    best, lowest = np.zeros(cross.shape), np.zeros(cross.shape[:-1])
    count = cross.shape[-1]
    for free in itertools.chain.from_iterable(itertools.combinations(range(count), k) for k in range(1, count + 1)):
        some = list(free)
        found = np.zeros(cross.shape)
        found[..., some] = np.linalg.solve(gram[..., some, :][..., some], cross[..., some, None])[..., 0]
        value = -(found * cross).sum(axis=-1) / 2  # at a minimum over the free entries
        better = (found >= 0).all(axis=-1) & (value < lowest)
        best[better], lowest[better] = found[better], value[better]
    return best


def weighted_sum(models: Sequence[VAR], weights: Array) -> VAR:
    """Return the VAR whose forecasts are the weighted sum of the models' forecasts, for each series.

    Args:
        models: all models with averages have the same centres.
        weights: shape `(models, O)`. The order of the sum does not count models whose weights are all 0.
    """
    used = [(model, weight) for model, weight in zip(models, weights, strict=True) if weight.any()] or [
        (models[-1], weights[-1])
    ]
    of_lag = models[0].coefficients.shape[1:]  # (O, I)
    centres = next((model.centres for model, _ in used if model.centres), ())
    intercept = np.zeros(of_lag[0])
    coefficients = np.zeros((max(model.order for model, _ in used), *of_lag))
    averages = np.zeros((len(centres), *of_lag))
    for model, weight in used:
        assert model.centres in ((), centres), (model.centres, centres)
        intercept += weight * model.intercept
        coefficients[: model.order] += weight[:, None] * model.coefficients
        if model.centres:
            averages += weight[:, None] * model.averages
    heaviest, _ = max(used, key=lambda one: float(one[1].sum()))
    return VAR(intercept, coefficients, heaviest.loss, averages, centres)
