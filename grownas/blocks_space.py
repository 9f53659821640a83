"""The space of networks of blocks: how its genotypes are drawn and changed; `space.KINDS` lists these functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grownas.blocks import BLOCK, INPUTS, NONE, check_names
from grownas.blocks_genotype import EDGES, MOST_CELLS, BlockEdge, BlockNode, BlocksGenotype
from grownas.errors import ConfigError, GenotypeError

if TYPE_CHECKING:
    from grownas.space import SearchSpace


def check(space: SearchSpace) -> None:
    """Check `blocks` and `cells`.

    Raises:
        ConfigError: a name or the number of cells is wrong.
    """
    if isinstance(space.cells, bool) or not isinstance(space.cells, int) or not 1 <= space.cells <= MOST_CELLS:
        raise ConfigError(f"space.cells: {space.cells!r} is not a whole number from 1 to {MOST_CELLS}")
    for name in space.blocks:
        if space.blocks.count(name) > 1:
            raise ConfigError(f"space.blocks: {name!r} appears twice")
    try:
        check_names(space.blocks)
    except GenotypeError as error:
        raise ConfigError(f"space.blocks: {error}") from error


def ops(space: SearchSpace) -> list[tuple[str, str]]:
    """Return the ops of a supernet's edges, in the order of `blocks`."""
    return [(BLOCK, name) for name in space.blocks]


def sample(space: SearchSpace, rng: random.Random) -> BlocksGenotype:
    """Draw the number of nodes, then for each node two states and an op on each."""
    count = rng.randint(1, space.max_nodes)
    return BlocksGenotype(tuple(_drawn(space, number, rng) for number in range(count)), space.cells)


def mutate(space: SearchSpace, genotype: BlocksGenotype, rng: random.Random) -> BlocksGenotype:
    """Change the op or the source of an edge, or add or remove a node.

    Raises:
        ConfigError: the space contains a single genotype.
    """
    nodes = list(genotype.nodes)
    changes = ["op"] * (len(_own(space)) > 1) + ["reads", "remove"] * (len(nodes) > 1)
    changes += ["add"] * (len(nodes) < space.max_nodes)
    if not changes:
        raise ConfigError("space: a cell with one op and one node cannot be mutated; allow more ops or nodes")
    change = rng.choice(changes)
    at = rng.randrange(change == "reads", len(nodes) + (change == "add"))  # the first node reads both inputs
    if change == "op":
        nodes[at] = _with_other_op(space, nodes[at], rng)
    elif change == "reads":
        nodes[at] = _with_other_source(nodes[at], at + INPUTS, rng)
    elif change == "add":
        later = [_moved(node, {i: i + 1 for i in range(at + INPUTS, len(nodes) + INPUTS)}) for node in nodes[at:]]
        nodes[at:] = [_drawn(space, at, rng), *later]
    else:
        nodes[at:] = [_without(node, at + INPUTS, nodes[at]) for node in nodes[at + 1 :]]
    return BlocksGenotype(tuple(nodes), space.cells)


def complaint(space: SearchSpace, genotype: BlocksGenotype) -> str | None:
    """Return why a genotype is not allowed; None if it is allowed."""
    if genotype.cells != space.cells:
        return f"cells: {genotype.cells}, the space has {space.cells}"
    for place, node in enumerate(genotype.nodes):
        for number, edge in enumerate(node.edges):
            if edge.op not in space.blocks:
                return f"nodes[{place}].edges[{number}].op: {edge.op} is not in the space"
    return None


def _own(space: SearchSpace) -> list[str]:
    """Return the ops that a derived cell may have."""
    return [name for name in space.blocks if name != NONE]


def _drawn(space: SearchSpace, number: int, rng: random.Random) -> BlockNode:
    sources = sorted(rng.sample(range(number + INPUTS), EDGES))
    return BlockNode(tuple(BlockEdge(source, rng.choice(_own(space))) for source in sources))


def _with_other_op(space: SearchSpace, node: BlockNode, rng: random.Random) -> BlockNode:
    edges, place = list(node.edges), rng.randrange(EDGES)
    edges[place] = replace(edges[place], op=rng.choice([op for op in _own(space) if op != edges[place].op]))
    return BlockNode(tuple(edges))


def _with_other_source(node: BlockNode, states: int, rng: random.Random) -> BlockNode:
    edges, place = list(node.edges), rng.randrange(EDGES)
    taken = [edge.reads for edge in edges]
    edges[place] = replace(edges[place], reads=rng.choice([i for i in range(states) if i not in taken]))
    return _ordered(edges)


def _moved(node: BlockNode, places: dict[int, int]) -> BlockNode:
    """Return a node that reads the same states after some have got other numbers."""
    return _ordered([replace(edge, reads=places.get(edge.reads, edge.reads)) for edge in node.edges])


def _without(node: BlockNode, state: int, gone: BlockNode) -> BlockNode:
    """Return a node after a state is removed: an edge from it reads one of the removed node's sources instead."""
    taken = [edge.reads for edge in node.edges]
    free = [edge.reads for edge in gone.edges if edge.reads not in taken]  # one at least if the node reads the state
    return _moved(node, {i: free[0] if i == state else i - 1 for i in taken if i >= state})


def _ordered(edges: Sequence[BlockEdge]) -> BlockNode:
    return BlockNode(tuple(sorted(edges, key=lambda edge: edge.reads)))
