"""Morphisms: from a backbone to another, with a stated promise about the function (ALGORITHMS 3 and 5).

Each returns `(backbone, origins)` and leaves its input untouched. `origins` says where each parameter of the new
backbone came from, which is all that `migrate` needs to carry optimiser state along.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from grownas.backbone import Backbone, MixedNode, OpLike
from grownas.genotype import Op
from grownas.ops import ACTIVATION

CARRIER = ("add", "identity")


@dataclass(frozen=True)
class Piece:
    """A part of a new parameter that is a part of an old one.

    Attributes:
        into: index into the new parameter.
        source: the old parameter's name.
        index: index into the old parameter.
        scale: the new part's gradient divided by the old part's.
    """

    into: Any
    source: str
    index: Any
    scale: float = 1.0


Origins = dict[str, list[Piece]]
WHOLE = (slice(None),)


class Morphed(NamedTuple):
    """A new backbone, and where its parameters came from."""

    backbone: Backbone
    origins: Origins


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
    count = len(backbone.nodes)
    position = count if position is None else position
    if not 0 <= position <= count:
        raise ValueError(f"position must lie between 0 and {count}, got {position}")
    grown = copy.deepcopy(backbone)
    chosen = backbone.mixed_nodes()[max(position - 1, 0)].ops if ops is None else ops
    node = grown.new_node(with_carrier(chosen, backbone.share_projection), generator).to(backbone.alpha[0])
    carrier = next(number for number, op in enumerate(node.ops) if is_carrier(op, backbone.share_projection))
    set_share(node.alpha, carrier, carrier_share)
    pass_on(node, carrier, torch.eye(backbone.hidden_size), noise=noise, generator=generator)
    nodes = list(grown.nodes)
    grown.nodes = torch.nn.ModuleList([*nodes[:position], node, *nodes[position:]])
    origins: Origins = {}
    for number in range(count):
        for name, _ in backbone.mixed_nodes()[number].named_parameters():
            into = f"nodes.{number + (number >= position)}.{name}"
            origins[into] = [Piece(WHOLE, f"nodes.{number}.{name}", WHOLE)]
    return Morphed(grown, origins)


def is_carrier(op: Op, share_projection: bool) -> bool:
    """Say whether an op can carry the state: an additive identity whose projection is its own."""
    return (op.combine, op.activation) == CARRIER and (op.own_projection or not share_projection)


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
    constant = sum(shares[number] * silence(node, number, units) for number in others)
    if noise:
        _disturb(node, carrier, noise, generator)
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


def _disturb(node: MixedNode, carrier: int | None, noise: float, generator: Generator | None) -> None:
    """Add noise to all parameters of a node's ops but the carrier's, in place."""
    disturbed: set[int] = set()
    for number in range(len(node.ops)):
        for value in node.op_parameters(number).values() if number != carrier else ():
            if value.data_ptr() not in disturbed:  # once where ops share a projection
                disturbed.add(value.data_ptr())
                drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value += noise * drawn.to(value.device)


@torch.no_grad()
def stir(backbone: Backbone, noise: float, generator: Generator | None = None) -> Backbone:
    """Return a copy with noise on all ops' parameters but each node's first carrier's. No promise: the output moves.

    An exact start is silent in all ops but its carriers; noise lets them learn different things.

    Args:
        backbone: left untouched.
        noise: standard deviation.
        generator: draws the noise.
    """
    stirred = copy.deepcopy(backbone)
    for node in stirred.mixed_nodes() if noise else ():
        carriers = (number for number, op in enumerate(node.ops) if is_carrier(op, backbone.share_projection))
        _disturb(node, next(carriers, None), noise, generator)
    return stirred


def silence(node: MixedNode, op: int, units: int) -> float:
    """Make an op constant in its first units, in place, with live gradients; return the constant.

    It is held where the table says: relu at a small positive value, for at zero it would never receive a gradient. A
    Hadamard op held elsewhere than at zero needs W_h = 0 for that, also where it shares W_h: its siblings then have
    gradients through their biases.
    """
    parameters = node.op_parameters(op)
    combine, activation = node.ops[op].combine, ACTIVATION[node.ops[op].activation]
    parameters["W_x"][:, :units] = 0
    parameters["b_x"][:units] = activation.start
    if combine == "add" or activation.start:
        parameters["W_h"][:, :units] = 0
    if combine == "hadamard" and activation.start:
        parameters["b_h"][:units] = 1
    return activation.f(torch.tensor(activation.start, dtype=torch.float64)).item()


@torch.no_grad()
def prune_op(backbone: Backbone, node: int, op: int) -> Morphed:
    """Remove an op so that the output moves least: only by what the op varied.

    Its share goes to an op that is homogeneous (identity or relu), whose weights shrink to keep its part as it was;
    so every other op keeps its absolute share. Its constant part, each unit's value at zero input and zero state,
    goes into an additive identity's bias, or else into the biases of the next node. Where there is no such op the
    shares are renormalised; where there is no such bias (last node, highway) the constant is lost.

    An op that is constant, as all but the carrier are after `add_node` without noise, goes without a trace where its
    share and its constant find such places.

    Raises:
        ValueError: there is no such node or op, or the node has no other op.
    """
    if not 0 <= node < len(backbone.nodes):
        raise ValueError(f"the backbone has nodes 0..{len(backbone.nodes) - 1}, got {node}")
    grown = copy.deepcopy(backbone)
    old = backbone.mixed_nodes()[node]
    if len(old.ops) == 1:
        raise ValueError(f"node {node} has one op only; a node cannot be empty")
    if not 0 <= op < len(old.ops):
        raise ValueError(f"node {node} has ops 0..{len(old.ops) - 1}, got {op}")
    kept = [number for number in range(len(old.ops)) if number != op]
    new = grown.new_node([old.ops[number] for number in kept]).to(old.alpha)
    origins = _copy_ops(old, new, kept, f"nodes.{node}.")
    shares = torch.softmax(old.alpha.double(), 0)
    lost = shares[op] * _constant_part(old, op)
    heir = _heir(new)
    if heir is None:
        new.alpha.copy_(old.alpha[kept])
    else:
        inherited = shares[kept]
        ratio = float(inherited[heir] / (inherited[heir] + shares[op]))
        inherited[heir] += shares[op]
        new.alpha.copy_(torch.log(inherited))
        _scale(new, heir, ratio, origins, f"nodes.{node}.")
    grown.nodes[node] = new
    _fold_constant(grown, node, lost)
    for number, other in enumerate(backbone.mixed_nodes()):
        if number != node:
            names = [f"nodes.{number}.{name}" for name, _ in other.named_parameters()]
            origins |= {name: [Piece(WHOLE, name, WHOLE)] for name in names}
    return Morphed(grown, origins)


def _constant_part(node: MixedNode, op: int) -> Tensor:
    """Return an op's value at zero input and zero state, shape `(H,)`, float64."""
    biases = {name: value.double() for name, value in node.op_parameters(op).items() if name in ("b_x", "b_h")}
    z = biases["b_x"] if node.ops[op].combine == "add" else biases["b_x"] * biases["b_h"]
    return ACTIVATION[node.ops[op].activation].f(z)


