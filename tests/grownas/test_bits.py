"""Units and their costs, counted by hand and against the matrices of real cells."""

from __future__ import annotations

import pytest

from grownas.bits import bit_operations, multiplications, units
from grownas.cells.cell import GrownRNN
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op, published

CHAIN = Genotype((Node((Op("add", "tanh", 0.5), Op("hadamard", "relu", 0.5))), Node((Op("add", "identity"),))))
GATED = Genotype(CHAIN.nodes, highway=True)
SHARED = Genotype(
    (Node((Op("add", "tanh", 0.5), Op("add", "relu", 0.25), Op("hadamard", "relu", 0.25))),),
    True,
    share_projection=True,
)
DAG = DagGenotype((DagNode(0, "tanh"), DagNode(1, "relu")))


def test_a_unit_is_an_op_of_a_chain_or_a_node_of_a_dag():
    assert units(CHAIN) == [("node 1", "op 1"), ("node 1", "op 2"), ("node 2", "op 1")]
    assert units(GATED)[2:] == [("node 1", "gate"), ("node 2", "op 1"), ("node 2", "gate")]
    assert units(SHARED) == [("node 1", "op 1"), ("node 1", "op 3"), ("node 1", "gate")]
    assert units(DAG) == [("node 0", ""), ("node 1", ""), ("node 2", "")]


@pytest.mark.parametrize("genotype", [CHAIN, GATED, SHARED, DAG, *map(Genotype.load, published())])
def test_multiplications_are_the_entries_of_all_matrices(genotype):
    cell = GrownRNN(genotype, 3, 5)
    entries = sum(one.numel() for name, one in cell.named_parameters() if "W_" in name or "gate_" in name)
    assert sum(map(sum, multiplications(genotype, 3, 5).values())) == entries
    assert len(multiplications(genotype, 3, 5)) == len(units(genotype))


def test_bit_operations_of_a_step():
    assert bit_operations(CHAIN, 2, 3) == 3 * 15 * 32 * 32
    mixed = CHAIN.with_bits([(4, 8), (2, 2), (16, 3)])
    assert bit_operations(mixed, 2, 3) == 15 * (32 + 4 + 48)
    assert bit_operations(CHAIN, 2, 3, mixed.bits) == bit_operations(mixed, 2, 3)
    assert bit_operations(DAG.with_bits([(8, 8), (4, 4), (2, 3)]), 2, 3) == 30 * 64 + 18 * 16 + 18 * 6
