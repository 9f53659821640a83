"""DLinear: a moving average splits the last rows into trend and remainder; each has its own linear forecast."""

from __future__ import annotations

from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool1d, pad

from grownas.baselines.window import last_rows
from grownas.readout import drawn_linear

LOOKBACKS = (10, 20, 40, 80)  # rows that validation tries, as many values as an LSTM has sizes
KERNEL = 25  # rows of the moving average, as in the paper


def decompose(rows: Tensor, kernel: int = KERNEL) -> tuple[Tensor, Tensor]:
    """Split windows into trend and remainder.

    Args:
        rows: shape `(..., I, L)`.
        kernel: rows of the centred moving average, odd; the first and the last row are repeated beyond the window.

    Returns:
        The moving average and what it leaves, both of shape `(..., I, L)`.
    """
    padded = pad(rows.flatten(0, -3), (kernel // 2, kernel // 2), mode="replicate")
    trend = avg_pool1d(padded, kernel, stride=1).view_as(rows)
    return trend, rows - trend


class DLinear(nn.Module):
    """The forecast of a series from its own last L rows: a linear function of their trend plus one of the remainder.

    All series have the same weights.

    Attributes:
        input_size: I.
        hidden_size: I, since the output is the forecast.

    Reference:
        Zeng, Chen, Zhang & Xu (2023), Are transformers effective for time series forecasting?, the variant with shared
        weights (DLinear-S).
    """

    def __init__(self, input_size: int, lookback: int, *, generator: Generator) -> None:
        """Draw the weights from `generator`, with PyTorch's distribution of `nn.Linear`; `lookback` is L."""
        super().__init__()
        self.input_size, self.hidden_size, self.lookback = input_size, input_size, lookback
        self.trend, self.remainder = (drawn_linear(lookback, 1, generator=generator) for _ in range(2))

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Forecast the row after each row of a sequence.

        Args:
            x: shape `(T, B, I)`.
            past: the L - 1 rows before x, shape `(L - 1, B, I)`; zeros if None.

        Returns:
            Forecasts `(T, B, I)` and the last L - 1 rows.
        """
        rows, past = last_rows(x, past, self.lookback)  # (T, B, I, L)
        trend, remainder = decompose(rows)
        return (self.trend(trend) + self.remainder(remainder)).squeeze(-1), past
