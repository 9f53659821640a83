"""Heterogeneous autoregression (HAR; Corsi, 2009): regresses on last values and weekly and monthly means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grownas.baselines.var import FOLDS, RIDGES, VAR, Notify, Selection, cut_blocks, fit_rows, held_out, silent
from grownas.errors import DataError, TooFewRowsError

Array = np.ndarray[Any, np.dtype[np.float64]]

SPANS = (1, 5, 22)  # rows: a day, a week and a month of trading days


def regressors(values: Array, outputs: int | None = None) -> tuple[Array, Array]:
    """Return the regression's design `(n - 22, 1 + 3 * I)`, a constant and means, and its targets `(n - 22, O)`.

    The design row of target t contains each series' mean over rows t - span .. t - 1, for each of `SPANS`.

    Raises:
        DataError: there are too few rows for a single target.
    """
    longest = max(SPANS)
    if len(values) <= longest:
        raise DataError(f"a HAR needs more than {longest} rows, got {len(values)}; give more rows")
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    ends = np.arange(longest, len(values))
    means = [(sums[ends] - sums[ends - span]) / span for span in SPANS]
    return np.concatenate([np.ones((len(ends), 1)), *means], axis=1), values[longest:, :outputs]


def fit_har(values: Array, *, ridge: float = 0.0, outputs: int | None = None) -> VAR:
    """Fit a HAR by least squares on all rows; return it as an equal VAR(22).

    Args:
        values: shape `(n, I)`, standardised.
        ridge: ridge strength on the three coefficients of each series, as in `var.fit_var`.
        outputs: see `var.fit_var`.
    """
    beta = fit_rows(*regressors(values, outputs), ridge=ridge)
    blocks = beta[1:].reshape(len(SPANS), values.shape[1], -1)  # (3, I, O)
    coefficients = np.zeros((max(SPANS), *blocks.shape[:0:-1]))
    for span, block in zip(SPANS, blocks, strict=True):
        coefficients[:span] += block.T / span
    return VAR(beta[0].copy(), coefficients)


def parameters(inputs: int, outputs: int) -> int:
    """Return the number of fitted coefficients of a HAR that forecasts O of its I columns."""
    return outputs * (1 + len(SPANS) * inputs)


def select_har(
    values: Array,
    *,
    ridges: Sequence[float] = RIDGES,
    folds: int = FOLDS,
    outputs: int | None = None,
    notify: Notify = silent,
) -> Selection:
    """Choose the ridge by blocked folds, as `var.select_by_folds` does, then fit on all rows.

    Args:
        values: training rows only, shape `(n, I)`, standardised.
        ridges: candidate ridge strengths, per observation.
        folds: number of blocks.
        outputs: see `var.fit_var`.
        notify: called with a message for each fold.

    Raises:
        TooFewRowsError: a fold leaves fewer rows than coefficients.
    """
    design, target = regressors(values, outputs)
    if len(target) * (folds - 2) // folds <= design.shape[1]:
        raise TooFewRowsError(
            f"{len(values)} training rows are too few to choose a HAR of {values.shape[1]} series by folds; give more "
            "rows, or leave har out of baselines.use"
        )
    scores = dict.fromkeys(ridges, 0.0)
    blocks = cut_blocks(0, len(target), folds)
    for _, ridge, block, forecasts in held_out(design, target, blocks, max(SPANS), ridges, ("squared",), notify):
        scores[ridge] += float(((target[block] - forecasts) ** 2).mean()) / folds
    best = min(scores, key=lambda ridge: scores[ridge])
    named = {f"squared ridge={ridge:g}": score for ridge, score in scores.items()}
    return Selection(fit_har(values, ridge=best, outputs=outputs), {"ridge": best}, len(scores), named)
