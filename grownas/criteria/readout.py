"""Which ops to keep when a cell is read out of a supernet: those of largest share, or those that it does worst without.

A share says how much of an op's value is taken, not how large that value is: one of an unbounded op can be small and
yet make most of the output. Ablation asks the score instead, at its price: about (N K)^2 / 2 scores, N nodes of K ops.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from grownas.backbones.chain import Backbone, shares_of

Kept = list[list[int]]  # for each node the numbers of the ops that are kept, ascending
Score = Callable[[Backbone], float]  # lower is better


class Removal(NamedTuple):
    """An op that goes, and the figure that decided: its share, or the score without it and those that went before."""

    node: int
    op: int
    figure: float


class Readout(NamedTuple):
    """Which ops stay, and which go."""

    kept: Kept
    gone: list[Removal]


def by_share(backbone: Backbone, top_k: int, score: Score) -> Readout:
    """Keep each node's `top_k` ops of largest share (Jie & Gao, 2021); of equal ones the first. Scores nothing."""
    kept = [[number for number, _ in backbone.largest_ops(node, top_k)] for node in backbone.mixed_nodes()]
    shares = shares_of(backbone)
    gone = [
        Removal(node, op, shares[node][op])
        for node, ops in enumerate(kept)
        for op in range(len(shares[node]))
        if op not in ops
    ]
    return Readout(kept, gone)


def by_ablation(backbone: Backbone, top_k: int, score: Score) -> Readout:
    """Remove one op after the other, of all nodes, until none has more than `top_k`; each time the one least missed.

    Args:
        backbone: left untouched.
        top_k: how many ops to keep a node.
        score: of a backbone without an op, its node's other shares divided by their sum. One that is not a number
            counts as the worst. Of equal ones the op of smaller share goes.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    kept: Kept = [list(range(len(alpha))) for alpha in backbone.alpha]
    shares, gone = shares_of(backbone), list[Removal]()

    def without(node: int, op: int) -> Removal:
        value = score(with_only(backbone, _without(kept, node, op)))
        return Removal(node, op, math.inf if math.isnan(value) else value)

    while places := [(node, op) for node, ops in enumerate(kept) if len(ops) > top_k for op in ops]:
        least = min((without(*place) for place in places), key=lambda one: (one.figure, shares[one.node][one.op]))
        kept = _without(kept, least.node, least.op)
        gone.append(least)
    return Readout(kept, gone)


CHOICES: dict[str, Callable[[Backbone, int, Score], Readout]] = {"share": by_share, "ablation": by_ablation}


def with_only(backbone: Backbone, kept: Sequence[Sequence[int]]) -> Backbone:
    """Return a copy in which all other ops have no share, and the kept ones' shares are divided by their sum.

    Its `genotype(top_k)` and `derive(top_k)` take the kept ops where every node keeps `top_k`, or has no more.
    """
    rest = copy.deepcopy(backbone)
    with torch.no_grad():
        for alpha, ops in zip(rest.alpha, kept, strict=True):
            alpha[[number for number in range(len(alpha)) if number not in ops]] = -math.inf
    return rest


def _without(kept: Kept, node: int, op: int) -> Kept:
    return [[number for number in ops if (place, number) != (node, op)] for place, ops in enumerate(kept)]
