"""Which op to put in the place of another: draws from a search space."""

from __future__ import annotations

import random
from collections.abc import Callable

from grownas.backbones.chain import Backbone
from grownas.space import Pair, SearchSpace


def draw_uniform(space: SearchSpace, backbone: Backbone, node: int, rng: random.Random) -> Pair:
    """Draw any op of the space, also one that the node has."""
    return rng.choice(space.ops)


def draw_missing(space: SearchSpace, backbone: Backbone, node: int, rng: random.Random) -> Pair:
    """Draw among the ops of the space that the node has least often: those that it lacks, if there are any.

    The op that is to go still counts, so that it does not come back at once.
    """
    there = backbone.op_names(node)
    fewest = min(there.count(op) for op in space.ops)
    return rng.choice([op for op in space.ops if there.count(op) == fewest])


DRAWS: dict[str, Callable[[SearchSpace, Backbone, int, random.Random], Pair]] = {
    "uniform": draw_uniform,
    "missing": draw_missing,
}
