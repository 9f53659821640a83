"""Morphisms of a DAG: append a node, remove an op from an edge."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Generator, nn

from grownas.backbones.dag import DagBackbone, DagOpLike, MixedDagNode, MixedEdge
from grownas.genotype import NONE
from grownas.morphisms.origins import WHOLE, Morphed, Origins, Piece


@torch.no_grad()
def blend_dag_node(
    backbone: DagBackbone,
    position: int | None = None,
    generator: Generator | None = None,
    ops: Sequence[DagOpLike] | None = None,
) -> Morphed[DagBackbone]:
    """Append a randomly drawn node with blend 0. Promise: the output is the same to the last bit.

    The node reads all earlier states. With m = `backbone.blend[-1]` and N nodes before it, the output is
    `(1 - m) mean(s_1..s_N) + m mean(s_1..s_(N+1))`. Where states are normalised, the new state has running mean 0 and
    variance 1.

    Args:
        backbone: left untouched.
        position: N or None; the nodes of a DAG are ordered, and a new node reads all others.
        generator: draws the node's weights.
        ops: the ops of each new edge. If None, each edge has the ops of the last node's edge from the same state; the
            edge from the last node itself has those of the last node's last edge. Their shares are equal.

    Raises:
        ValueError: the position is not the last.
    """
    count, last = len(backbone.nodes), backbone.mixed_nodes()[-1].mixed_edges()
    if position not in (None, count):
        raise ValueError(
            f"a new node of a dag reads all earlier states, so it comes last: position must be {count} or None, "
            f"got {position}"
        )
    edges = [edge.ops for edge in (*last, last[-1])] if ops is None else [ops] * (count + 1)
    node = backbone.new_node(edges, generator).to(backbone.W_x)
    node.set_blend(0.0)
    grown = copy.deepcopy(backbone)
    grown.nodes.append(node)
    if grown.moments is not None:
        mean, variance = grown.moments
        new = mean.new_zeros(1, len(mean[0]))
        grown.moments = torch.stack([torch.cat([mean, new]), torch.cat([variance, new + 1])])
    return Morphed(grown, _unchanged(backbone))


@torch.no_grad()
def prune_edge(backbone: DagBackbone, edge: int, op: int) -> Morphed[DagBackbone]:
    """Remove an op, or "none", from an edge; the shares of the edge's other ops are divided by their sum.

    The output changes. The node's weights stay: all ops of its edges share them.

    Args:
        backbone: left untouched.
        edge: number of the edge, in the order of `backbone.edges`.
        op: number of the op.

    Raises:
        ValueError: there is no such edge or op, or its node would have no op but "none" left, or its edge none at all.
    """
    if not 0 <= edge < len(backbone.alpha):
        raise ValueError(f"edge must lie between 0 and {len(backbone.alpha) - 1}, got {edge}")
    ops = backbone.mixed_edges()[edge].ops
    if not 0 <= op < len(ops):
        raise ValueError(f"edge {edge} has ops 0..{len(ops) - 1}, got {op}")
    if not can_prune_edge(backbone, edge, op):
        raise ValueError(
            f"edge {edge} has the last op of its kind at {op}; an edge, and a node but for none, needs one"
        )
    grown, origins = copy.deepcopy(backbone), _unchanged(backbone)
    kept = [number for number in range(len(ops)) if number != op]
    node, source = _place(grown, edge)
    new = MixedEdge([ops[number] for number in kept]).to(backbone.W_x)
    new.alpha.copy_(backbone.alpha[edge][kept])
    node.edges[source] = new
    name = f"nodes.{backbone.edges[edge][0] - 1}.edges.{source}.alpha"
    origins[name] = [Piece((at,), name, (number,)) for at, number in enumerate(kept)]
    return Morphed(grown, origins)


def can_prune_edge(backbone: DagBackbone, edge: int, op: int) -> bool:
    """Return whether an edge keeps an op, and its node an op other than "none", if this op is removed."""
    node, source = _place(backbone, edge)
    left = [own.ops for own in node.mixed_edges()]
    left[source] = (*left[source][:op], *left[source][op + 1 :])
    return bool(left[source]) and any(one != NONE for ops in left for one in ops)


def _place(backbone: DagBackbone, edge: int) -> tuple[MixedDagNode, int]:
    number, source = backbone.edges[edge]
    return backbone.mixed_nodes()[number - 1], source


def _unchanged(backbone: nn.Module) -> Origins:
    return {name: [Piece(WHOLE, name, WHOLE)] for name, _ in backbone.named_parameters()}
