"""Bit widths for trained cells: what is observed, fitted, mixed, priced and read out, on both backbones."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from grownas.bits import bit_operations, multiplications, units
from grownas.cells.cell import GrownRNN
from grownas.cells.quantiser import largest
from grownas.cells.widths import PERCENTILES, MixedCell, best_range, observe, quantised
from grownas.errors import BackendError, ConfigError
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.protocols import Window
from grownas.readout import LinearReadout

CHAIN = Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "identity", 0.5))), Node((Op("add", "relu"),))))
DAG = DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu")))
I, H = 2, 3  # noqa: E741 - the field's names
GATED = Genotype(CHAIN.nodes[1:], highway=True)
SHARED = Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "relu", 0.25), Op("add", "relu", 0.25))),), False, True)
both = pytest.mark.parametrize("genotype", [CHAIN, GATED, SHARED, DAG], ids=["chain", "gated", "shared", "dag"])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(genotype, **options):
    core = GrownRNN(genotype, I, H, backend="reference", dtype=torch.float64, **options)
    core.reset_parameters(torch.Generator().manual_seed(1))
    return LinearReadout(core, I, generator=torch.Generator().manual_seed(2)).double()


def sample_of(model):
    return observe(model, [Window(draw(7, 2, I), draw(7, 2, I)), Window(draw(4, 2, I, seed=3), draw(4, 2, I))])


def test_observers_see_the_inputs_and_the_states_that_each_product_reads():
    model = model_of(CHAIN)
    first, second = (seen.sample for seen in sample_of(model))
    x = torch.cat([draw(7, 2, I), draw(4, 2, I, seed=3)])
    with torch.no_grad():
        states, _ = model.core(x)
    before = torch.cat([torch.zeros(1, 2, H, dtype=torch.float64), states[:-1]])
    assert torch.equal(first["x"].inputs, x.flatten())
    torch.testing.assert_close(first["h"].inputs, before.flatten(), rtol=0, atol=1e-12)
    assert not torch.equal(second["h"].inputs, first["h"].inputs)
    assert torch.equal(first["h"].weights[1], model.core.op_parameters(0, 0, 1)["W_h"])
    assert torch.equal(second["x"].weights[0], model.core.op_parameters(0, 1, 0)["W_x"])


def test_a_thinned_sample_sees_each_unit_alike(monkeypatch):
    monkeypatch.setattr("grownas.cells.observers.MOST_SEEN", 50)
    model = model_of(CHAIN)
    with torch.no_grad():
        model.core.layer(0)[1].op_parameters(0)["b_x"].copy_(torch.tensor([10.0, 20, 30]))  # a relu: one size a unit
    windows = [Window(draw(100, 2, I), draw(100, 2, I))]  # 600 states: every 12th would be of the same unit
    first, _ = (seen.sample for seen in observe(model, windows))
    counts = torch.histc(first["h"].inputs[1:], bins=3, min=5, max=35)
    assert len(first["h"].inputs) == 50
    assert counts.min() >= 10


def test_a_dags_inner_nodes_do_not_read_x():
    assert [list(seen.sample) for seen in sample_of(model_of(DAG))] == [["x", "h"], ["h"], ["h"]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_other_percentile_has_a_smaller_error(bits):
    values = draw(500) ** 3
    top = largest(bits)

    def error(largest_value):
        step = largest_value / top
        return float(((values / step).round().clamp(-top, top) * step - values).square().mean())

    tried = [error(float(torch.quantile(values.abs(), p))) for p in PERCENTILES]
    assert error(best_range(values, bits)) == pytest.approx(min(tried), rel=1e-12)
    assert best_range(torch.zeros(9), bits) == 1.0


@both
def test_many_bits_change_little_and_few_change_much(genotype):
    model, x = model_of(genotype), draw(9, 2, I, seed=5)
    sample = sample_of(model)
    errors = []
    for bits in (3, 6, 9, 12, 16):
        given = [(bits, bits)] * len(units(genotype))
        cell = quantised(model.core, given, sample)
        assert cell.genotype == genotype.with_bits(given)
        errors.append(float((cell(x)[0] - model.core(x)[0]).abs().max().detach()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 < errors[0]


@both
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "free"])
@pytest.mark.parametrize("per", ["op", "node"])
def test_the_expected_cost_is_the_mean_over_all_cells_it_may_become(genotype, per, tie):
    """Enumerates every choice of widths with its probability."""
    model, choices = model_of(genotype), (2, 8)
    mixed = MixedCell(model.core, choices, sample_of(model), per=per, tie=tie)
    with torch.no_grad():
        for number, mixture in enumerate(mixed.mixtures):
            mixture.alpha.copy_(0.3 * draw(2, seed=number))
    mean, total = 0.0, 0.0
    for picked in itertools.product(range(2), repeat=len(mixed.mixtures)):
        chance = math.prod(m.shares.tolist()[i] for m, i in zip(mixed.mixtures, picked, strict=True))
        width = {id(m): choices[i] for m, i in zip(mixed.mixtures, picked, strict=True)}
        bits = [(width[id(weights)], width[id(inputs)]) for weights, inputs in mixed.pairs]
        mean += chance * bit_operations(genotype, I, H, bits)
        total += chance
    assert total == pytest.approx(1, abs=1e-12)
    most = sum(map(sum, multiplications(genotype, I, H).values())) * 64
    assert float(mixed.expected_cost().detach()) == pytest.approx(mean / most, rel=1e-12)


@both
def test_shares_stay_a_distribution_and_their_entropy_is_that_of_the_formula(genotype):
    model = model_of(genotype)
    mixed = MixedCell(model.core, (2, 4, 8), sample_of(model))
    assert float(mixed.entropy().detach()) == pytest.approx(math.log(3), abs=1e-12)
    optimizer = torch.optim.Adam(mixed.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (mixed(draw(5, 2, I))[0].square().mean() + mixed.expected_cost() + mixed.entropy()).backward()
        optimizer.step()
    for mixture in mixed.mixtures:
        shares = mixture.shares.detach()
        assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
        assert (shares > 0).all()
    expected = sum(float(-(p * p.log()).sum()) for p in (m.shares.detach() for m in mixed.mixtures))
    assert float(mixed.entropy().detach()) == pytest.approx(expected / len(mixed.mixtures), abs=1e-12)
    assert set(mixed.bits) == {(2, 2)}  # the price of bits alone decided


@both
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "free"])
def test_reading_out_keeps_what_the_largest_shares_compute(genotype, tie):
    model = model_of(genotype)
    mixed = MixedCell(model.core, (2, 5), sample_of(model), tie=tie)
    with torch.no_grad():
        for number, mixture in enumerate(mixed.mixtures):
            mixture.alpha[number % 2] = 60.0  # the share is 1
    cell, x = mixed.read_out(), draw(6, 2, I, seed=4)
    assert list(cell.genotype.bits) == mixed.bits
    assert {own for bits in mixed.bits for own in bits} == {2, 5}
    assert all((one == other) == tie for one, other in mixed.bits) or not tie
    torch.testing.assert_close(cell(x)[0], mixed(x)[0], rtol=1e-12, atol=1e-12)


def test_each_node_has_one_width_if_asked():
    model = model_of(CHAIN)
    mixed = MixedCell(model.core, (2, 8), sample_of(model), per="node", tie=False)
    assert mixed.names == ["node 1 weights", "node 1 inputs", "node 2 weights", "node 2 inputs"]
    with torch.no_grad():
        mixed.mixtures[0].alpha[1] = 1.0
        mixed.mixtures[3].alpha[1] = 1.0
    assert mixed.bits == [(8, 2), (8, 2), (2, 8)]
    assert mixed.op_names(1) == [("node 1 inputs", "2 bits"), ("node 1 inputs", "8 bits")]


def test_layers_share_widths_but_not_step_sizes():
    model = model_of(CHAIN, num_layers=2)
    sample = sample_of(model)
    assert len(sample) == 4  # two nodes a layer
    mixed = MixedCell(model.core, (2, 8), sample)
    assert len(mixed.mixtures) == 3
    cell = quantised(model.core, [(4, 4), (8, 8), (6, 6)], sample)
    steps = [[node.quantised.x.inputs.step.tolist() for node in cell.layer(n)] for n in range(2)]
    assert steps[0] != steps[1]
    assert [op.bits for node in cell.layer(1) for op in node.ops] == [(4, 4), (8, 8), (6, 6)]


@both
def test_the_given_cell_is_left_untouched_and_copies_share_their_own_mixtures(genotype):
    model = model_of(genotype)
    before = copy.deepcopy(model.state_dict())
    mixed = MixedCell(model.core, (2, 8), sample_of(model), tie=False)
    twin = copy.deepcopy(mixed)
    with torch.no_grad():
        twin.mixtures[0].alpha[1] = 3.0
    assert twin.bits[0] == (8, 2)
    assert mixed.bits[0] == (2, 2)
    assert not torch.equal(twin(draw(3, 1, I))[0], mixed(draw(3, 1, I))[0])
    assert model.core.genotype.bits == ()
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@both
def test_other_backends_say_that_they_cannot(genotype):
    bits = genotype.with_bits([(4, 4)] * len(units(genotype)))
    chain = isinstance(genotype, Genotype)
    for name in ("native", "triton") if chain else ("native", "torch"):
        cell = GrownRNN(bits, I, H, backend=name)
        with pytest.raises(BackendError, match=r"it has no quantised products; backend='auto' finds one that can"):
            cell(torch.zeros(1, 1, I))
    assert GrownRNN(bits, I, H).chosen_backend == ("torch" if chain else "reference")


@pytest.mark.parametrize(("own", "wanted"), [("reference", "reference"), ("native", "auto"), ("auto", "auto")])
def test_only_the_reference_stays_the_backend_of_a_cell_with_widths(own, wanted):
    model = model_of(CHAIN)
    sample = sample_of(model)
    model.core.backend = own
    mixed = MixedCell(model.core, (2, 8), sample)
    found = (mixed.cell, mixed.read_out(), quantised(model.core, [(4, 4)] * 3, sample))
    assert [cell.backend for cell in found] == ([wanted] * 3)


def test_a_model_without_a_derived_cell_is_refused():
    with pytest.raises(ConfigError, match="a LSTM has no bit widths"):
        observe(LinearReadout(torch.nn.LSTM(I, H), I), [])
