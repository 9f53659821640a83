"""A start with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator

from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone, EdgeReduction
from grownas.protocols import Model, Task

Ops = Sequence[tuple[str, str]]


def random_start(
    task: Task,
    nodes: Sequence[Ops],
    *,
    input_size: int,
    hidden_size: int,
    generator: Generator,
    **switches: Any,
) -> Model:
    """Build a task's model around a backbone with random weights.

    Args:
        task: builds the model.
        nodes: each node's ops.
        input_size: number of inputs of the core.
        hidden_size: number of units of the core.
        generator: draws the weights.
        switches: of the core, see `random_core`.
    """
    core = random_core(nodes, input_size=input_size, hidden_size=hidden_size, generator=generator, **switches)
    return task.model(core, generator=generator)


def random_core(
    nodes: Sequence[Ops],
    *,
    input_size: int,
    hidden_size: int,
    backbone: str = "chain",
    highway: bool = False,
    share_projection: bool = False,
    norm: bool = False,
    edge_reduction: EdgeReduction = "sum",
    backend: str = "auto",
    generator: Generator,
) -> Backbone | DagBackbone:
    """Build a supernet with random weights.

    Args:
        nodes: each node's ops; all edges of a dag's node have them.
        input_size: I.
        hidden_size: H.
        backbone: `chain` or `dag`.
        highway: switch of a chain.
        share_projection: switch of a chain.
        norm: switch of a dag.
        edge_reduction: switch of a dag, see `DagBackbone`.
        backend: see `GrownRNN`.
        generator: draws the weights.
    """
    if backbone == "dag":
        return DagBackbone.from_ops(
            input_size,
            hidden_size,
            nodes,
            norm=norm,
            edge_reduction=edge_reduction,
            generator=generator,
            backend=backend,
        )
    return Backbone.from_ops(
        input_size,
        hidden_size,
        nodes,
        highway=highway,
        share_projection=share_projection,
        generator=generator,
        backend=backend,
    )
