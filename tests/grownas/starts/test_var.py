"""The start: an untrained supernet whose forecasts are a fitted VAR's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.baselines.combination import combine_by_folds
from grownas.baselines.var import VAR, fit_var, fit_var_robust
from grownas.errors import ConfigError
from grownas.morphisms import is_carrier, with_carrier
from grownas.ops import DEFAULT_OPS
from grownas.starts.random import random_start
from grownas.starts.var import hidden_size_for, start_at_var, var_start

SERIES = 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SWITCHES = [{"highway": h, "share_projection": s} for h in (False, True) for s in (False, True)]


class Model(nn.Module):
    def __init__(self, core, outputs=SERIES):
        super().__init__()
        self.core, self.readout = core, nn.Linear(core.hidden_size, outputs)

    def forward(self, x):
        return self.readout(self.core(x)[0])


class Task:
    """All that a start needs of a task."""

    input_size = SERIES

    def __init__(self, dtype=torch.float64, outputs=SERIES):
        self.dtype, self.outputs = dtype, outputs

    def model(self, core, *, generator):
        model = Model(core, self.outputs)
        with torch.no_grad():
            for parameter in model.readout.parameters():
                parameter.uniform_(-1, 1, generator=generator)
        return model.to(self.dtype)


@pytest.fixture(scope="module")
def values():
    """Three series that depend on each other's two last days."""
    rng = np.random.default_rng(0)
    matrices = 0.3 * rng.normal(size=(2, SERIES, SERIES))
    rows = [np.zeros(SERIES)] * 2
    for _ in range(300):
        rows.append(0.1 + matrices[0] @ rows[-1] + matrices[1] @ rows[-2] + rng.standard_t(4, size=SERIES))
    return np.array(rows[2:])


