"""A start at random weights."""

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
    """Build a task's model around a backbone with drawn weights.

    Args:
        task: builds the model.
        nodes: each node's ops.
        input_size: of the core.
        hidden_size: units of the core.
        highway: the cell's switch.
        share_projection: the cell's switch.
        backend: what runs the cell, see `GrownRNN`.
        generator: draws weights.
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
