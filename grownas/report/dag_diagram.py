"""Draws a DAG cell as SVG: a column of states, with wires to the states that read them. `diagram` draws chains.

A wire to the next state is a short arrow between the two cards. Wires to later states run down on the left side, each
in its own lane. On the right side, a line collects the states whose mean is the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grownas.genotype import DagGenotype
from grownas.report.diagram import PILL, TOP, environment

CARD, GAP, WIDE = 34, 22, 176  # height of a state's card, gap between cards, width of a card; in SVG units
LANE, MARGIN = 13, 78  # distance between lanes; space at their left for the input


class Wire(NamedTuple):
    """A wire from a state to states after the next one; lanes are counted from the cards outwards."""

    source: int
    readers: tuple[int, ...]
    lane: int


def lanes(reads: Sequence[Sequence[int]]) -> list[Wire]:
    """Return the wires that pass other states; wires that pass the same state have different lanes.

    Args:
        reads: for each state the numbers of the states that it reads.
    """
    found: list[Wire] = []
    for source in range(len(reads)):
        far = tuple(i for i, sources in enumerate(reads) if source in sources and i > source + 1)
        if far:
            taken = {wire.lane for wire in found if wire.readers[-1] >= source}
            found.append(Wire(source, far, next(lane for lane in range(len(found) + 1) if lane not in taken)))
    return found


def wires(genotype: DagGenotype) -> list[Wire]:
    """Return the wires of a DAG that pass other states, see `lanes`."""
    return lanes([(), *((node.reads,) for node in genotype.nodes)])


def dag_diagram(genotype: DagGenotype) -> str:
    """Draw a DAG cell as SVG, for a file or a page; it follows the reader's light or dark theme."""
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
