"""The zero forecast: each standardised series has its training mean in the next row."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def zero_forecast(values: Array) -> Array:
    """Return zeros, float64, shape `(n, I)`: row t is the forecast of row t + 1."""
    return np.zeros(values.shape)
