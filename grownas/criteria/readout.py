"""Chooses the ops that a derived cell keeps: by largest share, or by ablation.

A share says how much of an op's value is taken, not how large that value is: one of an unbounded op can be small and
yet make most of the output. Ablation asks the score instead, at its price: about (N K)^2 / 2 scores, N mixtures of K
ops. A mixture is a node of a chain or an edge of a DAG or of blocks, as in `protocols.Supernet`; the op `none` is
neither counted nor removed.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from grownas.backbones.blocks import BlocksBackbone
from grownas.backbones.chain import Backbone, shares_of
from grownas.backbones.dag import DagBackbone
from grownas.blocks_genotype import EDGES
from grownas.genotype import NONE

AnyBackbone = Backbone | DagBackbone | BlocksBackbone
Core = TypeVar("Core", bound=AnyBackbone)
Kept = list[list[int]]  # for each mixture the numbers of the ops that are kept, ascending
Score = Callable[[Backbone], float]  # lower is better


class Removal(NamedTuple):
    """An op that goes, and the figure that decided: its share, or the score without it and those that went before.

    `node` is the number of its mixture.
    """

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
    kept, gone = all_ops(backbone), list[Removal]()
    while places := surplus(backbone, kept, top_k):
        gone.append(least_missed(backbone, kept, places, lambda rest: score(with_only(backbone, rest))))
        kept = without(kept, gone[-1].node, gone[-1].op)
    return Readout(kept, gone)


CHOICES: dict[str, Callable[[Backbone, int, Score], Readout]] = {"share": by_share, "ablation": by_ablation}


def all_ops(core: AnyBackbone) -> Kept:
    """Return each mixture's ops, but for `none`."""
    return [
        [number for number, (_, activation) in enumerate(core.op_names(mixture)) if activation != NONE]
        for mixture in range(len(core.alpha))
    ]


def surplus(core: AnyBackbone, kept: Kept, top_k: int) -> list[tuple[int, int]]:
    """Return mixture and op of all that may be removed: the ops of each node that has more than `top_k`.

    A node of a DAG has the ops of all its edges. A node of blocks keeps `EDGES` edges with one op each, whatever
    `top_k` is.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    nodes = _by_node(core, kept)
    if isinstance(core, BlocksBackbone):
        return [place for own in nodes for place in _beside_an_edge_of_each(own)]
    return [place for own in nodes if len(own) > top_k for place in own]


def _beside_an_edge_of_each(own: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ops of a node of blocks without which it still has `EDGES` edges."""
    edges = Counter(mixture for mixture, _ in own)
    return [(mixture, op) for mixture, op in own if edges[mixture] > 1 or len(edges) > EDGES]


def count_surplus(core: AnyBackbone, kept: Kept, top_k: int) -> int:
    """Return how many ops must be removed before no node has more than `top_k`."""
    most = EDGES if isinstance(core, BlocksBackbone) else top_k
    return sum(max(0, len(own) - most) for own in _by_node(core, kept))


def _by_node(core: AnyBackbone, kept: Kept) -> list[list[tuple[int, int]]]:
    """Return mixture and op of all kept ops of each node."""
    owners = list(range(len(kept))) if isinstance(core, Backbone) else [node for node, _ in core.edges]
    places = [(mixture, op) for mixture, ops in enumerate(kept) for op in ops]
    return [list(own) for _, own in itertools.groupby(places, key=lambda place: owners[place[0]])]


def least_missed(
    core: AnyBackbone, kept: Kept, places: Sequence[tuple[int, int]], score: Callable[[Kept], float]
) -> Removal:
    """Return which of some ops the score is lowest without; see `by_ablation`."""
    shares = [torch.softmax(alpha.detach().double(), 0).tolist() for alpha in core.alpha]
    scored = [Removal(*place, score(without(kept, *place))) for place in places]
    numbers = [one._replace(figure=math.inf) if math.isnan(one.figure) else one for one in scored]
    return min(numbers, key=lambda one: (one.figure, shares[one.node][one.op]))


def without(kept: Kept, mixture: int, op: int) -> Kept:
    """Return what is kept when one more op goes."""
    return [[number for number in ops if (place, number) != (mixture, op)] for place, ops in enumerate(kept)]


def shares_with_only(core: AnyBackbone, kept: Kept) -> list[Tensor]:
    """Return each mixture's shares where all other ops have none; those that stay are divided by their sum.

    `none` stays. A mixture in which no op stays has shares of 0.
    """
    return [
        torch.softmax(alpha, 0) if (alpha > -math.inf).any() else torch.zeros_like(alpha)
        for alpha in _alpha_with_only(core, kept)
    ]


def with_only(core: Core, kept: Kept) -> Core:
    """Return a copy in which all other ops have no share, and the shares of those that stay are divided by their sum.

    Its `genotype(top_k)` and `derive(top_k)` return the kept ops if every node keeps `top_k` ops, or all of fewer.
    """
    rest = copy.deepcopy(core)
    with torch.no_grad():
        for alpha, only in zip(rest.alpha, _alpha_with_only(core, kept), strict=True):
            alpha.copy_(only)
    is_computable = all((alpha > -math.inf).any() for alpha in rest.alpha)  # a softmax over nothing is not a number
    rest.set_shares(None if is_computable else shares_with_only(core, kept))
    return rest


def _alpha_with_only(core: AnyBackbone, kept: Kept) -> list[Tensor]:
    """Return alpha, minus infinity for each op that neither is kept nor is `none`."""
    found = [alpha.detach().clone() for alpha in core.alpha]
    for alpha, ops, own in zip(found, all_ops(core), kept, strict=True):
        alpha[[number for number in ops if number not in own]] = -math.inf
    return found
