"""Forecasts of several steps from all rows at once equal forecasts that are fed back from each row alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.evaluation.horizons import forecasts_ahead, returns_ahead
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


def test_forecasts_of_models_are_averaged_in_the_units_of_the_returns(model):
    returns = 0.01 * np.random.default_rng(0).normal(size=(12, 3))
    model.mean, model.sd = torch.tensor([0.0, 0.01, 0.02]).double(), torch.tensor([0.01, 0.02, 0.03]).double()
    other = copy.deepcopy(model)
    other.mean += 1.0
    found = returns_ahead([model, other], returns, 2, start=9, context=4)
    each = [
        one.mean.numpy() + one.sd.numpy() * forecasts_ahead(one, (returns[5:] - one.mean.numpy()) / one.sd.numpy(), 2)
        for one in (model, other)
    ]
    np.testing.assert_array_equal(found, np.mean(each, axis=0)[4:])


def test_inputs_that_are_not_forecast_are_read_from_their_rows_and_unknown_ones_give_nan():
    torch.manual_seed(0)
    model = LinearReadout(GrownRNN(CELL, 3, 5), 2, generator=torch.Generator().manual_seed(0))
    values, future = (np.random.default_rng(seed).normal(size=(rows, 3)) for seed, rows in ((0, 8), (1, 2)))
    found = forecasts_ahead(model, values, 4, future[:, 2:])
    assert found.shape == (8, 4, 2)
    known = np.concatenate([values, future])
    with torch.no_grad():
        for t in range(8):
            out, hidden = model(torch.from_numpy(values[: t + 1]).float().unsqueeze(1))
            for k in range(4):
                if t + k > 9:  # row t + k, of which step k + 1 reads the inputs, is not known
                    assert np.isnan(found[t, k]).all()
                    continue
                np.testing.assert_allclose(found[t, k], out[-1, 0].numpy(), rtol=1e-4, atol=1e-6)
                if t + k + 1 < 10:
                    x = torch.cat([out[-1, 0], torch.tensor(known[t + k + 1, 2:]).float()])
                    out, hidden = model(x.view(1, 1, 3), hidden)
