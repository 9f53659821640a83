"""Forecasts of several steps from all rows at once equal forecasts that are fed back from each row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.evaluation.horizons import forecasts_ahead
from grownas.genotype import Genotype, Node, Op
from grownas.readout import LinearReadout

CELL = Genotype((Node((Op("add", "tanh", 0.6), Op("hadamard", "identity", 0.4))), Node((Op("add", "sigmoid", 1.0),))))


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    return LinearReadout(GrownRNN(CELL, 3, 5), 3, generator=generator)


def test_each_origin_is_forecast_as_if_it_were_the_last_row(model):
    values = np.random.default_rng(0).normal(size=(12, 3))
    found = forecasts_ahead(model, values, 4)
    assert found.shape == (12, 4, 3)
    assert found.dtype == np.float64
    with torch.no_grad():
        for t in range(12):
            out, hidden = model(torch.from_numpy(values[: t + 1]).float().unsqueeze(1))
            for k in range(4):
                np.testing.assert_allclose(found[t, k], out[-1, 0].numpy(), rtol=1e-4, atol=1e-6)
                out, hidden = model(out[-1:], hidden)


def test_later_rows_change_no_earlier_forecast(model):
    values = np.random.default_rng(0).normal(size=(12, 3))
    changed = values.copy()
    changed[8:] = 100.0
    before, after = (forecasts_ahead(model, each, 3) for each in (values, changed))
    np.testing.assert_array_equal(before[:8], after[:8])
    assert not np.array_equal(before[8], after[8])
