"""Where each parameter of a new backbone came from: all that `migrate` needs to carry optimiser state along."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Generator

from grownas.backbones.chain import Backbone, MixedNode
from grownas.genotype import Op


@dataclass(frozen=True)
class Piece:
    """A part of a new parameter that is a part of an old one.

    Attributes:
        into: index into the new parameter.
        source: the old parameter's name.
        index: index into the old parameter.
        scale: the new part's gradient divided by the old part's; None if the old gradient does not tell, being a sum
            over ops that shared a projection, of which this is one.
        stretch: the new part's value divided by the old part's, but for what the morphism added to it (noise, a step,
            a constant).
    """

    into: Any
    source: str
    index: Any
    scale: float | None = 1.0
    stretch: float = 1.0


Origins = dict[str, list[Piece]]  # of a parameter: no entry if it is new, no piece if it was there but all is new in it
WHOLE = (...,)  # also of a scalar


class Morphed(NamedTuple):
    """A new backbone, and where its parameters came from."""

    backbone: Backbone
    origins: Origins


def unchanged(backbone: Backbone, old: int, new: int) -> Origins:
    """Return the origins of a node that is as it was: number `old`, which is now number `new`."""
    names = [name for name, _ in backbone.mixed_nodes()[old].named_parameters()]
    return {f"nodes.{new}.{name}": [Piece(WHOLE, f"nodes.{old}.{name}", WHOLE)] for name in names}


def rebuild_node(
    backbone: Backbone, node: int, ops: Sequence[Op], sources: Sequence[int | None], generator: Generator | None
) -> Morphed:
    """Return a copy of a backbone in which one node has other ops, made of its old ones.

    Args:
        backbone: left untouched.
        node: number of the node.
        ops: those that it shall have.
        sources: for each, the number of the old op whose parameters and alpha it takes, or None for a new one: drawn,
            with alpha 0. Ops of the same source divide its share equally.
        generator: draws parameters, also those that an old op's overwrite; None for PyTorch's own.
    """
    grown = copy.deepcopy(backbone)
    old, new = backbone.mixed_nodes()[node], grown.new_node(ops, generator).to(backbone.alpha[node])
    new.blend = None if old.blend is None else old.blend.clone()
    grown.nodes[node] = new
    origins = _carry_ops(old, new, sources, f"nodes.{node}.")
    for number in range(len(backbone.nodes)):
        if number != node:
            origins |= unchanged(backbone, number, number)
    return Morphed(grown, origins)


def _carry_ops(old: MixedNode, new: MixedNode, sources: Sequence[int | None], prefix: str) -> Origins:
    """Copy ops from one node to another, and the gate; return the origins. See `rebuild_node`."""
    origins: Origins = {f"{prefix}{name}": [] for name, _ in new.named_parameters()}
    for place, number in enumerate(sources):
        if number is None:
            continue
        copies = sources.count(number)
        new.load_op_parameters(place, old.op_parameters(number))
        new.alpha[place] = old.alpha[number] - math.log(copies)  # halves a share, whatever the others are
        scale: float | None = 1 / copies
        origins[prefix + "b_x"].append(Piece((place,), f"{prefix}b_x", (number,), scale))
        origins[prefix + "alpha"].append(Piece((place,), f"{prefix}alpha", (number,), scale))
        if number in old.bias:
            origins[prefix + "b_h"].append(Piece((new.bias[place],), f"{prefix}b_h", (old.bias[number],), scale))
        if old.projection.count(old.projection[number]) > 1:  # one that leaves the others; or those that are left,
            scale = None if new.ops[place].own_projection else 1.0  # whose sum lost a part, and that goes unnoticed
        columns = (slice(None), new.projection[place]), (slice(None), old.projection[number])
        for name in ("W_x", "W_h"):
            if all(piece.into != columns[0] for piece in origins[prefix + name]):
                origins[prefix + name].append(Piece(columns[0], f"{prefix}{name}", columns[1], scale))
    if old.highway:
        for name in ("gate_x", "gate_h"):
            getattr(new, name).copy_(getattr(old, name))
            origins[prefix + name] = [Piece(WHOLE, prefix + name, WHOLE)]
    return origins
