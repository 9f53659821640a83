"""Scores of forecasts of standardised returns, overall and per series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def score(actual: np.ndarray, forecasts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Score forecasts.

    Args:
        actual: actual values, standardised by the training part, shape `(n, I)`.
        forecasts: forecasts, same units and shape.
        names: names of the series.

    Returns:
        `mse`, `mae`, `r2` (out of sample, compared with a forecast of zero), `hit_rate` (share of forecasts with the
        right sign, among non-zero returns) and `count`, overall; the same per series under `per_series`.
    """
    columns = range(actual.shape[1])
    each = {names[i]: _score(actual[:, i], forecasts[:, i]) for i in columns}
    return {**_score(actual, forecasts), "per_series": each}


def _score(actual: np.ndarray, forecasts: np.ndarray) -> dict[str, Any]:
    error, moved = actual - forecasts, actual != 0
    hits = np.sign(actual[moved]) == np.sign(forecasts[moved])
    total = float((actual**2).sum())
    return {
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": 1 - float((error**2).sum()) / total if total else None,
        "hit_rate": float(hits.mean()) if moved.any() else None,
        "count": int(actual.size),
    }
