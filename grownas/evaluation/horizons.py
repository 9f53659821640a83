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
def forecasts_ahead(model: Model, values: Array, steps: int, future: Array | None = None) -> Array:
    """Forecast `steps` rows after each row, from a zero state before the first row.

    All rows are origins at once: the states after each row form the batch of the further steps. Columns that the model
    does not forecast are inputs only: step k + 1 reads their actual values in row t + k.

    Args:
        model: a core of one layer whose output is its state, with a linear readout to the first O inputs.
        values: standardised, shape `(n, I)`.
        steps: number of steps h.
        future: the inputs in the rows after the last, standardised, shape `(m, I - O)`; None: they are unknown.

    Returns:
        Standardised forecasts, shape `(n, h, O)`: `[t, k]` forecasts row t + k + 1 from rows up to t; nan if it needs
        inputs that are unknown.
    """
    readout, x = readout_of(model), torch.from_numpy(values).float().unsqueeze(1).to(readout_of(model).weight)
    outputs, rows = readout.out_features, len(values)
    unknown = np.full((steps, values.shape[1] - outputs), np.nan)
    given = np.concatenate([values[:, outputs:], unknown if future is None else future, unknown])
    inputs = torch.from_numpy(given).to(x)
    with evaluating(model):
        out, _ = model.core(x)  # (n, 1, H)
        state = out.transpose(0, 1)  # (1, n, H)
        forecasts = [readout(out)[:, 0]]
        for k in range(1, steps):
            fed = torch.cat([forecasts[-1], inputs[k : k + rows]], dim=1)
            out, state = model.core(fed.unsqueeze(0), state)  # (1, n, H)
            forecasts.append(readout(out)[0])
    found: Array = torch.stack(forecasts, dim=1).double().cpu().numpy()
    return found


def returns_ahead(
    models: Sequence[Any], values: Array, steps: int, *, start: int, context: int, future: Array | None = None
) -> Array:
    """Forecast the values after each row from `start` on, in their own units, mean over models.

    Args:
        models: models as for `forecasts_ahead`, which also hold their scaling as `mean` and `sd`, each `(I,)`.
        values: shape `(n, I)`.
        steps: number of steps h.
        start: index of the first row after which is forecast.
        context: rows that the models read before this row, as far as there are so many.
        future: inputs in the rows after the last, shape `(m, I - O)`; see `forecasts_ahead`.

    Returns:
        Forecasts, shape `(n - start, h, O)`.
    """
    first = max(0, start - context)
    found = []
    for model in models:
        mean, sd, outputs = model.mean.cpu().numpy(), model.sd.cpu().numpy(), readout_of(model).out_features
        later = None if future is None else (future - mean[outputs:]) / sd[outputs:]
        forecasts = forecasts_ahead(model, (values[first:] - mean) / sd, steps, later)
        found.append(mean[:outputs] + sd[:outputs] * forecasts[start - first :])
    mean_of_models: Array = np.mean(found, axis=0)
    return mean_of_models
