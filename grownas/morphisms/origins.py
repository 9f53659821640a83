"""Origins: the source of each parameter of a new backbone. `migrate` needs nothing else to migrate optimiser state."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Generator

from grownas.backbones.chain import Backbone, MixedNode
from grownas.backbones.dag import DagBackbone
from grownas.genotype import Op


@dataclass(frozen=True)
class Piece:
    """A part of a new parameter that was copied from a part of an old parameter.

    Attributes:
        into: index into the new parameter.
        source: name of the old parameter.
        index: index into the old parameter.
        scale: the new part's gradient divided by the old part's gradient. None if the old gradient does not determine
            it: the old gradient is a sum over ops that shared a projection, and this op is one of them.
        stretch: the new part's value divided by the old part's value, before the morphism adds noise, a step or a
            constant.
    """

    into: Any
    source: str
    index: Any
    scale: float | None = 1.0
    stretch: float = 1.0


Origins = dict[str, list[Piece]]  # by parameter; no entry: the parameter is new; empty list: all of its values are new
WHOLE = (...,)  # index of a whole parameter, also of a scalar


Core = TypeVar("Core", bound=Backbone | DagBackbone)


class Morphed(NamedTuple, Generic[Core]):
    """A new backbone and the origins of its parameters."""

    backbone: Core
    origins: Origins


def unchanged(backbone: Backbone, old: int, new: int) -> Origins:
    """Return the origins of an unchanged node that had number `old` and has number `new`."""
    names = [name for name, _ in backbone.mixed_nodes()[old].named_parameters()]
    return {f"nodes.{new}.{name}": [Piece(WHOLE, f"nodes.{old}.{name}", WHOLE)] for name in names}


def rebuild_node(
    backbone: Backbone, node: int, ops: Sequence[Op], sources: Sequence[int | None], generator: Generator | None
) -> Morphed[Backbone]:
    """Return a copy of a backbone in which one node has new ops, built from its old ops.

    Args:
        backbone: left untouched.
        node: number of the node.
        ops: the node's new ops.
        sources: for each new op, the number of the old op whose parameters and alpha it copies; None: its parameters
            are drawn, and its alpha is 0. Ops with the same source divide its share equally.
        generator: draws all parameters, before the old ones are copied; None for PyTorch's default generator.
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
    """Copy the ops and the gate of a node to another node; return the origins. See `rebuild_node`."""
    origins: Origins = {f"{prefix}{name}": [] for name, _ in new.named_parameters()}
    for place, number in enumerate(sources):
        if number is None:
            continue
        copies = sources.count(number)
        new.load_op_parameters(place, old.op_parameters(number))
        new.alpha[place] = old.alpha[number] - math.log(copies)  # halves the share if there are two copies
        scale: float | None = 1 / copies
        origins[prefix + "b_x"].append(Piece((place,), f"{prefix}b_x", (number,), scale))
        origins[prefix + "alpha"].append(Piece((place,), f"{prefix}alpha", (number,), scale))
        if number in old.bias:
            origins[prefix + "b_h"].append(Piece((new.bias[place],), f"{prefix}b_h", (old.bias[number],), scale))
        if old.projection.count(old.projection[number]) > 1:  # shared: unknown for an op that leaves; 1 for the others,
            scale = None if new.ops[place].own_projection else 1.0  # whose sum of gradients lost one part: ignored
        columns = (slice(None), new.projection[place]), (slice(None), old.projection[number])
        for name in ("W_x", "W_h"):
            if all(piece.into != columns[0] for piece in origins[prefix + name]):
                origins[prefix + name].append(Piece(columns[0], f"{prefix}{name}", columns[1], scale))
    if old.highway:
        for name in ("gate_x", "gate_h"):
            getattr(new, name).copy_(getattr(old, name))
            origins[prefix + name] = [Piece(WHOLE, prefix + name, WHOLE)]
    return origins
