"""The space of DAGs: what it draws and changes stays inside, and all of it can be reached."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.ops import ACTIVATION
from grownas.space import SearchSpace

FULL = SearchSpace((), ("none", "tanh", "relu", "sigmoid", "identity"), max_nodes=8, backbone="dag")
CHAIN = Genotype((Node((Op("add", "tanh"),)),))

spaces = st.builds(
    SearchSpace,
    combine=st.just(()),
    activation=st.lists(st.sampled_from(["none", *ACTIVATION]), min_size=1, unique=True)
    .filter(lambda names: names != ["none"])
    .map(tuple),
    max_nodes=st.integers(1, 9),
    backbone=st.just("dag"),
)


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32))
def test_a_sample_is_allowed_and_without_none(space, seed):
    genotype = space.sample(random.Random(seed))
    assert space.contains(genotype)
    assert 1 <= len(genotype.nodes) <= space.max_nodes
    for number, node in enumerate(genotype.nodes):
        assert 0 <= node.reads <= number
        assert node.activation in set(space.activation) - {"none"}
    assert DagGenotype.from_dict(genotype.to_dict()) == genotype
    assert space.sample(random.Random(seed)) == genotype


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32), st.integers(1, 12))
def test_mutants_differ_by_one_op_one_edge_or_one_node_and_stay_in_the_space(space, seed, steps):
    rng = random.Random(seed)
    genotype = space.sample(rng)
    assume(len(set(space.activation) - {"none"}) > 1 or space.max_nodes > 1)
    for _ in range(steps):
        mutant = space.mutate(genotype, rng)
        assert space.contains(mutant)
        if len(mutant.nodes) == len(genotype.nodes):
            pairs = list(zip(genotype.nodes, mutant.nodes, strict=True))
            changed = [(a.reads != b.reads) + (a.activation != b.activation) for a, b in pairs]
            assert sum(changed) == 1
        else:
            few, many = sorted((genotype, mutant), key=lambda one: len(one.nodes))
            assert graph_of(few) in [graph_of(many, gone) for gone in range(1, len(many.nodes) + 1)]
        genotype = mutant


def graph_of(genotype, gone=None):
    """What each node does and reads, by names that do not change when a node is taken out and bridged."""
    nodes = {i: (node.activation, node.reads) for i, node in enumerate(genotype.nodes, start=1)}
    names = {state: place for place, state in enumerate(one for one in [0, *nodes] if one != gone)}
    through = {state: state if state != gone else nodes[state][1] for state in [0, *nodes]}
    return [(activation, names[through[reads]]) for state, (activation, reads) in nodes.items() if state != gone]


def test_nodes_sources_and_ops_are_drawn_equally_often():
    rng = random.Random(0)
    drawn = [FULL.sample(rng) for _ in range(2000)]
    counts = [
        (Counter(len(one.nodes) for one in drawn), 8),
        (Counter(node.activation for one in drawn for node in one.nodes), 4),
        (Counter(one.nodes[3].reads for one in drawn if len(one.nodes) > 3), 4),
    ]
    for found, cells in counts:
        assert len(found) == cells
        mean = found.total() / cells
        assert all(abs(count - mean) < 6 * mean**0.5 for count in found.values())


def test_mutation_reaches_all_cells_of_a_space():
    space, rng, seen = SearchSpace((), ("relu", "tanh"), 3, backbone="dag"), random.Random(0), set()
    genotype = DagGenotype((DagNode(0, "tanh"),) * 3)
    for _ in range(4000):
        seen.add(genotype)
        genotype = space.mutate(genotype, rng)
    assert len(seen) == 2 + 2**2 * 2 + 2**3 * 2 * 3


def test_ops_are_what_a_supernets_edges_hold():
    assert FULL.ops == [("gated", name) for name in ("none", "tanh", "relu", "sigmoid", "identity")]


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (DagGenotype((DagNode(0, "silu"),)), r"nodes\[0\]\.activation: silu is not in the space"),
        (DagGenotype((DagNode(0, "tanh"),) * 9), "nodes: 9, the space allows 8"),
        (DagGenotype((DagNode(0, "tanh"),) * 2, (2,)), r"concat: \[2\], the space takes the mean of all nodes"),
        (CHAIN, "the genotype is a chain, the space has backbone=dag"),
    ],
)
def test_what_is_outside_is_not_mutated(genotype, message):
    assert not FULL.contains(genotype)
    with pytest.raises(GenotypeError, match=message):
        FULL.mutate(genotype, random.Random(0))


def test_a_space_of_chains_has_no_dag():
    space = SearchSpace(("add",), ("tanh",))
    assert not space.contains(DagGenotype((DagNode(0, "tanh"),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "tree"}, "space.backbone: unknown 'tree', expected one of chain, dag"),
        ({"combine": ("add",)}, r"space.combine: \('add',\) is for chains only; leave it out with backbone=dag"),
        ({"highway": True}, "space.highway: True is for chains only"),
        ({"share_projection": True}, "space.share_projection: True is for chains only"),
        ({"activation": ("none",)}, "space.activation: 'none' alone cannot form a cell"),
        ({"activation": ("tanh", "thanh")}, "unknown 'thanh', expected some of none, identity, .*did you mean 'tanh'"),
        ({"activation": ()}, "is not a tuple of at least one of none"),
        ({"max_nodes": 0}, "space.max_nodes: 0 is not a whole number above 0"),
    ],
)
def test_errors_quote_what_came(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(FULL, **changes)


def test_a_space_of_one_cell_has_no_mutant():
    space = SearchSpace((), ("none", "tanh"), 1, backbone="dag")
    with pytest.raises(ConfigError, match="a cell with one op and one node cannot be mutated"):
        space.mutate(DagGenotype((DagNode(0, "tanh"),)), random.Random(0))


def test_none_is_of_dags_only():
    with pytest.raises(ConfigError, match=r"space\.activation: unknown 'none'"):
        SearchSpace(("add",), ("none", "tanh"))
