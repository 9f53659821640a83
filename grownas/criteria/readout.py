"""Chooses the ops that a derived cell keeps: by largest share, or by ablation.

A share does not measure an op's value: an unbounded op with a small share can contribute most of the output. Ablation
keeps the ops without which the score is worst. It needs about (N K)^2 / 2 scores for N nodes of K ops.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from grownas.backbones.chain import Backbone, shares_of

Kept = list[list[int]]  # numbers of the kept ops of each node, ascending
Score = Callable[[Backbone], float]  # lower is better


class Removal(NamedTuple):
    """A removed op, and the figure that decided: its share, or the score without it and all ops removed before."""

    node: int
    op: int
    figure: float


class Readout(NamedTuple):
    """The kept and the removed ops."""

    kept: Kept
    gone: list[Removal]


def by_share(backbone: Backbone, top_k: int, score: Score) -> Readout:
    """Keep each node's `top_k` ops of largest share (Jie & Gao, 2021); ties: the first op. `score` is not called."""
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
    """Remove ops one by one until no node has more than `top_k`: each time the op with the best score without it.

    Args:
        backbone: left untouched.
        top_k: most ops to keep per node.
        score: score of a backbone without the op; the node's other shares are renormalised. nan counts as the worst
            score. Of ops with equal scores the op with the smaller share is removed.
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
    """Return a copy in which only the kept ops have a share; the shares are renormalised.

    Its `genotype(top_k)` and `derive(top_k)` return the kept ops if every node keeps `top_k` ops, or all of fewer.
    """
    rest = copy.deepcopy(backbone)
    with torch.no_grad():
        for alpha, ops in zip(rest.alpha, kept, strict=True):
            alpha[[number for number in range(len(alpha)) if number not in ops]] = -math.inf
    return rest


def _without(kept: Kept, node: int, op: int) -> Kept:
    return [[number for number in ops if (place, number) != (node, op)] for place, ops in enumerate(kept)]
