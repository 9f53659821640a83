"""The last rows at every step, and the readout that leaves a forecast unchanged."""

from __future__ import annotations

import pytest
import torch

from grownas.baselines.window import fix_readout, last_rows
from grownas.readout import LinearReadout
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters, make_optimizers


@pytest.mark.parametrize("lookback", [1, 3, 12])
def test_each_step_has_its_last_rows_with_the_oldest_first(lookback):
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    rows, past = last_rows(x, None, lookback)
    known = torch.cat([torch.zeros(lookback - 1, 2, 3), x])
    for step in range(7):
        assert torch.equal(rows[step], torch.stack(list(known[step : step + lookback]), dim=-1))
    assert torch.equal(past, known[7:])
    again, _ = last_rows(x[:2], past, lookback)
    assert torch.equal(again[0, ..., :-1], past.permute(1, 2, 0))


class Doubling(torch.nn.Module):
    """Forecasts twice the last row, as a weight of 2 learned it."""

    input_size = hidden_size = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x, h_0=None):
        return self.weight * x, h_0


def test_a_fixed_readout_passes_the_forecast_on_and_is_not_trained():
    model = fix_readout(LinearReadout(Doubling(), 3, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(x)[0], 2 * x)
    assert count_parameters(model) == 1
    (optimizer,) = make_optimizers(model, Recipe(weights=OptimizerRecipe(rate=0.1, weight_decay=1.0)))
    model(x)[0].square().mean().backward()
    optimizer.step()
    assert model.core.weight < 2
    assert torch.equal(model.readout.weight, torch.eye(3))
    assert not model.readout.bias.any()
