"""Draws the op that replaces another op from a search space."""

from __future__ import annotations

import random
from collections.abc import Callable

from grownas.backbones.chain import Backbone
from grownas.space import Pair, SearchSpace


def draw_uniform(space: SearchSpace, backbone: Backbone, node: int, rng: random.Random) -> Pair:
    """Draw an op of the space; the node may already have it."""
    return rng.choice(space.ops)


def draw_missing(space: SearchSpace, backbone: Backbone, node: int, rng: random.Random) -> Pair:
    """Draw one of the ops of the space that the node has least often: a missing op, if any is missing.

    The op to be replaced still counts, so that it is not drawn again at once.
    """
    there = backbone.op_names(node)
    fewest = min(there.count(op) for op in space.ops)
    return rng.choice([op for op in space.ops if there.count(op) == fewest])


DRAWS: dict[str, Callable[[SearchSpace, Backbone, int, random.Random], Pair]] = {
    "uniform": draw_uniform,
    "missing": draw_missing,
}
