"""Linear recurrences over a sequence, without a loop over time steps."""

from __future__ import annotations

import torch
from torch import Tensor


def scan(decay: Tensor, drive: Tensor, first: Tensor) -> Tensor:
    """Return all states of h_t = decay_t * h_{t-1} + drive_t, with h_{-1} = `first`.

    Two steps of the recurrence are again such a step: its decay is the product, its drive `decay_t * drive_{t-1} +
    drive_t`. Each round doubles the number of steps that a row combines, so log2(T) rounds reach every row. Nothing is
    divided, so that decays near 0 lose no precision.

    Args:
        decay: shape `(T, ...)`, real or complex, of modulus at most 1.
        drive: the same shape.
        first: state before the first step, shape `(...)`.

    Returns:
        States, shape `(T, ...)`.

    Reference:
        Hillis & Steele (1986), Data parallel algorithms; Blelloch (1990), Prefix sums and their applications.
    """
    states = torch.cat([drive[:1] + decay[:1] * first, drive[1:]])
    reach = 1  # states[t] is exact for t < reach; later rows combine their last `reach` steps
    while reach < len(states):
        states = torch.cat([states[:reach], states[reach:] + decay[reach:] * states[:-reach]])
        decay = torch.cat([decay[:reach], decay[reach:] * decay[:-reach]])
        reach *= 2
    return states
