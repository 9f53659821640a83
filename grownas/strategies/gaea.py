"""GAEA: DARTS with exponentiated gradient updates of the shares (Li, Khodak, Balcan & Talwalkar 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from grownas.config.schema import NonNegative, Positive, about
from grownas.strategies.supernet import SupernetSection, SupernetStrategy


class Options(SupernetSection):
    """The options of GAEA. The section `alpha` is not used."""

    use: Literal["gaea"] = "gaea"
    share_rate: Annotated[Positive, about("learning rate of the shares")] = 0.1
    alpha_sd: Annotated[NonNegative, about("standard deviation of alpha at the start; 0: uniform shares")] = 0.0


class Gaea(SupernetStrategy):
    """The strategy `gaea` (see `grownas.protocols.Strategy`).

    The shares p of a node (in a DAG: edge) start uniform. Each update is p *= exp(-rate dL/dp), renormalised, without
    weight decay. Everything else is first-order DARTS. GAEA was published for convolutional cells; the update of the
    shares needs no change for recurrent cells.

    Reference:
        Li, Khodak, Balcan & Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search.
    """

    name: ClassVar[str] = "gaea"
    section = Options

    def method(self) -> Mapping[str, Any]:
        """Return the optimiser of the shares."""
        return {"alpha": {"optimizer": "exponentiated", "rate": self.options.share_rate}}
