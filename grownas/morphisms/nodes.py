"""Adds a node, with a carrier or blended in; adds noise to an exact start."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from grownas.backbones.chain import Backbone, MixedNode, OpLike
from grownas.backbones.dag import DagBackbone
from grownas.genotype import Op
from grownas.morphisms.dags import blend_dag_node
from grownas.morphisms.origins import Morphed, Origins, unchanged
from grownas.morphisms.parts import CARRIER, disturb, hold_constant, is_carrier


@torch.no_grad()
def add_node(
    backbone: Backbone,
    position: int | None = None,
    carrier_share: float = 0.5,
    noise: float = 0.0,
    generator: Generator | None = None,
    ops: Sequence[OpLike] | None = None,
) -> Morphed[Backbone]:
    """Insert a node whose output equals its state. Promise: with noise 0 the output is unchanged up to rounding.

    The carrier, an additive identity op with W_h = I / share, passes the state through the node. Every other op starts
    with a constant value and nonzero gradients; the carrier's bias cancels the constants.

    Args:
        backbone: left untouched.
        position: the new node is inserted before the node with this number; at the end if None.
        carrier_share: the carrier's share of the mixture, in (0, 1); 1 if it is the only op.
        noise: standard deviation of the noise added to all parameters of the other ops.
        generator: draws the noise and the Hadamard ops' W_h and b_h.
        ops: the new node's ops; the ops of the node before it if None. A carrier is added if there is none.

    Raises:
        ValueError: position or share is out of range.

    Reference:
        Jie & Gao (2021), algorithm 2; insertion anywhere and the cancelled constants are ours.
    """
    position = _checked_position(backbone, position)
    made = ops_for_node(backbone, position) if ops is None else with_carrier(ops, backbone.share_projection)
    node = backbone.new_node(made, generator).to(backbone.alpha[0])
    carrier = next(number for number, op in enumerate(node.ops) if is_carrier(op, backbone.share_projection))
    set_share(node.alpha, carrier, carrier_share)
    pass_on(node, carrier, torch.eye(backbone.hidden_size), noise=noise, generator=generator)
    return _inserted(backbone, position, node)


@torch.no_grad()
def blend_node(
    backbone: Backbone | DagBackbone,
    position: int | None = None,
    generator: Generator | None = None,
    ops: Sequence[Any] | None = None,
) -> Morphed[Any]:
    """Insert a randomly drawn node with blend 0. Promise: the output is the same to the last bit.

    The node's output is s + m (mixture - s), with m = `backbone.blend[position]`. Training raises m to 1 over some
    steps; the node is then a plain node, and no carrier remains in the cell. For a DAG see `blend_dag_node`.

    Args:
        backbone: left untouched.
        position: the new node is inserted before the node with this number; at the end if None.
        generator: draws the node's weights.
        ops: the new node's ops; the ops of the node before it if None. Their shares are equal.

    Raises:
        ValueError: the position is out of range.
    """
    if isinstance(backbone, DagBackbone):
        return blend_dag_node(backbone, position, generator, ops)
    position = _checked_position(backbone, position)
    made = backbone.mixed_nodes()[max(position - 1, 0)].ops if ops is None else ops
    node = backbone.new_node(made, generator).to(backbone.alpha[0])
    node.set_blend(0.0)
    return _inserted(backbone, position, node)


def _checked_position(backbone: Backbone, position: int | None) -> int:
    count = len(backbone.nodes)
    position = count if position is None else position
    if not 0 <= position <= count:
        raise ValueError(f"position must lie between 0 and {count}, got {position}")
    return position


def _inserted(backbone: Backbone, position: int, node: MixedNode) -> Morphed[Backbone]:
    """Return a copy of a backbone with one more node."""
    grown = copy.deepcopy(backbone)
    nodes = list(grown.nodes)
    grown.nodes = torch.nn.ModuleList([*nodes[:position], node, *nodes[position:]])
    origins: Origins = {}
    for number in range(len(backbone.nodes)):
        origins |= unchanged(backbone, number, number + (number >= position))
    return Morphed(grown, origins)


def ops_for_node(backbone: Backbone, position: int) -> list[Op]:
    """Return the default ops of a node that `add_node` inserts: the ops of the node before it, with a carrier.

    A carrier is added if none of these ops can be the carrier.
    """
    return with_carrier(backbone.mixed_nodes()[max(position - 1, 0)].ops, backbone.share_projection)


def with_carrier(ops: Sequence[OpLike], share_projection: bool) -> list[Op]:
    """Return the ops with a carrier: the first additive identity, or a new op in front."""
    made = [op if isinstance(op, Op) else Op(*op) for op in ops]
    if any(is_carrier(op, share_projection) for op in made):
        return made
    carrier = Op(*CARRIER, own_projection=share_projection)
    place = next((i for i, op in enumerate(made) if (op.combine, op.activation) == CARRIER), None)
    if place is None:
        return [carrier, *made]
    return [*made[:place], carrier, *made[place + 1 :]]


def set_share(alpha: Tensor, op: int, share: float) -> None:
    """Set one op's share, and equal shares of the rest for the others, in place."""
    if not 0 < share < 1:
        raise ValueError(f"carrier_share must lie between 0 and 1, got {share}")
    alpha.zero_()
    if len(alpha) > 1:
        alpha[op] = math.log(share / (1 - share) * (len(alpha) - 1))


