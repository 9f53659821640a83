"""Removes an op with the smallest change of the output, or replaces it by a new op."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from grownas.backbones.chain import Backbone, MixedNode, OpLike
from grownas.backbones.dag import DagBackbone
from grownas.genotype import Op
from grownas.morphisms.dags import prune_edge
from grownas.morphisms.origins import Morphed, Origins, Piece, rebuild_node
from grownas.morphisms.parts import constant_part, disturb, fold_constant, hold_constant
from grownas.ops import ACTIVATION, COMBINE


@torch.no_grad()
def prune_op(backbone: Backbone | DagBackbone, node: int, op: int) -> Morphed[Any]:
    """Remove an op; the output changes only by the varying part of the op.

    A homogeneous op (identity or relu) takes over its share, and its weights shrink so that its contribution stays the
    same: every other op keeps its absolute share. Without a homogeneous op the shares are renormalised, and the other
    ops contribute more. The change of the node's mixture at zero input and zero state is added to the bias of an
    additive identity, otherwise to the biases of the next node; without such a bias (last node, highway) it is lost.

    Removing a constant op, such as all ops but the carrier after `add_node` without noise, leaves the output unchanged
    if there is a homogeneous op and such a bias.

    Args:
        backbone: left untouched; for a DAG see `prune_edge`.
        node: number of the node; of a DAG, of the edge.
        op: number of the op.

    Raises:
        ValueError: there is no such node or op, or the node has no other op.
    """
    if isinstance(backbone, DagBackbone):
        return prune_edge(backbone, node, op)
    backbone.check_place(node, op)
    old = backbone.mixed_nodes()[node]
    if len(old.ops) == 1:
        raise ValueError(f"node {node} has one op only; a node cannot be empty")
    kept = [number for number in range(len(old.ops)) if number != op]
    grown, origins = rebuild_node(backbone, node, [old.ops[number] for number in kept], kept, Generator())
    new = grown.mixed_nodes()[node]
    receiver = _receiver(new)
    if receiver is not None:
        joint = torch.logaddexp(*old.alpha[[kept[receiver], op]].double()).item()
        _set_alpha(new, receiver, joint, origins, f"nodes.{node}.")
    fold_constant(grown, node, constant_part(old) - constant_part(new))
    return Morphed(grown, origins)


@torch.no_grad()
def replace_op(
    backbone: Backbone,
    node: int,
    op: int,
    candidate: OpLike,
    generator: Generator | None = None,
    share: float | None = None,
    noise: float = 0.0,
) -> Morphed[Backbone]:
    """Replace an op by a new op, which is constant at first, with nonzero gradients, as in `add_node`.

    Promise: with noise 0 the output changes only by the varying part of the removed op. Every other op keeps its
    absolute share. The difference of the two ops' constants is added to a bias as in `prune_op`, or lost as there.

    By default the candidate gets the removed op's share, which may be too small for it to be trained soon. With `share`
    a homogeneous op gives or takes the difference; its weights are rescaled so that its contribution stays the same.

    Args:
        backbone: left untouched.
        node: number of the node.
        op: number of the removed op, afterwards of the candidate.
        candidate: the new op; under `share_projection` it has its own projection, since its weights start differently.
        generator: draws a Hadamard candidate's W_h and b_h, and the noise.
        share: share of the candidate; the removed op's share if None.
        noise: standard deviation of the noise added to all parameters of the candidate. Without noise, two new additive
            ops with the same activation in one node receive identical gradients and never diverge.

    Raises:
        ValueError: there is no such node or op, or no op that can give the share.
    """
    backbone.check_place(node, op)
    old = backbone.mixed_nodes()[node]
    made = replace(candidate if isinstance(candidate, Op) else Op(*candidate), own_projection=backbone.share_projection)
    ops = [*old.ops[:op], made, *old.ops[op + 1 :]]
    sources = [number if number != op else None for number in range(len(ops))]
    grown, origins = rebuild_node(backbone, node, ops, sources, generator)
    new = grown.mixed_nodes()[node]
    new.alpha[op] = old.alpha[op]
    if share is not None:
        room, receiver = room_for(backbone, node, op), _receiver(old, but=op)
        if receiver is None or not 0 < share < room:
            raise ValueError(f"share must lie between 0 and {room:.6g}, the limit of node {node}, got {share}")
        total = torch.logsumexp(old.alpha.double(), 0).item()
        new.alpha[op] = total + math.log(share)
        _set_alpha(new, receiver, total + math.log(room - share), origins, f"nodes.{node}.")
    hold_constant(new, op, new.hidden_size)
    fold_constant(grown, node, constant_part(old) - constant_part(new))
    if noise:
        disturb(new, [op], noise, generator)
    return Morphed(grown, origins)


def room_for(backbone: Backbone, node: int, op: int) -> float:
    """Return the upper limit of `share` when `replace_op` replaces an op; 0 if the share cannot be changed."""
    mixed = backbone.mixed_nodes()[node]
    receiver = _receiver(mixed, but=op)
    return 0.0 if receiver is None else torch.softmax(mixed.alpha.detach().double(), 0)[[receiver, op]].sum().item()


def _receiver(node: MixedNode, but: int | None = None) -> int | None:
    """Return the homogeneous op with an unshared projection that takes or gives a share; None if there is none.

    Additive ops come first. Of several ops of a kind the one with the largest share: its weights change least.
    """
    able = [
        number
        for number, op in enumerate(node.ops)
        if number != but
        and ACTIVATION[op.activation].homogeneous
        and node.projection.count(node.projection[number]) == 1
    ]

    def order(number: int) -> tuple[int, str, float]:
        return COMBINE[node.ops[number].combine].code, node.ops[number].activation, -node.alpha[number].item()

    return min(able, key=order, default=None)


def _set_alpha(node: MixedNode, op: int, alpha: float, origins: Origins, prefix: str) -> None:
    """Set a homogeneous op's alpha, and rescale its weights so that its contribution to the mixture stays the same.

    The caller keeps the sum of exp(alpha) over the node the same by changing other alphas.
    """
    before = node.alpha[op].item()
    node.alpha[op] = alpha
    ratio = math.exp(before - node.alpha[op].item())  # as alpha's dtype rounds it
    parameters = node.op_parameters(op)
    combine = COMBINE[node.ops[op].combine]
    for name in ("W_x", "b_x") if combine.mixed else combine.parameters:  # z is linear in p alone, or in p and q
        parameters[name] *= ratio
        index = (op,) if name == "b_x" else (slice(None), node.projection[op])
        origins[prefix + name] = [_stretched(p, ratio) if p.into == index else p for p in origins[prefix + name]]


def _stretched(piece: Piece, ratio: float) -> Piece:
    scale = None if piece.scale is None else piece.scale / ratio
    return replace(piece, scale=scale, stretch=piece.stretch * ratio)
