"""A start with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Generator

from grownas.backbones.blocks import BlocksBackbone
from grownas.backbones.chain import Backbone
from grownas.backbones.dag import DagBackbone, EdgeReduction
from grownas.protocols import Model, Task
from grownas.readout import begin_at_core

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
    return begin_at_core(task.model(core, generator=generator))


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
    cells: int = 1,
    backend: str = "auto",
    generator: Generator,
) -> Backbone | DagBackbone | BlocksBackbone:
    """Build a supernet with random weights.

    Args:
        nodes: each node's ops; all edges of a node have them in a dag and in blocks.
        input_size: I.
        hidden_size: H.
        backbone: a key of `space.KINDS`; blocks have 2 inputs and 2 units, whatever the sizes are.
        highway: switch of a chain.
        share_projection: switch of a chain.
        norm: switch of a dag.
        edge_reduction: switch of a dag, see `DagBackbone`.
        cells: of blocks, see `BlocksBackbone`.
        backend: see `GrownRNN`.
        generator: draws the weights.
    """
    sizes: dict[str, Any] = {"input_size": input_size, "hidden_size": hidden_size, "backend": backend}
    supernets: dict[str, Callable[..., Backbone | DagBackbone | BlocksBackbone]] = {
        "chain": partial(Backbone.from_ops, **sizes, highway=highway, share_projection=share_projection),
        "dag": partial(DagBackbone.from_ops, **sizes, norm=norm, edge_reduction=edge_reduction),
        "blocks": partial(BlocksBackbone, cells=cells),
    }
    return supernets[backbone](ops=nodes, generator=generator)
