"""Vector autoregressions: least squares or Huber loss, with ridge, chosen on validation data or by blocked folds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np

from grownas.errors import DataError

Array = np.ndarray[Any, np.dtype[np.float64]]

DELTA = 1.5  # above it the Huber loss is linear; in standard deviations of the training part
RIDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # per observation: 1 halves a coefficient, 100 removes it
FOLDS = 10

Notify = Callable[[str], None]  # called with progress messages


def silent(words: str) -> None:
    """Ignore a progress message."""


@dataclass(frozen=True)
class VAR:
    """A fitted VAR(p), optionally with exponential averages in addition to the lags.

    y_t = intercept + sum_i coefficients[i] x_{t-1-i} + sum_j averages[j] e^j_{t-1} + noise, where
    e^j_t = e^j_{t-1} + (x_t - e^j_{t-1}) / (1 + centres[j]).

    The O series y are the first of the I columns of x. In a VAR they are all of them; the others are inputs only, and
    with such inputs the model is a VARX.

    Attributes:
        intercept: shape `(O,)`, float64.
        coefficients: coefficients of lags 1..p, shape `(p, O, I)`, float64.
        loss: the loss that was minimised, `squared` or `huber`.
        averages: coefficients of L averages, shape `(L, O, I)`, float64.
        centres: centres of mass of the averages' weights, in rows; shape `(L,)`.
    """

    intercept: Array
    coefficients: Array
    loss: str = "squared"
    averages: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))
    centres: tuple[float, ...] = ()

    @property
    def order(self) -> int:
        """Number of lags p."""
        return len(self.coefficients)

    @property
    def outputs(self) -> int:
        """Number of series O that are forecast."""
        return len(self.intercept)

    @property
    def blocks(self) -> int:
        """Number of lags and averages, p + L."""
        return self.order + len(self.centres)

    @property
    def parameters(self) -> int:
        """Number of fitted coefficients."""
        return int(self.intercept.size + self.coefficients.size + self.averages.size)

    def forecast(self, values: Array) -> Array:
        """Return one-step-ahead forecasts.

        Args:
            values: shape `(n, I)`.

        Returns:
            Shape `(n, O)`: row t is the forecast of row t + 1 from rows up to t; rows before the first are 0.
        """
        padded = np.concatenate([np.zeros((self.order - 1, values.shape[1])), values])
        forecasts = np.tile(self.intercept, (len(values), 1))
        for lag, matrix in enumerate(self.coefficients):
            start = self.order - 1 - lag
            forecasts += padded[start : start + len(values)] @ matrix.T
        for centre, matrix in zip(self.centres, self.averages, strict=True):
            forecasts += exponential_average(values, centre) @ matrix.T
        return forecasts

    def to_tree(self) -> dict[str, Any]:
        """Return plain values and arrays; the inverse of `from_tree`."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> VAR:
        """Return the VAR of a tree that `to_tree` returned."""
        return cls(**{**tree, "centres": tuple(tree["centres"])})


@dataclass(frozen=True)
class Selection:
    """A VAR and how it was chosen.

    Attributes:
        var: fitted with the chosen settings.
        chosen: the settings.
        settings: number of settings tried.
        scores: held-out mean squared error of each setting, by a name such as `huber p=1 ridge=0.1`.
        tried: loss, order, ridge and error of each setting, if chosen by folds.
    """

    var: VAR
    chosen: dict[str, Any]
    settings: int
    scores: dict[str, float] = field(default_factory=dict)
    tried: tuple[tuple[str, int, float, float], ...] = ()

    @property
    def order(self) -> int:
        """The chosen number of lags."""
        return self.var.order

    def to_tree(self) -> dict[str, Any]:
        """Return plain values and arrays; the inverse of `from_tree`."""
        return {**vars(self), "var": self.var.to_tree()}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Selection:
        """Return the selection of a tree that `to_tree` returned."""
        return cls(VAR.from_tree(tree["var"]), tree["chosen"], tree["settings"], tree["scores"], tree["tried"])

    def robust(self, values: Array) -> Selection:
        """Return the setting with the Huber loss of lowest held-out error, fitted on rows `(n, I)`."""
        tried = tuple(one for one in self.tried if one[0] == "huber")
        _, order, ridge, _ = min(tried, key=lambda one: one[3])
        var = fit_var_robust(values, order, ridge=ridge, outputs=self.var.outputs)
        scores = {name: score for name, score in self.scores.items() if name.startswith("huber ")}
        return Selection(var, {"loss": "huber", "order": order, "ridge": ridge}, len(tried), scores, tried)

    def refit(self, values: Array) -> VAR:
        """Return a VAR with the same settings fitted on other rows, shape `(n, I)`."""
        return FITS[self.var.loss](values, self.order, ridge=self.chosen.get("ridge", 0.0), outputs=self.var.outputs)


