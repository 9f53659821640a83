"""The module of any genotype: which class computes the derived cells of each backbone."""

from __future__ import annotations

from collections.abc import Callable

from grownas.cells.blocks import BlocksNetwork
from grownas.cells.cell import GrownRNN
from grownas.genotype import AnyGenotype, BlocksGenotype, DagGenotype, Genotype

Derived = GrownRNN | BlocksNetwork

MODULES: dict[type[AnyGenotype], Callable[..., Derived]] = {
    Genotype: GrownRNN,
    DagGenotype: GrownRNN,
    BlocksGenotype: lambda genotype, input_size, hidden_size, *, backend: BlocksNetwork(genotype),
}


def derived_cell(genotype: AnyGenotype, input_size: int, hidden_size: int, *, backend: str = "auto") -> Derived:
    """Return the derived cell of a genotype with drawn weights.

    Args:
        genotype: of any backbone.
        input_size: I; blocks have 2, I and Q.
        hidden_size: H; blocks have 2.
        backend: see `GrownRNN`; blocks have one.
    """
    return MODULES[type(genotype)](genotype, input_size, hidden_size, backend=backend)
