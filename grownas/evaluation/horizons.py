"""Forecasts of several steps ahead by a model that forecasts one step: it is fed its own forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from grownas.evaluation.scoring import evaluating
from grownas.protocols import Model
from grownas.readout import readout_of

Array = np.ndarray[Any, np.dtype[np.float64]]


@torch.no_grad()
def forecasts_ahead(model: Model, values: Array, steps: int) -> Array:
    """Forecast `steps` rows after each row, from a zero state before the first row.

    All rows are origins at once: the states after each row form the batch of the further steps.

    Args:
        model: a core of one layer whose output is its state, with a linear readout to the inputs.
        values: standardised, shape `(n, I)`.
        steps: number of steps h.

    Returns:
        Standardised forecasts, shape `(n, h, I)`: `[t, k]` forecasts row t + k + 1 from rows up to t.
    """
    readout, x = readout_of(model), torch.from_numpy(values).float().unsqueeze(1).to(readout_of(model).weight)
    with evaluating(model):
        out, _ = model.core(x)  # (n, 1, H)
        state = out.transpose(0, 1)  # (1, n, H)
        forecasts = [readout(out)[:, 0]]
        for _ in range(1, steps):
            out, state = model.core(forecasts[-1].unsqueeze(0), state)  # (1, n, H)
            forecasts.append(readout(out)[0])
    found: Array = torch.stack(forecasts, dim=1).double().cpu().numpy()
    return found


def returns_ahead(models: Sequence[Any], returns: Array, steps: int, *, start: int, context: int) -> Array:
    """Forecast the returns after each row from `start` on, in their own units, mean over models.

    Args:
        models: models as for `forecasts_ahead`, which also hold their scaling as `mean` and `sd`, each `(I,)`.
        returns: shape `(n, I)`.
        steps: number of steps h.
        start: index of the first row after which is forecast.
        context: rows that the models read before this row, as far as there are so many.

    Returns:
        Forecasts, shape `(n - start, h, I)`.
    """
    first = max(0, start - context)
    found = []
    for model in models:
        mean, sd = model.mean.cpu().numpy(), model.sd.cpu().numpy()
        forecasts = forecasts_ahead(model, (returns[first:] - mean) / sd, steps)
        found.append(mean + sd * forecasts[start - first :])
    mean_of_models: Array = np.mean(found, axis=0)
    return mean_of_models
