"""LSTM, GRU and the GRU beside a VAR against PyTorch and the fitted VAR."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas.baselines.recurrent import (
    KINDS,
    GRUOnVAR,
    recurrent_core,
    start_gru_at_var,
)
from grownas.baselines.var import VAR, fit_var
from grownas.errors import ConfigError
from grownas.experiments.experiment import Experiment


class Model(nn.Module):
    """What a task builds around a core."""

    def __init__(self, core, outputs):
        super().__init__()
        self.core, self.readout = core, nn.Linear(core.hidden_size, outputs)

    def forward(self, x, hidden=None):
        out, hidden = self.core(x, hidden)
        return self.readout(out), hidden


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def made(series=3, units=5, order=2, seed=0):
    return Model(GRUOnVAR(series, units, order, generator=seeded(seed)).double(), series).double()


def sequence(steps, batch=2, series=3, seed=1):
    return torch.randn(steps, batch, series, generator=seeded(seed), dtype=torch.float64)


# Cores


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_pytorch_draws(kind):
    ours = recurrent_core(kind, 3, 5, generator=seeded(7))
    torch.manual_seed(7)
    judge = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](3, 5)
    assert ours.state_dict().keys() == judge.state_dict().keys()
    for name, value in judge.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_core_leaves_the_global_generator_alone_and_computes_as_pytorch_does(kind):
    state = torch.get_rng_state()
    ours = recurrent_core(kind, 3, 5, generator=seeded(7))
    assert torch.equal(torch.get_rng_state(), state)
    judge = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](3, 5)
    judge.load_state_dict(ours.state_dict())
    x = sequence(6).float()
    torch.testing.assert_close(ours(x)[0], judge(x)[0], rtol=0, atol=1e-6)


# Sizes


def of_size(kind, series, order):
    """The function that builds a model with a number of units, as the baselines do."""
    if kind in KINDS:
        return lambda units: Model(recurrent_core(kind, series, units, generator=seeded()), series)
    return lambda units: made(series, units, order)


@pytest.mark.parametrize("kind", [*KINDS, "gru_var"])
@pytest.mark.parametrize("units", [1, 4, 23])
@pytest.mark.parametrize(("series", "order"), [(4, 1), (3, 5)])
def test_the_size_for_a_models_own_count_is_its_size(kind, units, series, order):
    build = of_size(kind, series, order)
    assert Experiment.matched_size(None, build, count(build(units))) == units


@settings(max_examples=60)
@given(kind=st.sampled_from([*sorted(KINDS), "gru_var"]), wanted=st.integers(0, 6000))
def test_no_neighbour_comes_nearer(kind, wanted):
    build = of_size(kind, 4, 2)
    found = Experiment.matched_size(None, build, wanted)
    distances = {units: abs(count(build(units)) - wanted) for units in range(max(1, found - 2), found + 3)}
    assert distances[found] == min(distances.values())


# GRU beside a VAR


def test_the_output_holds_the_register_and_then_the_gru():
    core = GRUOnVAR(3, 5, 3, generator=seeded()).double()
    x = sequence(6)
    out, (past, averages, state) = core(x)
    assert core.hidden_size == out.shape[-1] == 3 * 3 + 5
    for lag in range(3):
        block = out[..., 3 * lag : 3 * lag + 3]
        torch.testing.assert_close(block[lag:], x[: 6 - lag], rtol=0, atol=0)
        assert not block[:lag].any()
    judge, last = core.gru(x)
    assert torch.equal(out[..., 9:], judge)
    assert torch.equal(state, last)
    assert torch.equal(past, x[-2:])
    assert averages.shape == (0, *x.shape[1:])


def test_averages_follow_the_lags():
    core = GRUOnVAR(3, 5, 2, (2.0, 10.0), generator=seeded()).double()
    x = sequence(9)
    out, _ = core(x)
    assert core.hidden_size == out.shape[-1] == 4 * 3 + 5
    for number, centre in enumerate((2.0, 10.0)):
        kept = centre / (1 + centre)
        ages = torch.arange(9.0, dtype=torch.float64).flip(0).reshape(-1, 1, 1)
        wanted = (x * kept**ages / (1 + centre)).sum(0)  # of the last row, in closed form
        torch.testing.assert_close(out[-1][..., 6 + 3 * number : 9 + 3 * number], wanted, rtol=0, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(
    order=st.integers(1, 5),
    cuts=st.lists(st.integers(1, 11), max_size=5, unique=True),
    centres=st.sampled_from([(), (2.0,), (2.0, 10.0)]),
)
def test_the_state_carried_over_windows_equals_one_pass(order, cuts, centres):
    core = GRUOnVAR(3, 4, order, centres, generator=seeded()).double()
    x = sequence(12)
    whole, (past, averages, state) = core(x)
    pieces, hidden = [], None
    for piece in x.tensor_split(sorted(cuts)):  # windows may be shorter than the register
        out, hidden = core(piece, hidden)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-14)
    assert torch.equal(hidden[0], past)
    torch.testing.assert_close(hidden[1], averages, rtol=0, atol=1e-14)
    torch.testing.assert_close(hidden[2], state, rtol=0, atol=1e-14)


def test_the_future_changes_nothing_before_it():
    core = GRUOnVAR(3, 4, 3, generator=seeded()).double()
    x = sequence(12)
    changed = torch.cat([x[:7], x[7:] + 1])
    assert torch.equal(core(changed)[0][:7], core(x)[0][:7])
    assert (core(changed)[0][7] != core(x)[0][7]).any()


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_forecasts_equal_the_vars_from_the_first_day_on(order, dtype, tolerance):
    values = np.random.default_rng(order).normal(size=(120, 3))
    values[1:] += 0.5 * values[:-1, ::-1]
    var = fit_var(values, order)
    model = start_gru_at_var(made(order=order).to(dtype), var)
    forecasts, _ = model(torch.from_numpy(values).to(dtype).unsqueeze(1))
    assert forecasts.dtype == dtype
    np.testing.assert_allclose(forecasts[:, 0].detach().double().numpy(), var.forecast(values), rtol=0, atol=tolerance)


def test_starting_leaves_the_model_given_alone():
    model = made()
    before = copy.deepcopy(model.state_dict())
    started = start_gru_at_var(model, VAR(np.ones(3), np.ones((2, 3, 3))))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(started.core.state_dict()[name], value) for name, value in model.core.state_dict().items())


def test_a_register_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="the GRU's register has 2 lags, the VAR has 3"):
        start_gru_at_var(made(order=2), VAR(np.zeros(3), np.zeros((3, 3, 3))))


def test_the_gru_is_reached_by_the_gradient_from_the_second_step_on():
    model = start_gru_at_var(made(), VAR(np.zeros(3), np.full((2, 3, 3), 0.1)))
    x = sequence(10)

    def step():
        model.zero_grad()
        (model(x)[0][:-1] - x[1:]).square().mean().backward()
        moved = [float(parameter.grad.abs().max()) for parameter in model.core.parameters()]
        readout = model.readout.weight.grad[:, 6:].abs()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        return moved, readout

    moved, readout = step()
    assert max(moved) == 0
    assert (readout > 0).all()
    moved, _ = step()
    assert min(moved) > 0


def test_forecasts_equal_those_of_a_var_with_averages():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 3))
    var = VAR(rng.normal(size=3), rng.normal(size=(2, 3, 3)), "squared", rng.normal(size=(2, 3, 3)), (2.0, 10.0))
    core = GRUOnVAR(3, 5, 2, (2.0, 10.0), generator=seeded())
    model = start_gru_at_var(Model(core, 3).double(), var)
    forecasts, _ = model(torch.from_numpy(values).unsqueeze(1))
    np.testing.assert_allclose(forecasts[:, 0].detach().numpy(), var.forecast(values), rtol=0, atol=1e-10)


def test_a_register_of_other_averages_is_refused():
    var = VAR(np.zeros(3), np.zeros((2, 3, 3)), "squared", np.zeros((1, 3, 3)), (5.0,))
    with pytest.raises(ConfigError, match=r"has averages with centres \(\), the VAR has \(5.0,\)"):
        start_gru_at_var(made(order=2), var)
