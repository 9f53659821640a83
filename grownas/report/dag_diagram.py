"""The DAG cell drawn as SVG: its states in a column, with wires to those that read them. `diagram` draws chains.

A state that is read by the next one hangs over it. Wires to later ones leave to the left and run down in lanes of their
own; on the right a rail gathers the states whose mean is the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from grownas.genotype import AnyGenotype, DagGenotype, Genotype
from grownas.report.diagram import PILL, TOP, diagram, environment

CARD, GAP, WIDE = 34, 22, 176  # height of a state's card, between cards, width of one; in the drawing's own units
LANE, MARGIN = 13, 78  # between lanes; left of them, for the input's pill


class Wire(NamedTuple):
    """A wire from a state to later ones than the next, in a lane counted from the cards outwards."""

    source: int
    readers: tuple[int, ...]
    lane: int


def wires(genotype: DagGenotype) -> list[Wire]:
    """Return the wires that pass by other states; where two pass the same state their lanes differ."""
    found: list[Wire] = []
    for source in range(len(genotype.nodes)):
        reading = [i for i, node in enumerate(genotype.nodes, start=1) if node.reads == source]
        far = tuple(i for i in reading if i > source + 1)
        if far:
            taken = {wire.lane for wire in found if wire.readers[-1] >= source}
            found.append(Wire(source, far, next(lane for lane in range(len(found) + 1) if lane not in taken)))
    return found


def dag_diagram(genotype: DagGenotype) -> str:
    """Draw a DAG; the SVG stands alone or inside a page, and follows the reader's light or dark theme."""
    lines = wires(genotype)
    left = MARGIN + LANE * (1 + max((wire.lane for wire in lines), default=-1))
    tops = [TOP + PILL / 2 + 30 + i * (CARD + GAP) for i in range(len(genotype.nodes) + 1)]
    bottom = tops[-1] + CARD + 30 + PILL / 2
    return (
        environment()
        .get_template("dag.svg")
        .render(
            genotype=genotype,
            names=["tanh", *(node.activation for node in genotype.nodes)],
            direct=[node.reads == i for i, node in enumerate(genotype.nodes)],
            wires=lines,
            tops=tops,
            bottom=bottom,
            left=left,
            right=left + WIDE,
            middle=left + WIDE / 2,
            width=left + WIDE + 64,
            height=bottom + PILL / 2 + 24,
            card=CARD,
            lane=LANE,
            top=TOP,
            tall=PILL,
            words="A directed acyclic graph of states. " + "; ".join(genotype.in_words()) + ".",
        )
    )


DRAW: dict[type[AnyGenotype], Callable[[Any], str]] = {Genotype: diagram, DagGenotype: dag_diagram}
ABOUT: dict[type[AnyGenotype], str] = {
    Genotype: "Each node mixes its ops; each op reads the step’s input and the state before the node. The bars are the "
    "shares of the mixture.",
    DagGenotype: "Each state reads one earlier state and moves from it towards an activation of its projection, as "
    "far as a gate of its own is open. The mean of the states that lead to the right is the output.",
}


def draw(genotype: AnyGenotype) -> str:
    """Draw a cell of any backbone, in full."""
    return DRAW[type(genotype)](genotype)


def about(genotype: AnyGenotype) -> str:
    """Say what a drawing of this backbone shows."""
    return ABOUT[type(genotype)]