def build(dtype=torch.float64, *, nodes=(DEFAULT_OPS,), hidden=16, seed=0, **options):
    return var_start(
        Task(dtype),
        [list(ops) for ops in nodes],
        hidden_size=hidden,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def forecasts(model, values):
    x = torch.from_numpy(values).to(model.readout.weight.dtype).unsqueeze(1)
    with torch.no_grad():
        return model(x).squeeze(1).double().numpy()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("nodes", [1, 3])
def test_the_untrained_forecasts_are_the_vars(values, dtype, switches, order, nodes):
    """On every day, the first ones included: rows before the first count as zero for both."""
    var = fit_var(values, order)
    model = build(dtype, nodes=[DEFAULT_OPS] * nodes, var=var, **switches)
    assert len(model.core.nodes) == nodes
    np.testing.assert_allclose(forecasts(model, values), var.forecast(values), rtol=0, atol=TOLERANCE[dtype])


def with_averages(order, centres, seed=0):
    """A VAR with averages, its coefficients drawn."""
    rng = np.random.default_rng(seed)
    blocks = 0.3 * rng.normal(size=(order + len(centres), SERIES, SERIES))
    return VAR(rng.normal(size=SERIES), blocks[:order], "squared", blocks[order:], centres)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize(("order", "centres"), [(1, (2.0, 10.0)), (2, (5.0,)), (3, (1.0, 5.0, 25.0)), (1, (0.0,))])
@pytest.mark.parametrize("nodes", [1, 3])
def test_the_untrained_forecasts_are_those_of_a_var_with_averages(values, dtype, switches, order, centres, nodes):
    var = with_averages(order, centres)
    model = build(dtype, nodes=[DEFAULT_OPS] * nodes, hidden=20, var=var, **switches)
    np.testing.assert_allclose(forecasts(model, values), var.forecast(values), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("hidden", [12, 13, 40])
@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_untrained_forecasts_are_those_of_a_combination(values, hidden, share, switches):
    """Free units and the carrier's share do not matter; the combination is the weighted sum of its parts' forecasts."""
    found = combine_by_folds(values, ridges=(0.01, 0.3), losses=("squared",))
    parts = sum(w * part.fit(values).forecast(values) for w, part in zip(found.weights, found.parts, strict=True))
    model = build(var=found.var, hidden=hidden, carrier_share=share, **switches)
    np.testing.assert_allclose(forecasts(model, values), parts, rtol=0, atol=1e-10)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_leaky_units_hold_the_averages(values, switches):
    """h_t = [x_t, x_{t-1}, e^1_t, e^2_t, free units], where a step takes 1 / (1 + centre) of the input."""
    model = build(var=with_averages(2, (2.0, 10.0)), hidden=15, **switches)
    with torch.no_grad():
        h = model.core(torch.from_numpy(values).unsqueeze(1))[0].squeeze(1).numpy()
    for number, kept in enumerate((2 / 3, 10 / 11)):
        wanted = np.zeros(SERIES)
        for row, value in enumerate(values):
            wanted = kept * wanted + (1 - kept) * value
            np.testing.assert_allclose(h[row, 6 + 3 * number : 9 + 3 * number], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", [6, 7, 40])
@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_units_shares_and_kind_of_var_do_not_matter(values, hidden, share, switches):
    var = fit_var_robust(values, 2, ridge=0.1)
    model = build(var=var, hidden=hidden, carrier_share=share, **switches)
    np.testing.assert_allclose(forecasts(model, values), var.forecast(values), rtol=0, atol=1e-10)
    node = model.core.mixed_nodes()[0]
    carrier = next(i for i, op in enumerate(node.ops) if is_carrier(op, switches["share_projection"]))
    assert node.shares[carrier].item() == pytest.approx(share)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("ops", [[("add", "tanh")], [("hadamard", "relu"), ("add", "sigmoid")], [("add", "identity")]])
def test_nodes_without_a_carrier_are_given_one(values, ops, switches):
    var = fit_var(values, 2)
    model = build(var=var, nodes=[ops, ops], **switches)
    wanted = [(op.combine, op.activation) for op in with_carrier(ops, switches["share_projection"])]
    assert [model.core.op_names(node) for node in range(2)] == [wanted, wanted]
    np.testing.assert_allclose(forecasts(model, values), var.forecast(values), rtol=0, atol=1e-10)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_register_holds_the_last_days(values, switches):
    """h_t = [x_t, x_{t-1}, x_{t-2}, free units]."""
    model = build(var=fit_var(values, 3), hidden=12, **switches)
    with torch.no_grad():
        h = model.core(torch.from_numpy(values).unsqueeze(1))[0].squeeze(1).numpy()
    for lag in range(3):
        np.testing.assert_allclose(h[lag:, 3 * lag : 3 * lag + 3], values[: len(values) - lag], rtol=0, atol=1e-10)
        np.testing.assert_allclose(h[:lag, 3 * lag : 3 * lag + 3], 0, rtol=0, atol=1e-10)


def test_free_units_are_features_of_the_past_that_the_readout_can_take_up(values):
    model = build(var=fit_var(values, 1), hidden=8)
    with torch.no_grad():
        h = model.core(torch.from_numpy(values).unsqueeze(1))[0].squeeze(1).numpy()
    assert (h[:, 3:].std(0) > 1e-3).all()
    assert (model.readout.weight[:, 3:] == 0).all()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_op_of_the_start_and_of_further_nodes_learns(values, switches):
    model = build(var=fit_var(values, 2), nodes=[DEFAULT_OPS] * 2, hidden=6, **switches)
    x = torch.from_numpy(values[:50]).unsqueeze(1)
    (model(x)[:-1] - x[1:]).square().mean().backward()
    for node in model.core.mixed_nodes():
        assert (node.b_x.grad.abs().sum(1) > 0).all()
        assert (node.alpha.grad != 0).all()


def test_starting_leaves_the_given_model_alone(values):
    core = Backbone(SERIES, 8, 1, DEFAULT_OPS).double()
    model = Model(core).double()
    before, var = copy.deepcopy(model.state_dict()), fit_var(values, 2)
    started = start_at_var(model, var.intercept, var.coefficients)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    np.testing.assert_allclose(forecasts(started, values), var.forecast(values), rtol=0, atol=1e-10)


def test_a_generator_fixes_the_start(values):
    var = fit_var(values, 2)
    first, again, other = (
        torch.cat([p.flatten() for p in build(var=var, nodes=[DEFAULT_OPS] * 2, seed=seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_at_a_random_start_all_weights_are_drawn():
    ops = [[("add", "tanh")], [("hadamard", "relu"), ("add", "sigmoid")]]
    generator = torch.Generator().manual_seed(0)
    model = random_start(Task(), ops, input_size=SERIES, hidden_size=5, generator=generator)
    assert [model.core.op_names(node) for node in range(2)] == ops
    assert all((alpha == 0).all() for alpha in model.core.alpha)
    weights = [p for name, p in model.named_parameters() if not name.endswith("alpha") and p.numel()]
    assert all((weight != 0).all() for weight in weights)


def test_too_few_units_are_refused_with_the_number_needed(values):
    with pytest.raises(ConfigError, match=r"VAR\(3\) of 3 series needs 9 hidden units, space.hidden_size is 8; raise"):
        build(var=fit_var(values, 3), hidden=8)


def test_too_few_units_for_the_averages_are_refused_with_the_number_needed(values):
    message = r"VAR\(1\) and 2 averages of 3 series needs 9 hidden units, space.hidden_size is 8; raise"
    with pytest.raises(ConfigError, match=message):
        build(var=with_averages(1, (2.0, 10.0)), hidden=8)


@pytest.mark.parametrize(
    ("blocks", "series", "hidden"),
    [(1, 1, 16), (1, 12, 16), (4, 4, 16), (1, 17, 34), (8, 4, 64), (3, 20, 64), (8, 8, 64), (10, 12, 120)],
)
def test_the_rule_for_the_hidden_size(blocks, series, hidden):
    """16 while the register fits, else twice the register up to 64, never below it."""
    assert hidden_size_for(blocks, series) == hidden


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["lags", "averages", "combination"])
def test_with_inputs_that_are_not_forecast_the_untrained_forecasts_are_the_varxs(values, kind, dtype):
    """Two of three columns are forecast; the register holds all three."""
    if kind == "lags":
        var = fit_var_robust(values, 3, ridge=0.01, outputs=2)
    else:
        var = combine_by_folds(values, blocks=3 if kind == "averages" else None, outputs=2).var
    assert var.coefficients.shape[1:] == (2, SERIES)
    task = Task(dtype, outputs=2)
    given = {"hidden_size": SERIES * var.blocks + 1, "generator": torch.Generator().manual_seed(0)}
    started = var_start(task, [list(DEFAULT_OPS)], var=var, **given)
    with torch.no_grad():
        found = started(torch.tensor(values[:60], dtype=dtype).unsqueeze(1))[:, 0]
    np.testing.assert_allclose(found.numpy(), var.forecast(values[:60]), rtol=0, atol=TOLERANCE[dtype] * 10)
