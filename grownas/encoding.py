"""Genotypes of a space as vectors of zeros and ones, all of one length, and back: the input of predictors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from grownas.blocks import INPUTS
from grownas.blocks_genotype import EDGES, BlockEdge, BlockNode
from grownas.errors import GenotypeError
from grownas.genotype import NONE, AnyGenotype, BlocksGenotype, DagGenotype, DagNode, Genotype, Node, Op
from grownas.space import Pair, SearchSpace

Code = np.ndarray[Any, np.dtype[np.float64]]


class Encoding:
    """One-hot codes of the genotypes of a space.

    A code is a row of groups; in each group at most one entry is 1. The first group holds the number of nodes, of
    `max_nodes` entries. A node that the genotype does not have leaves its groups zero. In the space of chains a group
    follows for each node and each op of the space: how often the node has the op, from 1 to `max_ops`; all zero: it has
    not. In the space of DAGs two groups follow for each node: the state that it reads, from 0, and its op. In the space
    of blocks two such groups follow for each of a node's edges.

    Two genotypes have the same code if they differ in no more than the shares of ops, their order within a node, and
    `own_projection`: none of these is part of a space.

    Attributes:
        space: the space.
        length: of each code.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Lay out the groups."""
        self.space = space
        self._layout = LAYOUTS[space.backbone]
        self._ops = [op for op in space.ops if op[1] != NONE]
        ends = np.cumsum([0, *self._sizes()])
        self._groups = [slice(int(begin), int(end)) for begin, end in pairwise(ends)]
        self.length = int(ends[-1])

    def _sizes(self) -> Iterator[int]:
        yield self.space.max_nodes
        for place in range(self.space.max_nodes):
            yield from self._layout.sizes(self.space, self._ops, place)

    def encode(self, genotype: AnyGenotype) -> Code:
        """Return a genotype's code, float64, shape `(length,)`.

        Raises:
            GenotypeError: the genotype is not in the space.
        """
        if not self.space.contains(genotype):
            raise GenotypeError(f"{genotype} is not in the space, so it has no code; encode genotypes of the space")
        code = np.zeros(self.length)
        for group, choice in zip(self._groups, self._choices(genotype), strict=False):  # absent nodes have no choices
            if choice is not None:
                code[group.start + choice] = 1
        return code

    def _choices(self, genotype: AnyGenotype) -> Iterator[int | None]:
        """Yield which entry of each group is 1, group by group; None: no entry."""
        yield len(genotype.nodes) - 1
        for node in genotype.nodes:
            yield from self._layout.choices(node, self._ops)

    def decode(self, code: Code) -> AnyGenotype:
        """Return the genotype of a code, with equal shares and the ops of a node in the order of the space.

        Raises:
            GenotypeError: no genotype of the space has this code.
        """
        if code.shape != (self.length,):
            raise GenotypeError(f"the code has the shape {code.shape}, expected ({self.length},); use `encode`")
        found = [np.flatnonzero(code[group]) for group in self._groups]
        choices = [int(ones[0]) if len(ones) else None for ones in found]
        try:
            genotype = self._genotype(choices)
        except (GenotypeError, TypeError, IndexError) as error:
            raise GenotypeError(f"no genotype has this code: {error}; use a code that `encode` returned") from error
        if not self.space.contains(genotype) or not np.array_equal(self.encode(genotype), code):
            raise GenotypeError("no genotype of the space has this code; use a code that `encode` returned")
        return genotype

    def _genotype(self, choices: list[Any]) -> AnyGenotype:
        count, rest = choices[0] + 1, choices[1:]
        nodes, layout = list[Any](), self._layout
        for place in range(count):
            width = len(list(layout.sizes(self.space, self._ops, place)))
            nodes.append(layout.node(rest[:width], self._ops))
            rest = rest[width:]
        return layout.genotype(self.space, tuple(nodes))


class Layout(NamedTuple):
    """How the nodes of one backbone are coded.

    Attributes:
        sizes: returns the sizes of a node's groups, from the space, its ops and the node's place.
        choices: returns which entry of each of a node's groups is 1; None: no entry.
        node: makes a node of the choices.
        genotype: makes a genotype of the nodes.
    """

    sizes: Callable[[SearchSpace, Sequence[Pair], int], Sequence[int]]
    choices: Callable[[Any, Sequence[Pair]], Sequence[int | None]]
    node: Callable[[list[Any], Sequence[Pair]], Any]
    genotype: Callable[[SearchSpace, tuple[Any, ...]], AnyGenotype]


def _counts(node: Node, ops: Sequence[Pair]) -> list[int | None]:
    counts = Counter((op.combine, op.activation) for op in node.ops)
    return [counts[op] - 1 if counts[op] else None for op in ops]


def _chain_node(choices: list[Any], ops: Sequence[Pair]) -> Node:
    times = [0 if one is None else one + 1 for one in choices]
    found = [op for op, many in zip(ops, times, strict=True) for _ in range(many)]
    return Node(tuple(Op(combine, activation, 1 / len(found)) for combine, activation in found))


def _block_choices(node: BlockNode, ops: Sequence[Pair]) -> list[int | None]:
    names = [name for _, name in ops]
    return [choice for edge in node.edges for choice in (edge.reads, names.index(edge.op))]


def _block_node(choices: list[Any], ops: Sequence[Pair]) -> BlockNode:
    pairs = zip(choices[::2], choices[1::2], strict=True)
    return BlockNode(tuple(BlockEdge(reads, ops[op][1]) for reads, op in pairs))


LAYOUTS: dict[str, Layout] = {
    "chain": Layout(
        lambda space, ops, place: [space.max_ops] * len(ops),
        _counts,
        _chain_node,
        lambda space, nodes: Genotype(nodes, space.highway, space.share_projection),
    ),
    "dag": Layout(
        lambda space, ops, place: [place + 1, len(ops)],
        lambda node, ops: [node.reads, [name for _, name in ops].index(node.activation)],
        lambda choices, ops: DagNode(choices[0], ops[choices[1]][1]),
        lambda space, nodes: DagGenotype(nodes),
    ),
    "blocks": Layout(
        lambda space, ops, place: [place + INPUTS, len(ops)] * EDGES,
        _block_choices,
        _block_node,
        lambda space, nodes: BlocksGenotype(nodes, space.cells),
    ),
}
