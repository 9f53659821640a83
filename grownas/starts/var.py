"""A start that computes a fitted VAR(p) exactly, with a backbone of one node.

The carrier, an additive identity op, is a shift register: its W_x writes the present input into the first block of
units, its W_h shifts each block by one. Each exponential average of the VAR has a block of leaky units: W_h keeps a
part of their value, W_x adds a part of the input. So h_t = [x_t, x_{t-1}, .., x_{t-p+1}, e^1_t, .., e^L_t, free units].
The readout's weights are the VAR's coefficients. All other ops have no effect on the register at first, but nonzero
gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.baselines.var import VAR
from grownas.errors import ConfigError
from grownas.protocols import AnyModel, Model, SeriesTask
from grownas.readout import readout_of
from grownas.starts.random import Ops, random_start


def var_start(
    task: SeriesTask,
    nodes: Sequence[Ops],
    *,
    hidden_size: int,
    var: VAR,
    highway: bool = False,
    share_projection: bool = False,
    carrier_share: float = 0.5,
    backend: str = "auto",
    generator: Generator,
) -> Model:
    """Build a task's model around a backbone that computes a fitted VAR.

    Args:
        task: defines the sizes and the readout.
        nodes: each node's ops; a carrier is added to every node without one.
        hidden_size: number of units of the core.
        var: the fitted VAR.
        highway: see `Genotype`.
        share_projection: see `Genotype`.
        carrier_share: share of the carrier in each node, see `morphisms.add_node`.
        backend: see `GrownRNN`.
        generator: draws the weights.
    """
    first: Any = morphisms.with_carrier(nodes[0], share_projection)
    model = random_start(
        task,
        [first],
        input_size=task.input_size,
        hidden_size=hidden_size,
        highway=highway,
        share_projection=share_projection,
        backend=backend,
        generator=generator,
    )
    model = start_at_var(
        model,
        var.intercept,
        var.coefficients,
        averages=var.averages,
        centres=var.centres,
        carrier_share=carrier_share,
    )
    for ops in nodes[1:]:
        core = model.core
        assert isinstance(core, Backbone)
        model.core = morphisms.add_node(core, carrier_share=carrier_share, generator=generator, ops=list(ops)).backbone
    return model


def hidden_size_for(blocks: int, series: int) -> int:
    """Return the hidden size of a start: 16 if the register fits, otherwise twice the register but at most 64.

    A register of more than 64 units gets no further units.
    The rule was chosen on validation data.

    Args:
        blocks: number of lags and averages of the start's VAR, `VAR.blocks`.
        series: number of inputs I; the register has `blocks * I` units.
    """
    needed = blocks * series
    return 16 if needed <= 16 else max(needed, min(2 * needed, 64))


@torch.no_grad()
def start_at_var(
    model: AnyModel,
    intercept: np.ndarray,
    coefficients: np.ndarray,
    *,
    averages: np.ndarray | None = None,
    centres: Sequence[float] = (),
    carrier_share: float = 0.5,
) -> AnyModel:
    """Return a copy of a model whose forecasts equal those of a VAR(p).

    Units outside the register keep their random weights in all ops but the carrier: they are features of the past whose
    readout weights are zero at first.

    Args:
        model: a task's model whose core is a one-node `Backbone` with a carrier, see `morphisms.with_carrier`.
        intercept: intercept of the VAR, shape `(O,)`.
        coefficients: coefficients of lags 1..p, shape `(p, O, I)`.
        averages: coefficients of L exponential averages, shape `(L, O, I)`; none if None.
        centres: centres of mass of the averages' weights, in rows, shape `(L,)`; see `baselines.var.VAR`.
        carrier_share: share of the carrier in the mixture.

    Raises:
        ConfigError: the backbone has fewer than (p + L)*I hidden units.
    """
    model = copy.deepcopy(model)
    core, readout = model.core, readout_of(model)
    assert isinstance(core, Backbone)
    order, _, series = coefficients.shape
    lagged, used = order * series, (order + len(centres)) * series
    if core.hidden_size < used:
        averaged = f" and {len(centres)} averages" * bool(centres)
        raise ConfigError(
            f"a start at a VAR({order}){averaged} of {series} series needs {used} hidden units, space.hidden_size is "
            f"{core.hidden_size}; raise it or lower start.max_order"
        )
    node = core.mixed_nodes()[0]
    carrier = next(number for number, op in enumerate(node.ops) if morphisms.is_carrier(op, core.share_projection))
    morphisms.set_share(node.alpha, carrier, carrier_share)
    move, enter = torch.zeros(used, used, dtype=torch.float64), torch.eye(series, used, dtype=torch.float64)
    move[: lagged - series, series:lagged] = torch.eye(lagged - series)  # shifts each block of units by one
    for number, centre in enumerate(centres):
        first, taken = lagged + number * series, 1 / (1 + centre)  # e_t = (1 - taken) e_{t-1} + taken x_t
        move[first : first + series, first : first + series].fill_diagonal_(1 - taken)
        enter[:, first : first + series].fill_diagonal_(taken)
    morphisms.pass_on(node, carrier, move, enter=enter, units=used)
    readout.weight.zero_()
    read = [*coefficients, *(averages if averages is not None else ())]
    weights = torch.as_tensor(np.concatenate(read, axis=1))  # (p + L, O, I) -> (O, (p + L)*I)
    readout.weight[:, :used] = weights.to(readout.weight)
    readout.bias.copy_(torch.as_tensor(intercept))
    return model
