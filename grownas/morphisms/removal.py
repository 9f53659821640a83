"""An op goes, so that the output moves least; a new one may take its place (ALGORITHMS 5)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator

from grownas.backbones.chain import Backbone, MixedNode, OpLike
from grownas.genotype import Op
from grownas.morphisms.origins import Morphed, Origins, Piece, rebuild_node
from grownas.morphisms.parts import constant_part, disturb, fold_constant, hold_constant
from grownas.ops import ACTIVATION, COMBINE


@torch.no_grad()
def prune_op(backbone: Backbone, node: int, op: int) -> Morphed:
    """Remove an op so that the output moves least: only by what the op varied.

    Its share goes to an op that is homogeneous (identity or relu), whose weights shrink to keep its part as it was;
    so every other op keeps its absolute share. Where there is no such op the shares are renormalised, which makes the
    others' parts larger. What the node's mixture at zero input and zero state lost or won by all this goes into an
    additive identity's bias, or else into the biases of the next node; where there is no such bias (last node,
    highway) it is lost.

    An op that is constant, as all but the carrier are after `add_node` without noise, goes without a trace where its
    share and its constant find such places.

    Args:
        backbone: left untouched.
        node: number of the node.
        op: number of the op.

    Raises:
        ValueError: there is no such node or op, or the node has no other op.
    """
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
) -> Morphed:
    """Put a new op in the place of another, constant at first with live gradients, as in a new node.

    Promise: with noise 0 the output changes only by what the removed op varied. Every other op keeps its absolute
    share; the difference of the two ops' constants goes into a bias as in `prune_op`, and is lost where that is.

    The candidate is given the removed op's share, which may be too small to learn from soon. With `share` a
    homogeneous op, whose weights are adapted to keep its part as it was, gives or takes the difference.

    Args:
        backbone: left untouched.
        node: number of the node.
        op: number of the op that goes; the candidate's afterwards.
        candidate: the new op; under `share_projection` it has a projection of its own, for it starts elsewhere.
        generator: draws a Hadamard candidate's W_h and b_h, and the noise.
        share: the candidate's; the removed op's if None.
        noise: standard deviation of what is added to all parameters of the candidate. Without it two additive ops of
            a kind that come into a node at once are equal, and learn the same for ever.

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
            raise ValueError(f"share must lie between 0 and {room:.6g}, what node {node} has to give, got {share}")
        total = torch.logsumexp(old.alpha.double(), 0).item()
        new.alpha[op] = total + math.log(share)
        _set_alpha(new, receiver, total + math.log(room - share), origins, f"nodes.{node}.")
    hold_constant(new, op, new.hidden_size)
    fold_constant(grown, node, constant_part(old) - constant_part(new))
    if noise:
        disturb(new, [op], noise, generator)
    return Morphed(grown, origins)


def room_for(backbone: Backbone, node: int, op: int) -> float:
    """Return below which share `replace_op` can give a candidate in the place of an op; 0 if it can only keep its."""
    mixed = backbone.mixed_nodes()[node]
    receiver = _receiver(mixed, but=op)
    return 0.0 if receiver is None else torch.softmax(mixed.alpha.detach().double(), 0)[[receiver, op]].sum().item()


def _receiver(node: MixedNode, but: int | None = None) -> int | None:
    """Return the homogeneous op with its own projection that should take or give a share; an additive one first.

    The largest of several of a kind: its weights change least.
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
    """Change a homogeneous op's alpha and, by its weights, keep its part of the mixture as it was.

    The other alphas must be such that the sum of their exponentials changes by as much in the other direction.
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
