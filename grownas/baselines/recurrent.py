"""LSTM and GRU as cores, and a GRU beside a VAR: the control that measures the effect of a grown cell's topology."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from grownas.baselines.var import VAR
from grownas.cells.gated import GRU, LSTM
from grownas.errors import ConfigError
from grownas.protocols import AnyModel
from grownas.readout import readout_of

KINDS: dict[str, type[LSTM | GRU]] = {"lstm": LSTM, "gru": GRU}


def recurrent_core(kind: str, input_size: int, hidden_size: int, *, generator: Generator) -> LSTM | GRU:
    """Return a one-layer LSTM or GRU, T first, initialised from `generator` with PyTorch's distribution."""
    core = KINDS[kind](input_size, hidden_size, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(hidden_size)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return core


class GRUOnVAR(nn.Module):
    """A GRU beside a register of p lags and L averages; a linear readout of both can represent any such VAR.

    The output is `[x_t, x_{t-1}, .., x_{t-p+1}, e^1_t, .., e^L_t, GRU state]`. The register has no weights, so training
    cannot change it; only GRU and readout are trained. With the averages this control has the same start as growth.

    Attributes:
        input_size: I.
        hidden_size: width of the output, (p + L)*I plus the GRU's units.
    """

    def __init__(
        self, input_size: int, units: int, order: int, centres: Sequence[float] = (), *, generator: Generator
    ) -> None:
        """Build the GRU and the register.

        Args:
            input_size: I.
            units: hidden size of the GRU.
            order: p, the number of lags in the register.
            centres: centres of mass of the L averages, in rows; see `VAR`.
            generator: draws the GRU's weights.
        """
        super().__init__()
        self.input_size, self.order, self.centres = input_size, order, tuple(centres)
        self.hidden_size = (order + len(self.centres)) * input_size + units
        self.gru = recurrent_core("gru", input_size, units, generator=generator)

    def forward(
        self, x: Tensor, h_0: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Run over a sequence.

        Args:
            x: shape `(T, B, I)`.
            h_0: the last p - 1 inputs, `(p - 1, B, I)`, the averages, `(L, B, I)`, and the GRU's state, `(1, B,
                units)`; zeros if None.

        Returns:
            Outputs `(T, B, (p + L)*I + units)` and the state after the last step.
        """
        empty = x.new_zeros(self.order - 1, *x.shape[1:]), x.new_zeros(len(self.centres), *x.shape[1:]), None
        past, average, state = empty if h_0 is None else h_0
        known = torch.cat([past, x])  # (p - 1 + T, B, I), in time order
        read = [known[self.order - 1 - lag : len(known) - lag] for lag in range(self.order)]
        if self.centres:
            taken = 1 / (1 + x.new_tensor(self.centres)[:, None, None])
            steps = []
            for now in x:
                average = average + taken * (now - average)
                steps.append(average)
            read += list(torch.stack(steps, dim=1))  # (L, T, B, I)
        out, state = self.gru(x, state)
        return torch.cat([*read, out], dim=-1), (known[len(x) :], average, state)


@torch.no_grad()
def start_gru_at_var(model: AnyModel, var: VAR) -> AnyModel:
    """Return a copy of a model around a `GRUOnVAR` whose forecasts equal the VAR's.

    The readout's weights are `[A_1 .. A_p | averages | 0]`, its bias is the intercept. The GRU has no effect at first.
    Its readout weights have a gradient at once, the GRU's own weights from the second step on.

    Raises:
        ConfigError: the register has other lags or averages than the VAR.
    """
    model = copy.deepcopy(model)
    core, readout = model.core, readout_of(model)
    assert isinstance(core, GRUOnVAR)
    if core.order != var.order:
        raise ConfigError(f"the GRU's register has {core.order} lags, the VAR has {var.order}; make them equal")
    if core.centres != var.centres:
        raise ConfigError(
            f"the GRU's register has averages with centres {core.centres}, the VAR has {var.centres}; make them equal"
        )
    weight, used = readout.weight, var.blocks * core.input_size
    weight.zero_()
    blocks = np.concatenate([*var.coefficients, *var.averages], axis=1)  # (p + L, O, I) -> (O, (p + L)*I)
    weight[:, :used] = torch.as_tensor(blocks)
    readout.bias.copy_(torch.as_tensor(var.intercept))
    return model
