"""minGRU: a GRU whose gate and candidate read the input alone, so that its recurrence is linear."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from grownas.baselines.scan import scan
from grownas.readout import drawn_linear


class MinGRU(nn.Module):
    """One layer h_t = (1 - z_t) * h_{t-1} + z_t * c_t, with z_t = sigmoid(W_z x_t + b_z) and c_t = W_c x_t + b_c.

    Attributes:
        input_size: I.
        hidden_size: H.

    Reference:
        Feng, Tung, Ahmed, Bengio & Hajimirsadeghi (2024), Were RNNs all we needed?, section 3.1. This is their linear
        form, not the one in logarithms: `scan` needs no positive states.
    """

    def __init__(self, input_size: int, hidden_size: int, *, generator: Generator) -> None:
        """Draw the weights from `generator`, with PyTorch's distribution of `nn.Linear`."""
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gate_and_candidate = drawn_linear(input_size, 2 * hidden_size, generator=generator)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over a sequence.

        Args:
            x: shape `(T, B, I)`.
            h_0: shape `(1, B, H)`; zeros if None.

        Returns:
            States `(T, B, H)` and the last state `(1, B, H)`.
        """
        gate, candidate = self.gate_and_candidate(x).chunk(2, dim=-1)
        first = torch.zeros_like(candidate[0]) if h_0 is None else h_0[0]
        taken = torch.sigmoid(gate)
        states = scan(1 - taken, taken * candidate, first)
        return states, states[-1:]
