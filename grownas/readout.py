"""The model that most tasks need: a core and a linear readout of its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn


class LinearReadout(nn.Module):
    """A core and a linear readout (see `grownas.protocols.Model`).

    Attributes:
        core: reads `(T, B, I)`, gives `(T, B, H)`; it has `hidden_size`.
        readout: maps the core's output to predictions.
    """

    def __init__(self, core: nn.Module, outputs: int, *, generator: Generator | None = None) -> None:
        """Draw the readout as PyTorch draws linear layers, from `generator`.

        Args:
            core: a supernet, a derived cell, `nn.LSTM` or `nn.GRU`.
            outputs: O, the number of predictions at each step.
            generator: draws the readout's weights.
        """
        super().__init__()
        self.core = core
        hidden_size: int = core.hidden_size  # type: ignore[assignment]
        self.readout = nn.Linear(hidden_size, outputs, device="meta").to_empty(device="cpu")
        bound = hidden_size**-0.5
        with torch.no_grad():
            for parameter in self.readout.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def encode(self, x: Tensor) -> Tensor:
        """Return inputs `(T, B, I)` in the weights' dtype and on their device."""
        return x.to(self.readout.weight)

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)` and last state."""
        return self.core(self.encode(x), hidden)  # type: ignore[no-any-return]

    def decode(self, out: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` to predictions `(T, B, O)`."""
        predictions: Tensor = self.readout(out)
        return predictions

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map inputs `(T, B, I)` to predictions `(T, B, O)` and the last state."""
        out, hidden = self.states(x, hidden)
        return self.decode(out), hidden
