"""Training losses of standardised returns. Each returns the loss of every forecast; the task takes the mean.

The functions only call methods of tensors, so this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

DELTA = 1.5  # error in standard deviations at which the Huber loss turns linear
DECAY = 0.94  # decay of the variance's moving average, as in RiskMetrics (1996) for daily data
FLOOR = 0.1  # least variance, as a share of the mean variance, so that calm days do not dominate the loss


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Return half the squared error."""
    return 0.5 * (output - target).square()


def huber(output: Tensor, target: Tensor) -> Tensor:
    """Return half the squared error up to an error of `DELTA`, linear beyond (Huber, 1964)."""
    error = (output - target).abs()
    near = error.clamp(max=DELTA)
    return near * (error - 0.5 * near)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared,
    "huber": huber,
    "volatility": squared,  # weighted by `calmness`
}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {  # their derivatives by the output, from the error
    "squared": lambda error: error,
    "huber": lambda error: error.clamp(-DELTA, DELTA),
    "volatility": lambda error: error,
}


def with_slope(name: str, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return a loss of `LOSSES`, with the same bits, and its derivative by the output.

    With the slope s of the error e all of them are s (e - s / 2).
    """
    error = output - target
    slope = SLOPES[name](error)
    return slope * (error - 0.5 * slope), slope


def calmness(values: np.ndarray[Any, Any], train_end: int) -> np.ndarray[Any, Any]:
    """Return each day's weight for the loss `volatility`: the inverse of the variance predicted from earlier days.

    Args:
        values: standardised returns, shape `(n, I)`.
        train_end: number of rows of the training part; the weights have mean 1 over these rows.

    Returns:
        Weights, shape `(n, 1)`; row t depends only on rows before t.
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
