"""grownas grows recurrent cells by morphisms that preserve the learned function."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grownas.api import Comparison, Run, backtest, compare, load, search
    from grownas.backbones.blocks import BlocksBackbone
    from grownas.backbones.chain import Backbone
    from grownas.backbones.dag import DagBackbone
    from grownas.backtested import Backtest
    from grownas.blocks_genotype import BlocksGenotype
    from grownas.cells.blocks import BlocksNetwork
    from grownas.cells.cell import GrownRNN
    from grownas.forecaster import GrownForecaster
    from grownas.genotype import DagGenotype, DagNode, Genotype, Node, Op

__all__ = [
    "Backbone",
    "Backtest",
    "BlocksBackbone",
    "BlocksGenotype",
    "BlocksNetwork",
    "Comparison",
    "DagBackbone",
    "DagGenotype",
    "DagNode",
    "Genotype",
    "GrownForecaster",
    "GrownRNN",
    "Node",
    "Op",
    "Run",
    "__version__",
    "backtest",
    "compare",
    "load",
    "search",
]

__version__ = "0.1.0"

_HOME = {  # name -> module; imported on first use, since torch takes seconds
    "Backbone": "grownas.backbones.chain",
    "Backtest": "grownas.backtested",
    "Comparison": "grownas.api",
    "DagBackbone": "grownas.backbones.dag",
    "Run": "grownas.api",
    "backtest": "grownas.api",
    "compare": "grownas.api",
    "load": "grownas.api",
    "search": "grownas.api",
    "GrownForecaster": "grownas.forecaster",
    "GrownRNN": "grownas.cells.cell",
    "BlocksBackbone": "grownas.backbones.blocks",
    "BlocksGenotype": "grownas.blocks_genotype",
    "BlocksNetwork": "grownas.cells.blocks",
    "DagGenotype": "grownas.genotype",
    "DagNode": "grownas.genotype",
    "Genotype": "grownas.genotype",
    "Node": "grownas.genotype",
    "Op": "grownas.genotype",
}


def __dir__() -> list[str]:
    """List the public names, including names that are not imported yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'grownas' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