def _copy_ops(old: MixedNode, new: MixedNode, kept: list[int], prefix: str) -> Origins:
    """Copy the ops that are kept, and the gate; return the origins."""
    origins: Origins = {f"{prefix}{name}": [] for name, _ in new.named_parameters()}
    for place, number in enumerate(kept):
        new.load_op_parameters(place, old.op_parameters(number))
        columns = (slice(None), new.projection[place]), (slice(None), old.projection[number])
        for name in ("W_x", "W_h"):
            piece = Piece(columns[0], f"{prefix}{name}", columns[1])
            if piece not in origins[prefix + name]:
                origins[prefix + name].append(piece)
        origins[prefix + "b_x"].append(Piece((place,), f"{prefix}b_x", (number,)))
        origins[prefix + "alpha"].append(Piece((place,), f"{prefix}alpha", (number,)))
        if number in old.bias:
            origins[prefix + "b_h"].append(Piece((new.bias[place],), f"{prefix}b_h", (old.bias[number],)))
    if old.highway:
        for name in ("gate_x", "gate_h"):
            getattr(new, name).copy_(getattr(old, name))
            origins[prefix + name] = [Piece(WHOLE, prefix + name, WHOLE)]
    return origins


def _heir(node: MixedNode) -> int | None:
    """Return the homogeneous op with its own projection that should take a pruned share; the first additive one."""
    able = [
        number
        for number, op in enumerate(node.ops)
        if ACTIVATION[op.activation].homogeneous and node.projection.count(node.projection[number]) == 1
    ]
    return min(able, key=lambda number: (node.ops[number].combine != "add", node.ops[number].activation), default=None)


def _scale(node: MixedNode, op: int, ratio: float, origins: Origins, prefix: str) -> None:
    """Multiply a homogeneous op's value by a positive ratio, its share having grown by 1 / ratio."""
    parameters = node.op_parameters(op)
    for name in ("W_x", "b_x", "W_h") if node.ops[op].combine == "add" else ("W_x", "b_x"):
        parameters[name] *= ratio
        index = (op,) if name == "b_x" else (slice(None), node.projection[op])
        pieces = origins[prefix + name]
        origins[prefix + name] = [replace(p, scale=1 / ratio) if p.into == index else p for p in pieces]


def _fold_constant(backbone: Backbone, node: int, constant: Tensor) -> None:
    """Put a constant `(H,)` that a node's output lost into a bias that exists; see `prune_op`."""
    here = backbone.mixed_nodes()[node]
    for number, op in enumerate(here.ops):
        if (op.combine, op.activation) == CARRIER:
            here.op_parameters(number)["b_x"] += constant / here.shares[number]
            return
    if node + 1 == len(backbone.nodes) or backbone.highway:
        return
    after = backbone.mixed_nodes()[node + 1]
    for number, op in enumerate(after.ops):
        parameters = after.op_parameters(number)
        parameters["b_x" if op.combine == "add" else "b_h"] += constant @ parameters["W_h"].double()
