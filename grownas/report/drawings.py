"""Draws a cell of any backbone, with a caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grownas.genotype import AnyGenotype, BlocksGenotype, DagGenotype, Genotype
from grownas.report.blocks_diagram import blocks_diagram
from grownas.report.dag_diagram import dag_diagram
from grownas.report.diagram import diagram

DRAW: dict[type[AnyGenotype], Callable[[Any], str]] = {
    Genotype: diagram,
    DagGenotype: dag_diagram,
    BlocksGenotype: blocks_diagram,
}
ABOUT: dict[type[AnyGenotype], str] = {
    Genotype: "Each node mixes its ops; each op reads the step’s input and the state before the node. The bars show "
    "the shares of the ops in the mixture.",
    DagGenotype: "Each state reads one earlier state. Its gate mixes this state with an activation of its projection. "
    "The output is the mean of the states with a wire to the right.",
    BlocksGenotype: "Each state sums what two ops make of earlier states. The output of the cell is the mean of the "
    "states with a wire to the right. The cells in a row have the same form and coefficients of their own.",
}


def draw(genotype: AnyGenotype) -> str:
    """Draw a cell of any backbone, with all details."""
    return DRAW[type(genotype)](genotype)


def about(genotype: AnyGenotype) -> str:
    """Return a caption for the drawing of a cell."""
    return ABOUT[type(genotype)]
