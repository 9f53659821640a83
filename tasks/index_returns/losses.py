"""Training losses of standardised returns. Each gives the loss of every forecast; the task takes the mean.

The table holds functions of tensors and needs no import of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

DELTA = 1.5  # standard deviations at which the Huber loss turns linear (ALGORITHMS 8)
DECAY = 0.94  # of the variance's moving average, as RiskMetrics (1996) sets it for daily data
FLOOR = 0.1  # least variance, as a share of the mean: calm days must not rule the loss


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error."""
    return 0.5 * (output - target).square()


def huber(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error up to `DELTA`, linear beyond (Huber, 1964)."""
    error = (output - target).abs()
    near = error.clamp(max=DELTA)
    return near * (error - 0.5 * near)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared,
    "huber": huber,
    "volatility": squared,  # weighted by `calmness`
}


def calmness(values: np.ndarray[Any, Any], train_end: int) -> np.ndarray[Any, Any]:
    """Return each day's weight under the loss `volatility`: the inverse of the variance expected the day before.

    Args:
        values: standardised returns, shape `(n, I)`.
        train_end: rows of the training part, over which the weights' mean is 1.

    Returns:
        Shape `(n, 1)`; row t depends on rows before t only.
    """
    squares = (values**2).mean(1)
    typical = float(squares[:train_end].mean())
    variance, expected = typical, np.empty(len(values))
    for t, square in enumerate(squares):
        expected[t] = max(variance, FLOOR * typical)
        variance = DECAY * variance + (1 - DECAY) * square
    weights = 1 / expected
    scaled: np.ndarray[Any, Any] = weights / weights[:train_end].mean()
    return scaled[:, None]
