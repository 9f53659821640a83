"""Codes of genotypes: fixed length, one-hot groups, an inverse, and as many codes as genotypes."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grownas.blocks import DEFAULT_BLOCKS
from grownas.blocks_genotype import BlockEdge, BlockNode, BlocksGenotype
from grownas.encoding import Encoding
from grownas.errors import GenotypeError
from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op
from grownas.space import SearchSpace

ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu")
names = st.lists(st.sampled_from(ACTIVATIONS), min_size=1, max_size=4, unique=True).map(tuple)
combines = st.sampled_from([("add",), ("hadamard",), ("hadamard", "add")])
chains = st.builds(SearchSpace, combines, names, st.integers(1, 4), st.integers(1, 9), st.booleans(), st.booleans())
dags = st.builds(
    lambda some, none, most: SearchSpace((), ("none",) * none + some, most, backbone="dag"),
    names, st.booleans(), st.integers(1, 8),
)  # fmt: skip
blocks = st.builds(
    lambda some, none, most, cells: SearchSpace(
        (), (), most, backbone="blocks", blocks=("none",) * none + some, cells=cells
    ),
    st.lists(st.sampled_from(DEFAULT_BLOCKS[1:]), min_size=1, unique=True).map(tuple),
    st.booleans(), st.integers(1, 5), st.integers(1, 3),
)  # fmt: skip
TINY = SearchSpace(("add",), ("tanh", "relu"), max_nodes=2, max_ops=2)
DAG = SearchSpace((), ("none", "tanh", "relu"), max_nodes=3, backbone="dag")
BLOCKS = SearchSpace((), (), 2, backbone="blocks", blocks=("none", "delay(1)", "fir(2)"))


def walk(space, seed, steps):
    """A genotype that mutations lead to: with ops in any order, and several times the same."""
    rng = random.Random(seed)
    genotype = space.sample(rng)
    alone = space.max_nodes == 1 and len({op for op in space.ops if op[1] != "none"}) == 1
    for _ in range(0 if alone and (space.backbone != "chain" or space.max_ops == 1) else steps):
        genotype = space.mutate(genotype, rng)
    return genotype


def plain(genotype):
    """A genotype up to shares and the order of ops in a node."""
    if not isinstance(genotype, Genotype):
        return genotype
    return [sorted(op.name for op in node.ops) for node in genotype.nodes], genotype.highway, genotype.share_projection


@settings(deadline=None)
@given(st.one_of(chains, dags, blocks), st.integers(0, 2**32), st.integers(0, 12))
def test_a_code_has_an_inverse(space, seed, steps):
    encoding, genotype = Encoding(space), walk(space, seed, steps)
    code = encoding.encode(genotype)
    assert code.shape == (encoding.length,)
    assert set(code.tolist()) <= {0.0, 1.0}
    again = encoding.decode(code)
    assert space.contains(again)
    assert plain(again) == plain(genotype)
    assert (encoding.encode(again) == code).all()
    drawn = space.sample(random.Random(seed))
    assert encoding.decode(encoding.encode(drawn)) == drawn  # a sample is ordered, and has equal shares


@settings(deadline=None)
@given(st.one_of(chains, dags, blocks), st.lists(st.integers(0, 2**32), min_size=2, max_size=8))
def test_distinct_genotypes_have_distinct_codes(space, seeds):
    encoding = Encoding(space)
    for one, other in itertools.combinations([walk(space, seed, 3) for seed in seeds], 2):
        same = (encoding.encode(one) == encoding.encode(other)).all()
        assert same == (plain(one) == plain(other))


def test_all_genotypes_of_two_tiny_spaces_have_codes_of_their_own():
    nodes = [["add/tanh"], ["add/relu"], ["add/tanh"] * 2, ["add/relu"] * 2, ["add/tanh", "add/relu"]]

    def node_of(ops):
        return Node(tuple(Op(*name.split("/"), share=1 / len(ops)) for name in ops))

    cells = [
        Genotype(tuple(node_of(ops) for ops in chain))
        for count in (1, 2)
        for chain in itertools.product(nodes, repeat=count)
    ]
    assert len({Encoding(TINY).encode(cell).tobytes() for cell in cells}) == 5 + 5**2
    each = [[DagNode(reads, op) for reads in range(i + 1) for op in ("tanh", "relu")] for i in range(3)]
    dags = [DagGenotype(cell) for count in (1, 2, 3) for cell in itertools.product(*each[:count])]
    assert len({Encoding(DAG).encode(cell).tobytes() for cell in dags}) == 2 + 2 * 4 + 2 * 4 * 6


def test_the_layout_of_a_code():
    chain = Genotype((Node((Op("add", "relu", 0.5), Op("add", "relu", 0.5))),))
    assert Encoding(TINY).encode(chain).tolist() == [1, 0, *(0, 0, 0, 1), *(0, 0, 0, 0)]  # tanh before relu
    dag = DagGenotype((DagNode(0, "relu"), DagNode(1, "tanh")))
    assert Encoding(DAG).encode(dag).tolist() == [0, 1, 0, *(1, 0, 1), *(0, 1, 1, 0), *(0, 0, 0, 0, 0)]
    node = BlockNode((BlockEdge(0, "fir(2)"), BlockEdge(1, "delay(1)")))
    code = Encoding(BLOCKS).encode(BlocksGenotype((node,)))
    assert code.tolist() == [1, 0, *(1, 0, 0, 1), *(0, 1, 1, 0), *[0] * 10]


@pytest.mark.parametrize("space", [TINY, DAG, BLOCKS], ids=lambda space: space.backbone)
def test_what_is_no_code_is_refused(space):
    encoding = Encoding(space)
    code = encoding.encode(space.sample(random.Random(0)))
    with pytest.raises(GenotypeError, match=rf"the shape \({encoding.length - 1},\), expected"):
        encoding.decode(code[1:])
    for wrong in (np.zeros_like(code), np.ones_like(code), code * 2, code - code * np.eye(len(code))[0]):
        if not (wrong == code).all():
            with pytest.raises(GenotypeError, match="has this code"):
                encoding.decode(wrong)
    with pytest.raises(GenotypeError, match="is not in the space"):
        encoding.encode({TINY: DAG, DAG: BLOCKS, BLOCKS: TINY}[space].sample(random.Random(0)))