def fit_var(values: Array, order: int, *, ridge: float = 0.0, outputs: int | None = None) -> VAR:
    """Fit a VAR(p) by least squares on all rows.

    Minimises the mean over rows of half the sum of the squared residuals, plus ridge / 2 times the sum of the squared
    coefficients without the intercept. If there are several minima, as with two equal series, the one of least norm.

    Args:
        values: shape `(n, I)`, standardised.
        order: number of lags p.
        ridge: strength per observation.
        outputs: number of series O, the first columns, that are forecast; None: all.

    Raises:
        DataError: there are too few rows.
    """
    design, target = _checked(values, order, ridge, outputs)
    return unpack(fit_rows(design, target, ridge=ridge), order, "squared")


def fit_var_robust(
    values: Array, order: int, *, ridge: float = 0.0, outputs: int | None = None, delta: float = DELTA
) -> VAR:
    """Fit a VAR(p) by the Huber loss on all rows; arguments, ridge and errors as `fit_var`.

    Args:
        values: shape `(n, I)`, standardised.
        order: number of lags p.
        ridge: strength per observation.
        outputs: see `fit_var`.
        delta: larger residuals count linearly; in standard deviations.
    """
    design, target = _checked(values, order, ridge, outputs)
    return unpack(fit_rows(design, target, ridge=ridge, loss="huber", delta=delta), order, "huber")


FITS = {"squared": fit_var, "huber": fit_var_robust}


def exponential_average(values: Array, centre: float) -> Array:
    """Return e_t = e_{t-1} + (x_t - e_{t-1}) / (1 + centre) from e_{-1} = 0, shape `(n, I)`.

    Args:
        values: x, shape `(n, I)`.
        centre: centre of mass of the weights: the mean age of the averaged rows, in rows.
    """
    averages, average = np.empty_like(values), np.zeros(values.shape[1])
    for row, value in enumerate(values):
        average = average + (value - average) / (1 + centre)
        averages[row] = average
    return averages


def lagged(values: Array, order: int, outputs: int | None = None) -> tuple[Array, Array]:
    """Return the regression's design `(n - p, 1 + p*I)`, a constant and lags 1..p, and its targets `(n - p, O)`."""
    n = len(values)
    lags = [values[order - 1 - lag : n - 1 - lag] for lag in range(order)]
    return np.concatenate([np.ones((n - order, 1)), *lags], axis=1), values[order:, :outputs]


def fit_rows(design: Array, target: Array, *, ridge: float = 0.0, loss: str = "squared", delta: float = DELTA) -> Array:
    """Fit a linear regression of several equations; loss and ridge as in `fit_var`.

    Args:
        design: a constant and the regressors, shape `(n, D)`.
        target: shape `(n, I)`.
        ridge: strength per observation.
        loss: `squared` or `huber`.
        delta: see `fit_var_robust`.

    Returns:
        Coefficients, shape `(D, I)`, that of the constant first.
    """
    beta = _least_squares(design, target, ridge)
    return huber(design, target, beta, ridge=ridge, delta=delta) if loss == "huber" else beta


def huber(
    design: Array,
    target: Array,
    beta: Array,
    *,
    ridge: float,
    delta: float = DELTA,
    solver: Array | None = None,
    tolerance: float = 1e-10,
    rounds: int = 2000,
) -> Array:
    """Minimise the Huber loss with ridge from a start, all equations at once.

    Each round fits least squares to the fitted values plus clipped residuals. It has the same fixed point as
    iteratively reweighted least squares with separate weights for each equation, but uses one matrix for all rounds and
    equations, which makes folds cheap. About 20 rounds are usual.

    Args:
        design: shape `(n, D)`.
        target: shape `(n, I)`.
        beta: start, shape `(D, I)`.
        ridge: strength per observation.
        delta: see `fit_var_robust`.
        solver: the inverse of `design.T @ design + penalty`; computed if None.
        tolerance: stop when no coefficient changes by more than this.
        rounds: most rounds; the objective falls in each, so stopping early is safe.

    Reference:
        Huber (1981), Robust Statistics, section 7.8: the method of modified residuals.
    """
    if solver is None:
        solver = _inverse(design.T @ design + _penalty(design, ridge))
    project = solver @ design.T
    modified = np.empty_like(target)
    for _ in range(rounds):
        fitted = design @ beta
        np.subtract(target, fitted, out=modified)
        np.clip(modified, -delta, delta, out=modified)
        modified += fitted
        new = project @ modified
        change = float(np.abs(new - beta).max())
        beta = new
        if change < tolerance:
            break
    return beta


