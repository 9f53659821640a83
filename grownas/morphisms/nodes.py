"""A node is added, by a carrier or blended in; an exact start is given noise (ALGORITHMS 3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from grownas.backbones.chain import Backbone, MixedNode, OpLike
from grownas.genotype import Op
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
) -> Morphed:
    """Insert a node that passes its input on. Promise: with noise 0 the output is unchanged to rounding.

    The carrier, an additive identity op with W_h = I / share, passes the state on; every other op starts at a
    constant, which the carrier's bias takes away, with live gradients.

    Args:
        backbone: left untouched.
        position: the new node stands before the node that has this number now; None for the end.
        carrier_share: the carrier's share of the mixture, in (0, 1); 1 if it is the only op.
        noise: standard deviation of what is added to all parameters of the other ops.
        generator: draws the noise and the Hadamard ops' W_h and b_h.
        ops: the new node's ops; those of the node before it if None. A carrier is put in front if there is none.

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
    backbone: Backbone,
    position: int | None = None,
    generator: Generator | None = None,
    ops: Sequence[OpLike] | None = None,
) -> Morphed:
    """Insert a drawn node, mixed in by a scalar that is 0. Promise: the output is the same to the last bit.

    The node computes s + m (mixture - s), with m = `backbone.blend[position]`. Raise it to 1 over some steps of
    training, and the node is a plain one: no carrier stays in the cell.

    Args:
        backbone: left untouched.
        position: the new node stands before the node that has this number now; None for the end.
        generator: draws the node's weights.
        ops: the new node's ops; those of the node before it if None. Their shares are equal.

    Raises:
        ValueError: the position is out of range.
    """
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


def _inserted(backbone: Backbone, position: int, node: MixedNode) -> Morphed:
    """Return a copy of a backbone with one more node."""
    grown = copy.deepcopy(backbone)
    nodes = list(grown.nodes)
    grown.nodes = torch.nn.ModuleList([*nodes[:position], node, *nodes[position:]])
    origins: Origins = {}
    for number in range(len(backbone.nodes)):
        origins |= unchanged(backbone, number, number + (number >= position))
    return Morphed(grown, origins)


def ops_for_node(backbone: Backbone, position: int) -> list[Op]:
    """Return the ops that `add_node` gives a node by default: those of the node before it, one that carries among them.

    Where none of them can, there is one more.
    """
    return with_carrier(backbone.mixed_nodes()[max(position - 1, 0)].ops, backbone.share_projection)


def with_carrier(ops: Sequence[OpLike], share_projection: bool) -> list[Op]:
    """Return ops among which one can carry: the first additive identity, or a new one in front."""
    made = [op if isinstance(op, Op) else Op(*op) for op in ops]
    if any(is_carrier(op, share_projection) for op in made):
        return made
    carrier = Op(*CARRIER, own_projection=share_projection)
    place = next((i for i, op in enumerate(made) if (op.combine, op.activation) == CARRIER), None)
    if place is None:
        return [carrier, *made]
    return [*made[:place], carrier, *made[place + 1 :]]


def set_share(alpha: Tensor, op: int, share: float) -> None:
    """Give one op a share and the others equal parts of the rest, in place."""
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
    """Make a node's output linear, s @ move + x @ enter, in its first units, by its carrier alone; in place.

    The other ops are constant in these units, with live gradients, and their constants are taken away. In further
    units the carrier is silent and the others keep their weights.

    Args:
        node: its shares are kept.
        carrier: number of the op that carries.
        move: of the state, shape `(U, U)`.
        enter: of the input, shape `(I, U)`; none if left out.
        units: U; all H if None.
        noise: standard deviation of what is added to the other ops' parameters.
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
    if node.highway:  # the gate mixes (1 - c) s + c sum: hold it at c = 1/2 and let the sum be twice the wish less s
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
    """Return a copy with noise on all ops' parameters but each node's first carrier's. No promise: the output moves.

    An exact start is silent in all ops but its carriers; noise lets them learn different things.

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
