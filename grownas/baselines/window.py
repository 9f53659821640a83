"""Shared by models that forecast from the last rows of a sequence, written as recurrent cores with these rows as state.

The output of such a core is the forecast itself, so the model's readout is fixed at the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grownas.protocols import AnyModel
from grownas.readout import readout_of


def last_rows(x: Tensor, past: Tensor | None, lookback: int) -> tuple[Tensor, Tensor]:
    """Return the last L rows at every time step.

    Args:
        x: shape `(T, B, I)`.
        past: the L - 1 rows before x, shape `(L - 1, B, I)`; zeros, the mean of standardised series, if None.
        lookback: L.

    Returns:
        Rows, the oldest first, shape `(T, B, I, L)`, and the last L - 1 rows, the state after x.
    """
    known = torch.cat([x.new_zeros(lookback - 1, *x.shape[1:]) if past is None else past, x])
    return known.unfold(0, lookback, 1), known[len(x) :]


@torch.no_grad()
def fix_readout(model: AnyModel) -> AnyModel:
    """Set the readout of a new model to the identity, in place, and exclude it from training; return the model."""
    readout = readout_of(model)
    readout.weight.copy_(torch.eye(*readout.weight.shape))
    readout.bias.zero_()
    readout.requires_grad_(False)
    return model