def select_by_validation(
    values: Array,
    train_end: int,
    val_end: int,
    orders: Iterable[int] = range(1, 23),
    *,
    outputs: int | None = None,
    notify: Notify = silent,
) -> Selection:
    """Choose the order of a least-squares VAR, fitted on the training rows, by the squared error on validation rows.

    `notify` is called with a message for each order; `outputs` as in `fit_var`.

    Raises:
        DataError: there are too few training rows for a VAR(1).
    """
    scores: dict[int, float] = {}
    fitted: dict[int, VAR] = {}
    for order in orders:
        if train_end - order <= 1 + order * values.shape[1]:
            break  # more coefficients than rows, here and at every higher order
        notify(f"VAR({order})")
        fitted[order] = fit_var(values[:train_end], order, outputs=outputs)
        forecasts = fitted[order].forecast(values[:val_end])[train_end - 1 : val_end - 1]
        scores[order] = float(((values[train_end:val_end, :outputs] - forecasts) ** 2).mean())
    if not scores:
        raise DataError(f"{train_end} training rows are too few for a VAR(1) of {values.shape[1]} series")
    best = min(scores, key=lambda order: scores[order])
    named = {f"squared p={order} ridge=0": score for order, score in scores.items()}
    return Selection(fitted[best], {"order": best}, len(scores), named)


def select_by_folds(
    values: Array,
    *,
    orders: Iterable[int] = range(1, 11),
    ridges: Sequence[float] = RIDGES,
    losses: Sequence[str] = ("squared", "huber"),
    folds: int = FOLDS,
    outputs: int | None = None,
    notify: Notify = silent,
) -> Selection:
    """Choose loss, order and ridge by blocked folds, then fit on all rows.

    Each fold is a contiguous block of targets; rows whose target or lags are in the block are left out of the fit. All
    settings are scored on the same targets by the squared error, also with the Huber loss: both losses estimate the
    same mean, and the tables report the squared error. The setting with the lowest mean over the folds is chosen. In
    nested folds the one-standard-error rule was 0.1 % better on twelve indices, 0.6 % worse on returns and ranges.

    Args:
        values: training rows only, shape `(n, I)`, standardised.
        orders: candidate numbers of lags; orders with too few rows are skipped.
        ridges: candidate ridge strengths, per observation.
        losses: candidate losses.
        folds: number of blocks.
        outputs: see `fit_var`.
        notify: called with a message for each order and fold.

    Raises:
        DataError: there are too few rows for every order.
    """
    usable = usable_orders(len(values), values.shape[1], orders, folds)
    first = max(usable)  # every order predicts the same targets
    scores: dict[tuple[str, int, float], float] = {}
    for order in usable:
        told = prefixed(notify, f"VAR({order}), ")
        for loss, ridge, error in _fold_errors(values, order, first, ridges, losses, folds, outputs, told):
            scores[loss, order, ridge] = scores.get((loss, order, ridge), 0.0) + error / folds
    loss, order, ridge = min(scores, key=lambda key: (scores[key], key))
    var = FITS[loss](values, order, ridge=ridge, outputs=outputs)
    named = {f"{a} p={p} ridge={r:g}": score for (a, p, r), score in scores.items()}
    tried = tuple((*setting, score) for setting, score in scores.items())
    return Selection(var, {"loss": loss, "order": order, "ridge": ridge}, len(scores), named, tried)


def prefixed(notify: Notify, words: str) -> Notify:
    """Return a function that calls `notify` with a prefix."""
    return lambda rest: notify(words + rest)


def usable_orders(rows: int, series: int, orders: Iterable[int], folds: int = FOLDS) -> list[int]:
    """Return the orders for which every fold's fit has more rows than coefficients.

    Raises:
        DataError: there is no such order.
    """
    usable = [order for order in orders if is_usable(rows, series, order, folds)]
    if not usable:
        raise DataError(f"{rows} training rows are too few to choose a VAR of {series} series by folds; give more rows")
    return usable


def is_usable(rows: int, series: int, order: int, folds: int = FOLDS) -> bool:
    """Return whether every fold's fit of a VAR has more rows than coefficients."""
    return (rows - order) * (folds - 2) // folds > 1 + order * series


