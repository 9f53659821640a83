"""DARTS: weights and architecture weights learn in turn, each on data of its own (Liu, Simonyan & Yang 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from grownas.config.schema import about
from grownas.strategies.supernet import SupernetSection, SupernetStrategy


class Options(SupernetSection):
    """What governs DARTS."""

    use: Literal["darts"] = "darts"
    order: Annotated[
        Literal["first", "second"], about("of alpha's gradient; second: through one step of the weights")
    ] = "first"


class Darts(SupernetStrategy):
    """The strategy `darts` (see `grownas.protocols.Strategy`).

    Each step first moves alpha along the loss on held-out training data, then the weights along the loss on the others.
    `order: second` differentiates through one plain gradient step of the weights, with the rates of that step.
    `readout: ablation` is the selection of Wang et al. (2021), DARTS-PT.

    We differ from the published search in these points: a stage ends by early stopping on the validation part, which
    neither alpha nor the weights learn from (`patience: null` trains all epochs, as published); no L2 on activations;
    the look-ahead step has no momentum.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search, algorithm 1, eq. 5 to 8.
    """

    name: ClassVar[str] = "darts"
    section = Options

    def method(self) -> Mapping[str, Any]:
        """Return the order of alpha's gradient."""
        return {"bilevel": self.options.order}
