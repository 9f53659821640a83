"""Genotypes of a space as vectors of zeros and ones, all of one length, and back: the input of predictors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from grownas.errors import GenotypeError
from grownas.genotype import GATED, NONE, AnyGenotype, DagGenotype, DagNode, Genotype, Node, Op
from grownas.space import SearchSpace

Code = np.ndarray[Any, np.dtype[np.float64]]


class Encoding:
    """One-hot codes of the genotypes of a space.

    A code is a row of groups; in each group at most one entry is 1. The first group holds the number of nodes, of
    `max_nodes` entries. A node that the genotype does not have leaves its groups zero. In the space of chains a group
    follows for each node and each op of the space: how often the node has the op, from 1 to `max_ops`; all zero: it has
    not. In the space of DAGs two groups follow for each node: the state that it reads, from 0, and its op.

    Two genotypes have the same code if they differ in no more than the shares of ops, their order within a node, and
    `own_projection`: none of these is part of a space.

    Attributes:
        space: the space.
        length: of each code.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Lay out the groups."""
        self.space = space
        self._ops = [op for op in space.ops if op != (GATED, NONE)]
        ends = np.cumsum([0, *self._sizes()])
        self._groups = [slice(int(begin), int(end)) for begin, end in pairwise(ends)]
        self.length = int(ends[-1])

    def _sizes(self) -> Iterator[int]:
        yield self.space.max_nodes
        for place in range(self.space.max_nodes):
            if self.space.backbone == "dag":
                yield from (place + 1, len(self._ops))
            else:
                yield from (self.space.max_ops for _ in self._ops)

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
            if isinstance(node, DagNode):
                yield from (node.reads, self._ops.index((GATED, node.activation)))
            else:
                counts = Counter((op.combine, op.activation) for op in node.ops)
                yield from (counts[op] - 1 if counts[op] else None for op in self._ops)

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
        if self.space.backbone == "dag":
            pairs = list(zip(rest[::2], rest[1::2], strict=True))[:count]
            return DagGenotype(tuple(DagNode(reads, self._ops[op][1]) for reads, op in pairs))
        width, nodes = len(self._ops), list[Node]()
        for place in range(count):
            times = [0 if one is None else one + 1 for one in rest[place * width : (place + 1) * width]]
            ops = [op for op, many in zip(self._ops, times, strict=True) for _ in range(many)]
            nodes.append(Node(tuple(Op(combine, activation, 1 / len(ops)) for combine, activation in ops)))
        return Genotype(tuple(nodes), self.space.highway, self.space.share_projection)
