"""Costs of cells counted by hand, and matrix products as PyTorch counts them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from grownas.blocks_genotype import BlockEdge, BlockNode
from grownas.cells.cell import GrownRNN
from grownas.cost import RECURRENT, Cost, costs_of, gru, linear, lstm, total
from grownas.genotype import BlocksGenotype, DagGenotype, DagNode, Genotype, Node, Op
from support.blocks import SMALL

INPUTS, H = 3, 5
ADD, TIMES = Op("add", "tanh", 0.5), Op("hadamard", "identity", 0.5)
CELLS = {
    "chain": Genotype((Node((ADD, TIMES)), Node((Op("add", "relu"),)))),
    "highway": Genotype((Node((ADD, TIMES)),), highway=True),
    "dag": DagGenotype((DagNode(0, "tanh"), DagNode(1, "identity"))),
    "dag of one": DagGenotype((DagNode(0, "relu"),)),
}


def test_costs_add_up():
    assert total([Cost(1, 2, 3, 4), Cost(10, 20, 30, 40)]) == Cost(11, 22, 33, 44)
    assert Cost(products=2, pointwise=3).multiplications == 5


def test_a_chain_by_hand():
    """One unit: I + H weights an op. add: I + H - 2 sums, a bias, a join. hadamard: two biases, joined by a product."""
    cell = Genotype((Node((ADD, TIMES)),))
    assert costs_of(cell, 2, 1) == {
        ("node 1", "op 1"): Cost(products=3, pointwise=0, additions=3, activations=1),
        ("node 1", "op 2"): Cost(products=3, pointwise=1, additions=3, activations=0),
        ("node 1", "mixture"): Cost(products=0, pointwise=2, additions=1, activations=0),
    }


def test_a_gate_by_hand():
    """sigmoid(x g_x + s g_h), two products without a bias, then s + gate (m - s)."""
    cell = Genotype((Node((Op("add", "tanh"),)),), highway=True)
    found = costs_of(cell, 2, 1)
    assert found["node 1", "gate"] == Cost(products=3, pointwise=1, additions=2 + 2, activations=1)
    assert ("node 1", "mixture") not in found  # a single op has the share 1


def test_a_dag_by_hand():
    found = costs_of(CELLS["dag"], 2, 1)
    assert found == {
        ("node 0", ""): Cost(products=6, pointwise=1, additions=4 + 2, activations=2),
        ("node 1", ""): Cost(products=2, pointwise=1, additions=0 + 2, activations=2),
        ("node 2", ""): Cost(products=2, pointwise=1, additions=0 + 2, activations=1),
        ("mean", ""): Cost(products=0, pointwise=1, additions=1, activations=0),
    }


def test_lstm_and_gru_by_hand():
    assert lstm(2, 1) == Cost(products=12, pointwise=3, additions=12 + 1, activations=5)
    assert gru(2, 1) == Cost(products=9, pointwise=2, additions=9 + 3, activations=3)
    assert linear(4, 2) == Cost(products=8, additions=8)


def test_ops_that_share_a_projection_pay_for_it_once():
    ops = (ADD, Op("add", "relu", 0.25), Op("add", "identity", 0.25, own_projection=True))
    found = costs_of(Genotype((Node(ops),), share_projection=True), INPUTS, H)
    assert [found["node 1", f"op {number}"].products for number in (1, 2, 3)] == [(INPUTS + H) * H, 0, (INPUTS + H) * H]
    assert found["node 1", "op 2"] == Cost(additions=2 * H, activations=H)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_products_are_those_that_pytorch_counts(cell):
    model = GrownRNN(cell, INPUTS, H, backend="reference")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, INPUTS))
    assert 2 * total(costs_of(cell, INPUTS, H).values()).products == counter.get_total_flops()


@pytest.mark.parametrize(("name", "module"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_products_are_the_weights_of_recurrent_modules(name, module):
    weights = [parameter for key, parameter in module(INPUTS, H).named_parameters() if key.startswith("weight")]
    assert RECURRENT[name](INPUTS, H).products == sum(weight.numel() for weight in weights)


def test_blocks_by_hand():
    """A complex product takes 4 products and 2 sums; the second power of |x| 2 and 1."""
    node = BlockNode((BlockEdge(0, "fir(3)"), BlockEdge(1, "polynomial(5)-delay(2)")))
    assert costs_of(BlocksGenotype((node,)), 2, 2) == {
        ("cell 1 state 2", "fir(3) of state 0"): Cost(products=12, additions=3 * 2 + 2 * 2),
        ("cell 1 state 2", "polynomial(5)-delay(2) of state 1"): Cost(pointwise=2 + 2 + 2 + 4, additions=1 + 2 + 2 + 2),
        ("cell 1 state 2", "sum"): Cost(additions=2),
    }
    for genotype in (BlocksGenotype((node,)), SMALL):
        assert total(costs_of(genotype, 2, 2).values()).multiplications == genotype.figures["multiplications"]
    assert total(costs_of(SMALL, 2, 2).values()).activations == 2  # the root in polynomial_all(4) of each cell