@torch.no_grad()
def pass_on(
    node: MixedNode,
    carrier: int,
    move: Tensor,
    *,
    enter: Tensor | None = None,
    units: int | None = None,
    noise: float = 0.0,
    generator: Generator | None = None,
) -> None:
    """Make a node's output linear in its first U units, s @ move + x @ enter, in place; the carrier computes it.

    In these units the other ops are constant, with nonzero gradients; the carrier's bias cancels the constants. In the
    other units the carrier is zero, and the other ops keep their weights.

    Args:
        node: its shares are kept.
        carrier: number of the carrier op.
        move: matrix of the state, shape `(U, U)`.
        enter: matrix of the input, shape `(I, U)`; zero if None.
        units: U; all H if None.
        noise: standard deviation of the noise added to the other ops' parameters.
        generator: draws the noise.
    """
    units = node.hidden_size if units is None else units
    shares = node.shares.tolist()
    others = [number for number in range(len(node.ops)) if number != carrier]
    constant = sum(shares[number] * hold_constant(node, number, units) for number in others)
    if noise:
        disturb(node, others, noise, generator)
    parameters = node.op_parameters(carrier)
    for value in parameters.values():
        value.zero_()
    if node.highway:  # output (1 - c) s + c sum: with c = 1/2 the sum must be twice the wanted output minus s
        node.gate_x[:, :units] = 0
        node.gate_h[:, :units] = 0
        move = 2 * move - torch.eye(units)
        enter = None if enter is None else 2 * enter
    parameters["W_h"][:units, :units] = move.to(parameters["W_h"]) / shares[carrier]
    if enter is not None:
        parameters["W_x"][:, :units] = enter.to(parameters["W_x"]) / shares[carrier]
    parameters["b_x"][:units] = -constant / shares[carrier]


@torch.no_grad()
def add_noise(backbone: Backbone, noise: float, generator: Generator | None = None) -> Backbone:
    """Return a copy with noise on the parameters of all ops but each node's first carrier. The output changes.

    In an exact start all ops but the carriers have no effect; noise makes them learn different functions.

    Args:
        backbone: left untouched.
        noise: standard deviation.
        generator: draws the noise.
    """
    noisy = copy.deepcopy(backbone)
    for node in noisy.mixed_nodes() if noise else ():
        carriers = (number for number, op in enumerate(node.ops) if is_carrier(op, backbone.share_projection))
        first = next(carriers, None)
        disturb(node, (number for number in range(len(node.ops)) if number != first), noise, generator)
    return noisy
