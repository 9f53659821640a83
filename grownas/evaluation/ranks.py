"""Ranks of values, and Spearman's correlation of two series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from grownas.protocols import Array


def ranks(values: Array) -> Array:
    """Return the rank of each value from 0, equal values with their mean rank; shape `(n,)`."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Array = (ends - (counts + 1) / 2)[place]
    return found


def rank_correlation(one: Array, other: Array) -> float | None:
    """Return Spearman's rank correlation of two series; None if one of them is constant or has a single value."""
    a, b = (ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else None
