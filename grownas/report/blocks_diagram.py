"""Draws a cell of blocks as SVG: a column of states, with wires to the states that read them, as `dag_diagram` does."""

from __future__ import annotations

from grownas.blocks import INPUTS
from grownas.genotype import BlocksGenotype
from grownas.report.dag_diagram import LANE, lanes
from grownas.report.diagram import PILL, TOP, environment

CARD, GAP, WIDE, MARGIN = 46, 22, 330, 24  # as in `dag_diagram`; a card has two lines
BEFORE = ("output of the cell before the last", "output of the cell before")  # what the first states are


def blocks_diagram(genotype: BlocksGenotype) -> str:
    """Draw a cell of blocks as SVG, for a file or a page; it follows the reader's light or dark theme."""
    reads = [(), (), *(tuple(edge.reads for edge in node.edges) for node in genotype.nodes)]
    lines = lanes(reads)
    left = MARGIN + LANE * (1 + max((wire.lane for wire in lines), default=-1))
    tops = [TOP + i * (CARD + GAP) for i in range(len(reads))]
    bottom = tops[-1] + CARD + 30 + PILL / 2
    return (
        environment()
        .get_template("blocks.svg")
        .render(
            texts=[
                *((words,) for words in BEFORE),
                *([f"{edge.op} of state {edge.reads}" for edge in node.edges] for node in genotype.nodes),
            ],
            direct=[i - 1 in sources for i, sources in enumerate(reads)],
            wires=lines,
            tops=tops,
            inputs=INPUTS,
            bottom=bottom,
            left=left,
            right=left + WIDE,
            middle=left + WIDE / 2,
            width=left + WIDE + 40,
            height=bottom + PILL / 2 + 8,
            card=CARD,
            lane=LANE,
            tall=PILL,
            words="A cell of blocks. " + "; ".join(genotype.in_words()) + ".",
        )
    )
