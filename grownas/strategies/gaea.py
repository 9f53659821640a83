"""GAEA: DARTS with exponentiated gradient updates of the shares (Li, Khodak, Balcan & Talwalkar 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grownas.strategies.supernet import SupernetStrategy
from grownas.strategies.supernet_options import GaeaOptions


class Gaea(SupernetStrategy):
    """The strategy `gaea` (see `grownas.protocols.Strategy`).

    The shares p of a node (in a DAG: edge) start uniform. Each update is p *= exp(-rate dL/dp), renormalised, without
    weight decay. Everything else is first-order DARTS. GAEA was published for convolutional cells; the update of the
    shares needs no change for recurrent cells.

    Reference:
        Li, Khodak, Balcan & Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search.
    """

    name: ClassVar[str] = "gaea"
    section = GaeaOptions

    def method(self) -> Mapping[str, Any]:
        """Return the optimiser of the shares."""
        return {"alpha": {"optimizer": "exponentiated", "rate": self.options.share_rate}}
