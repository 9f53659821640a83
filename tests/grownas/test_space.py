"""The search space: what it draws and changes stays inside, and all of it can be reached."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION, COMBINE, DEFAULT_ACTIVATIONS, DEFAULT_OPS
from grownas.space import SearchSpace

FULL = SearchSpace(tuple(COMBINE), tuple(ACTIVATION))


def subsets(names):
    return st.lists(st.sampled_from(list(names)), min_size=1, unique=True).map(tuple)


spaces = st.builds(
    SearchSpace,
    combine=subsets(COMBINE),
    activation=subsets(ACTIVATION),
    max_nodes=st.integers(1, 4),
    max_ops=st.integers(1, 10),
    highway=st.booleans(),
    share_projection=st.booleans(),
)


def op_tuples(genotype):
    return [tuple((op.combine, op.activation) for op in node.ops) for node in genotype.nodes]


def is_one_edit(before, after):
    """Whether two sequences differ by one replaced, added or removed item."""
    if len(before) == len(after):
        return sum(a != b for a, b in zip(before, after, strict=True)) == 1
    short, long = sorted((before, after), key=len)
    return len(long) == len(short) + 1 and any((*long[:i], *long[i + 1 :]) == tuple(short) for i in range(len(long)))


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32))
def test_a_sample_is_allowed_with_equal_shares_and_no_op_twice(space, seed):
    genotype = space.sample(random.Random(seed))
    assert space.contains(genotype)
    assert 1 <= len(genotype.nodes) <= space.max_nodes
    for node, names in zip(genotype.nodes, op_tuples(genotype), strict=True):
        assert {op.share for op in node.ops} == {1 / len(node.ops)}
        assert len(set(names)) == len(names) <= space.max_ops
        assert list(names) == [op for op in space.ops if op in names]


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32))
def test_a_seed_fixes_sample_and_mutant(space, seed):
    genotype = space.sample(random.Random(seed))
    assert space.sample(random.Random(seed)) == genotype
    assume(len(space.ops) > 1 or space.max_nodes > 1 or space.max_ops > 1)
    assert space.mutate(genotype, random.Random(seed)) == space.mutate(genotype, random.Random(seed))


@settings(deadline=None)
@given(spaces, st.integers(0, 2**32), st.integers(1, 12))
def test_mutants_differ_by_one_change_and_stay_in_the_space(space, seed, steps):
    assume(len(space.ops) > 1 or space.max_nodes > 1 or space.max_ops > 1)
    rng = random.Random(seed)
    genotype = space.sample(rng)
    for _ in range(steps):
        mutant = space.mutate(genotype, rng)
        assert mutant != genotype
        assert space.contains(mutant)
        before, after = op_tuples(genotype), op_tuples(mutant)
        if len(before) != len(after):
            assert is_one_edit(before, after)  # a node came or went
        else:
            changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            assert len(changed) == 1
            assert is_one_edit(*changed[0])
        genotype = mutant


def test_every_number_of_nodes_and_ops_and_every_op_is_drawn_equally_often():
    rng = random.Random(0)
    drawn = [FULL.sample(rng) for _ in range(1500)]
    nodes = Counter(len(genotype.nodes) for genotype in drawn)
    sizes = Counter(len(node.ops) for genotype in drawn for node in genotype.nodes)
    ops = Counter(pair for genotype in drawn for node in op_tuples(genotype) for pair in node)
    for counts, cells in ((nodes, 3), (sizes, 8), (ops, len(FULL.ops))):
        assert len(counts) == cells
        mean = counts.total() / cells
        assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_mutation_reaches_the_whole_space_from_any_sample():
    space = SearchSpace(("add", "hadamard"), ("tanh",), max_nodes=2, max_ops=2)
    rng, genotype = random.Random(0), SearchSpace(("add",), ("tanh",), 1).sample(random.Random(0))
    seen = set()
    for _ in range(3000):
        seen.add(tuple(op_tuples(genotype)))
        genotype = space.mutate(genotype, rng)
    assert len(seen) == 6 + 6 * 6  # a node: 2 ops alone, 2 * 2 in pairs; cells of one and of two nodes


def test_every_kind_of_change_is_as_likely():
    node = Node((Op("add", "tanh", 0.9), Op("add", "relu", 0.1)))
    before = Genotype((node, node))
    rng, kinds = random.Random(0), Counter()
    for _ in range(2000):
        after = FULL.mutate(before, rng)
        count = sum(len(node.ops) for node in after.nodes)
        nodes = len(after.nodes) - 2
        kinds[(nodes, 0 if nodes else count - 4)] += 1
    assert set(kinds) == {(1, 0), (-1, 0), (0, 0), (0, 1), (0, -1)}
    assert all(abs(count - 400) < 6 * 20 for count in kinds.values())


def test_a_node_is_added_and_removed_at_every_place():
    marked = tuple(Node((Op("add", name),)) for name in ("tanh", "relu"))
    space, rng, seen = SearchSpace(("hadamard", "add"), ("tanh", "relu"), max_ops=1), random.Random(0), set()
    for _ in range(300):
        after = space.mutate(Genotype(marked), rng).nodes
        seen |= {place for place in range(3) if len(after) == 3 and (*after[:place], *after[place + 1 :]) == marked}
        seen |= {f"without {place}" for place in range(2) if after == (*marked[:place], *marked[place + 1 :])}
    assert seen == {0, 1, 2, "without 0", "without 1"}


def test_a_changed_node_gets_equal_shares_and_others_keep_theirs():
    kept = Node((Op("add", "tanh", 0.9), Op("add", "relu", 0.1)))
    for seed in range(30):
        after = FULL.mutate(Genotype((kept, kept)), random.Random(seed))
        for node in after.nodes:
            assert node == kept or {op.share for op in node.ops} == {1 / len(node.ops)}


def test_ops_are_pairs_in_the_tables_order():
    assert FULL.ops == [(combine, activation) for combine in COMBINE for activation in ACTIVATION]
    assert SearchSpace(tuple(COMBINE), DEFAULT_ACTIVATIONS).ops == DEFAULT_OPS
    space = SearchSpace(("hadamard", "add"), ("relu", "identity"))
    assert space.ops == [("add", "identity"), ("add", "relu"), ("hadamard", "identity"), ("hadamard", "relu")]


def test_contains_looks_at_ops_counts_and_switches_and_not_at_shares():
    space = SearchSpace(("add",), ("tanh", "relu"), max_nodes=2, max_ops=2)
    tanh = Node((Op("add", "tanh"),))
    twice = Node((Op("add", "tanh", 0.9), Op("add", "tanh", 0.1)))
    assert space.contains(Genotype((tanh, twice)))
    assert not space.contains(Genotype((tanh, tanh, tanh)))
    assert not space.contains(Genotype((Node((Op("add", "tanh", 0.5), *[Op("add", "relu", 0.25)] * 2)),)))
    assert not space.contains(Genotype((Node((Op("add", "sigmoid"),)),)))
    assert not space.contains(Genotype((Node((Op("hadamard", "tanh"),)),)))
    assert not space.contains(Genotype((tanh,), highway=True))
    assert not space.contains(Genotype((tanh,), share_projection=True))
    shared = SearchSpace(("add",), ("identity",), share_projection=True)
    assert shared.contains(Genotype((Node((Op("add", "identity", own_projection=True),)),), share_projection=True))


def test_only_a_genotype_of_the_space_can_be_mutated():
    space = SearchSpace(("add",), ("tanh",), max_nodes=2)
    node = Node((Op("add", "tanh"),))
    for genotype, message in (
        (Genotype((Node((Op("add", "relu"),)),)), r"nodes\[0\]\.ops\[0\]: add/relu is not in the space"),
        (Genotype((node, node, node)), "nodes: 3, the space allows 2"),
        (Genotype((node,), highway=True), "highway is True, the space has False"),
    ):
        with pytest.raises(GenotypeError, match=message):
            space.mutate(genotype, random.Random(0))


def test_a_space_of_one_genotype_has_no_mutants():
    space = SearchSpace(("add",), ("tanh",), max_nodes=1, max_ops=1)
    with pytest.raises(ConfigError, match="nothing can be mutated"):
        space.mutate(space.sample(random.Random(0)), random.Random(0))


WRONG = {
    "combine": ({"combine": ("hadamrd",)}, "space.combine: unknown 'hadamrd', expected .*mean 'hadamard'"),
    "activation": ({"activation": ("tanh", "thanh")}, "space.activation: unknown 'thanh'.*did you mean 'tanh'"),
    "no combine": ({"combine": ()}, r"space.combine: \(\) is not a tuple of at least one of add, hadamard"),
    "text": ({"activation": "tanh"}, "space.activation: 'tanh' is not a tuple"),
    "twice": ({"activation": ("tanh", "relu", "tanh")}, "space.activation: 'tanh' appears twice"),
    "not a name": ({"activation": (3,)}, "space.activation: unknown 3"),
    "no nodes": ({"max_nodes": 0}, "space.max_nodes: 0 is not a whole number above 0"),
    "half a node": ({"max_nodes": 1.5}, "space.max_nodes: 1.5 is not"),
    "true ops": ({"max_ops": True}, "space.max_ops: True is not"),
    "highway": ({"highway": "no"}, "space.highway: 'no' is not true or false"),
    "share_projection": ({"share_projection": 1}, "space.share_projection: 1 is not true or false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case):
    fields, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        SearchSpace(**{"combine": ("add",), "activation": ("tanh",), **fields})


def test_a_space_can_be_hashed_and_pickled():
    assert pickle.loads(pickle.dumps(FULL)) == FULL  # noqa: S301
    assert len({FULL, SearchSpace(tuple(COMBINE), tuple(ACTIVATION))}) == 1
