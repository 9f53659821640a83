"""A start with random weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from grownas.backbones.chain import Backbone
from grownas.protocols import Model, Task

Ops = Sequence[tuple[str, str]]


def random_start(
    task: Task,
    nodes: Sequence[Ops],
    *,
    input_size: int,
    hidden_size: int,
    highway: bool = False,
    share_projection: bool = False,
    backend: str = "auto",
    generator: Generator,
) -> Model:
    """Build a task's model around a backbone with random weights.

    Args:
        task: builds the model.
        nodes: each node's ops.
        input_size: number of inputs of the core.
        hidden_size: number of units of the core.
        highway: see `Genotype`.
        share_projection: see `Genotype`.
        backend: see `GrownRNN`.
        generator: draws the weights.
    """
    core = Backbone.from_ops(
        input_size,
        hidden_size,
        [list(ops) for ops in nodes],
        highway=highway,
        share_projection=share_projection,
        generator=generator,
        backend=backend,
    )
    return task.model(core, generator=generator)
