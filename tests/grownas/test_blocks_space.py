"""The space of blocks: what it draws and changes stays inside, and all of it can be reached."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grownas.blocks import DEFAULT_BLOCKS
from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import Genotype, Node, Op
from grownas.space import SearchSpace
from support.blocks import SMALL

FULL = SearchSpace((), (), max_nodes=4, backbone="blocks", blocks=DEFAULT_BLOCKS, cells=2)

spaces = st.builds(
    lambda names, most, cells: SearchSpace((), (), most, backbone="blocks", blocks=tuple(names), cells=cells),
    st.lists(st.sampled_from(DEFAULT_BLOCKS), min_size=1, unique=True).filter(lambda names: names != ["none"]),
    st.integers(1, 5),
    st.integers(1, 3),
)


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32))
def test_a_sample_is_allowed_and_without_none(space, seed):
    genotype = space.sample(random.Random(seed))
    assert space.contains(genotype)
    assert genotype.cells == space.cells
    assert {edge.op for node in genotype.nodes for edge in node.edges} <= set(space.blocks) - {"none"}
    assert space.sample(random.Random(seed)) == genotype


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32), st.integers(1, 12))
def test_mutants_differ_by_one_op_one_edge_or_one_node_and_stay_in_the_space(space, seed, steps):
    rng = random.Random(seed)
    genotype = space.sample(rng)
    assume(len(set(space.blocks) - {"none"}) > 1 or space.max_nodes > 1)
    for _ in range(steps):
        mutant = space.mutate(genotype, rng)
        assert space.contains(mutant)
        assert mutant != genotype
        if len(mutant.nodes) == len(genotype.nodes):
            before, after = ([edge for node in one.nodes for edge in node.edges] for one in (genotype, mutant))
            assert len(set(enumerate(before)) - set(enumerate(after))) <= 2  # a new source may swap the two
        else:
            few, many = sorted((genotype, mutant), key=lambda one: len(one.nodes))
            assert any(ops_of(few) == ops_of(many, gone) for gone in range(len(many.nodes)))
        genotype = mutant


def ops_of(genotype, gone=None):
    """The ops of each node, in any order, without those of one node."""
    return [sorted(edge.op for edge in node.edges) for i, node in enumerate(genotype.nodes) if i != gone]


def test_what_read_a_removed_node_reads_what_it_read():
    first = BlockNode((BlockEdge(0, "fir(4)"), BlockEdge(1, "fir(4)")))
    second = BlockNode((BlockEdge(1, "delay(1)"), BlockEdge(2, "polynomial(5)")))
    third = BlockNode((BlockEdge(2, "delay(1)"), BlockEdge(3, "fir(4)")))
    space, rng = replace(FULL, max_nodes=3, cells=1), random.Random(0)
    found = {space.mutate(BlocksGenotype((first, second, third)), rng) for _ in range(400)}
    bridged = BlockNode((BlockEdge(0, "polynomial(5)"), BlockEdge(1, "delay(1)")))
    after = BlockNode((BlockEdge(0, "delay(1)"), BlockEdge(2, "fir(4)")))
    assert [one for one in found if len(one.nodes) == 2 and one.nodes[0] != first] == [BlocksGenotype((bridged, after))]


def test_mutation_reaches_all_cells_of_a_space():
    space = SearchSpace((), (), 2, backbone="blocks", blocks=("none", "fir(2)", "delay(1)"))
    rng, seen = random.Random(0), set()
    genotype = space.sample(rng)
    for _ in range(2000):
        seen.add(genotype)
        genotype = space.mutate(genotype, rng)
    assert len(seen) == 4 + 4 * 4 * 3


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (replace(SMALL, nodes=SMALL.nodes[:1]), r"nodes\[0\]\.edges\[0\]\.op: fir\(3\) is not in the space"),
        (replace(SMALL, nodes=SMALL.nodes[:1], cells=1), "cells: 1, the space has 2"),
        (replace(SMALL, nodes=SMALL.nodes[:1] * 5), "nodes: 5, the space allows 4"),
        (Genotype((Node((Op("add", "tanh"),)),)), "the genotype is a chain, the space has backbone=blocks"),
    ],
    ids=["op", "cells", "nodes", "backbone"],
)
def test_what_is_outside_is_not_mutated(genotype, message):
    assert not FULL.contains(genotype)
    with pytest.raises(GenotypeError, match=message):
        FULL.mutate(genotype, random.Random(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ()}, "space.blocks: empty: a cell needs an op other than none"),
        ({"blocks": ("none",)}, "space.blocks: none: a cell needs an op other than none"),
        ({"blocks": ("fir(2)", "fir(2)")}, r"space.blocks: 'fir\(2\)' appears twice"),
        ({"blocks": ("fir(2)", "fur(2)")}, r"space.blocks: unknown op 'fur\(2\)'"),
        ({"cells": 0}, "space.cells: 0 is not a whole number from 1 to 3"),
        ({"cells": True}, "space.cells: True is not a whole number"),
        ({"activation": ("tanh",)}, "space.activation: .* is for chains and DAGs only; leave it out with"),
        ({"highway": True}, "space.highway: True is for chains only; leave it out with backbone=blocks"),
    ],
    ids=["no ops", "none alone", "twice", "unknown", "no cells", "flag", "activation", "highway"],
)
def test_errors_quote_what_came(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(FULL, **changes)


def test_a_space_of_one_cell_has_no_mutant():
    space = SearchSpace((), (), 1, backbone="blocks", blocks=("none", "fir(2)"))
    with pytest.raises(ConfigError, match="a cell with one op and one node cannot be mutated"):
        space.mutate(space.sample(random.Random(0)), random.Random(0))


def test_blocks_are_for_blocks_only():
    with pytest.raises(ConfigError, match=r"space\.blocks: \('fir\(2\)',\) is for blocks only; leave it out"):
        SearchSpace(("add",), ("tanh",), blocks=("fir(2)",))
