"""DGRU, the recurrent network of the benchmark OpenDPD, as the core of a task's model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from grownas.baselines.recurrent import recurrent_core
from grownas.readout import drawn_linear


class DGRU(nn.Module):
    """A GRU, a hidden layer, and a shortcut from the inputs: the output is `[relu(W h_t + b), x_t]`.

    With a linear readout this is the DGRU of Wu et al. (2024), OpenDPD, where x_t are the features of a sample. We
    differ: weights are drawn with PyTorch's distribution, as those of the other baselines.

    Attributes:
        input_size: I.
        hidden_size: width of the output, the units of the GRU plus I.
    """

    def __init__(self, input_size: int, units: int, *, generator: Generator) -> None:
        """Draw all weights from `generator`."""
        super().__init__()
        self.input_size, self.hidden_size = input_size, units + input_size
        self.gru = recurrent_core("gru", input_size, units, generator=generator)
        self.hidden = drawn_linear(units, units, generator=generator)

    def forward(self, x: Tensor, h_0: Any = None) -> tuple[Tensor, Any]:
        """Map inputs `(T, B, I)` and the GRU's state to outputs `(T, B, units + I)` and its last state."""
        out, state = self.gru(x, h_0)
        return torch.cat([self.hidden(out).relu(), x], dim=-1), state