def _fold_errors(
    values: Array,
    order: int,
    first: int,
    ridges: Sequence[float],
    losses: Sequence[str],
    folds: int,
    outputs: int | None,
    notify: Notify,
) -> Iterator[tuple[str, float, float]]:
    """Yield loss, ridge and held-out mean squared error for every fold of one order."""
    design, target = lagged(values, order, outputs)
    blocks = cut_blocks(first - order, len(target), folds)
    for loss, ridge, block, forecasts in held_out(design, target, blocks, order, ridges, losses, notify):
        yield loss, ridge, float(((target[block] - forecasts) ** 2).mean())


def cut_blocks(start: int, stop: int, folds: int = FOLDS) -> list[slice]:
    """Cut rows into contiguous blocks of nearly equal length."""
    return [slice(*edges) for edges in pairwise(np.linspace(start, stop, folds + 1).astype(int).tolist())]


def held_out(
    design: Array,
    target: Array,
    blocks: Sequence[slice],
    gap: int,
    ridges: Sequence[float] = RIDGES,
    losses: Sequence[str] = ("squared", "huber"),
    notify: Notify = silent,
) -> Iterator[tuple[str, float, slice, Array]]:
    """Forecast each block of rows by regressions fitted on the other rows.

    Args:
        design: a constant and the regressors, shape `(n, D)`.
        target: shape `(n, I)`.
        blocks: blocks of rows; each is held out once.
        gap: number of rows after a block that are also left out, since their regressors read the block.
        ridges: ridge strengths, per observation.
        losses: `squared`, `huber`, or both.
        notify: called with a message for each fold.

    Yields:
        Loss, ridge, block and the block's forecasts, `(rows, I)`, for each block, ridge and loss.
    """
    for number, block in enumerate(blocks, start=1):
        notify(f"fold {number} of {len(blocks)}")
        keep = np.r_[0 : block.start, min(block.stop + gap, len(target)) : len(target)]
        x, y = design[keep], target[keep]
        gram, cross = x.T @ x, x.T @ y
        warm: Array | None = None
        for ridge in sorted(ridges):
            solver = _inverse(gram + _penalty(x, ridge))
            for loss in losses:
                beta = solver @ cross
                if loss == "huber":
                    warm = beta = huber(
                        x, y, beta if warm is None else warm, ridge=ridge, solver=solver, tolerance=1e-3, rounds=20
                    )
                yield loss, ridge, block, design[block] @ beta


def _checked(values: Array, order: int, ridge: float, outputs: int | None) -> tuple[Array, Array]:
    """Return the regression's design and targets; raise DataError for too few rows."""
    needed = order + 1 if ridge else 1 + order * (values.shape[1] + 1)  # rows; the first `order` are only read
    if len(values) <= needed:
        raise DataError(
            f"a VAR({order}) of {values.shape[1]} series needs more than {needed} rows, got {len(values)}; give more "
            "rows or a lower order"
        )
    return lagged(values, order, outputs)


def _least_squares(design: Array, target: Array, ridge: float) -> Array:
    """Return coefficients `(D, I)`; the ridge is added as further rows, which keeps full precision."""
    roots = np.sqrt(_penalty(design, ridge))
    rows, targets = np.concatenate([design, roots]), np.concatenate([target, np.zeros((len(roots), target.shape[1]))])
    beta: Array = np.linalg.lstsq(rows, targets)[0]
    return beta


def _inverse(gram: Array) -> Array:
    """Return the inverse of a symmetric matrix, or its pseudo-inverse if two series are equal or one is constant."""
    return np.asarray(np.linalg.pinv(gram, rcond=1e-12, hermitian=True), dtype=np.float64)


def _penalty(design: Array, ridge: float) -> Array:
    """Return the ridge's penalty matrix `(D, D)`; the first column, the constant, has no penalty."""
    diagonal = np.full(design.shape[1], ridge * len(design))
    diagonal[0] = 0.0
    return np.diag(diagonal)


def unpack(beta: Array, order: int, loss: str, centres: tuple[float, ...] = ()) -> VAR:
    """Return a regression's coefficients `(1 + (p + L) * I, O)` (constant, p lags, L averages) as a VAR."""
    stacked = beta[1:].reshape(order + len(centres), -1, beta.shape[1])  # (p + L, I, O)
    blocks = np.ascontiguousarray(stacked.transpose(0, 2, 1))
    return VAR(beta[0].copy(), blocks[:order], loss, blocks[order:], centres)
