"""DARTS: weights and architecture weights are trained in turn on separate data (Liu, Simonyan & Yang 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grownas.strategies.supernet import SupernetStrategy
from grownas.strategies.supernet_options import DartsOptions


class Darts(SupernetStrategy):
    """The strategy `darts` (see `grownas.protocols.Strategy`).

    Each step first updates alpha on held-out training data, then the weights on the other training data.
    `order: second` differentiates through one plain gradient step of the weights with the rates of that step.
    `readout: ablation` is the selection of DARTS-PT (Wang et al. 2021).

    Differences from the published search: training stops early on the validation part, on which neither alpha nor the
    weights are trained (`patience: null` trains all epochs, as published); there is no L2 penalty on activations; the
    look-ahead step has no momentum and no weight decay. It is clipped as the step is, as published.

    The dropouts of the published search on texts are options of the task: `dropout_input`, `dropout_output` and
    `dropout_state`. With `dropout_state` all streams of a window share a mask; published, each stream has its own.

    `readout: ablation` removes the least missed op of all nodes; DARTS-PT takes the nodes in random order.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search, algorithm 1, eq. 5 to 8.
    """

    name: ClassVar[str] = "darts"
    section = DartsOptions

    def method(self) -> Mapping[str, Any]:
        """Return the order of alpha's gradient."""
        return {"bilevel": self.options.order}
