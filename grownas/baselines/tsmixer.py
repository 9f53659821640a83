"""TSMixer: one layer that mixes the last rows along time, then along series, and a linear forecast of each series."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from grownas.baselines.window import last_rows
from grownas.readout import drawn_linear

LOOKBACK = 20  # rows: a month of trading days
UNITS = (16, 32, 64, 128)  # hidden units that validation tries, as many values as an LSTM has sizes


class TSMixer(nn.Module):
    """Time mixing x + relu(A norm(x)), then feature mixing x + V relu(U norm(x)), then w x, all with biases.

    A and w act along the L rows and are the same for all series; U and V act along the series and are the same for all
    rows.

    Attributes:
        input_size: I.
        hidden_size: I, since the output is the forecast.

    Reference:
        Chen, Li, Yoder, Arik & Pfister (2023), TSMixer: an all-MLP architecture for time series forecasting. Theirs has
        batch norm or layer norm over rows and series; ours has layer norm, with which a forecast depends on its own
        window alone. Validation tunes weight decay instead of dropout.
    """

    def __init__(self, input_size: int, units: int, *, lookback: int = LOOKBACK, generator: Generator) -> None:
        """Draw the weights from `generator`.

        Args:
            input_size: number of series I.
            units: hidden units of the feature mixing.
            lookback: number of rows L.
            generator: draws all weights, with PyTorch's distribution of `nn.Linear`.
        """
        super().__init__()
        self.input_size, self.hidden_size, self.lookback = input_size, input_size, lookback
        self.time_norm, self.series_norm = (nn.LayerNorm([input_size, lookback]) for _ in range(2))
        self.time = drawn_linear(lookback, lookback, generator=generator)
        self.widen = drawn_linear(input_size, units, generator=generator)
        self.narrow = drawn_linear(units, input_size, generator=generator)
        self.forecast = drawn_linear(lookback, 1, generator=generator)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Forecast the row after each row of a sequence.

        Args:
            x: shape `(T, B, I)`.
            past: the L - 1 rows before x, shape `(L - 1, B, I)`; zeros if None.

        Returns:
            Forecasts `(T, B, I)` and the last L - 1 rows.
        """
        rows, past = last_rows(x, past, self.lookback)  # (T, B, I, L)
        rows = rows + self.time(self.time_norm(rows)).relu()
        mixed = self.narrow(self.widen(self.series_norm(rows).mT).relu())  # (T, B, L, I)
        return self.forecast(rows + mixed.mT).squeeze(-1), past
