"""The cell drawn as SVG: a chain of nodes, each a card with its ops and their shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from grownas.genotype import Genotype, Node, Op

if TYPE_CHECKING:
    from jinja2 import Environment

WIDTH = 400  # of the drawing, in its own units, as all lengths here
CARD_LEFT, CARD_RIGHT = 84, 348
ROW, HEAD, FOOT, GAP = 24, 34, 8, 40  # heights: an op, a card's title, its lower rim, between cards
TOP, PILL = 20, 28  # middle of the uppermost pill; height of a pill
BAR_LEFT, BAR_WIDTH = 190, 88
SIGNS = {"add": "+", "hadamard": "\N{MULTIPLICATION SIGN}"}


@dataclass(frozen=True)
class OpRow:
    """An op as drawn: its place, sign, activation, share, and whether it has the node's largest share."""

    y: float
    sign: str
    op: Op
    bar: float
    largest: bool


@dataclass(frozen=True)
class Card:
    """A node as drawn."""

    number: int
    top: float
    height: float
    rows: tuple[OpRow, ...]


@cache
def environment() -> Environment:
    """Return the templates of this package; everything put into them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def diagram(genotype: Genotype) -> str:
    """Draw a cell; the SVG stands alone or inside a page, and follows the reader's light or dark theme."""
    cards, y = [], TOP + PILL / 2 + GAP * 0.75
    for number, node in enumerate(genotype.nodes, start=1):
        card = _card(number, node, y)
        cards.append(card)
        y += card.height + GAP
    bottom = y - GAP * 0.25 + PILL / 2
    return (
        environment()
        .get_template("diagram.svg")
        .render(
            genotype=genotype,
            cards=cards,
            bottom=bottom,
            width=WIDTH,
            height=bottom + PILL / 2 + 24,
            left=CARD_LEFT,
            right=CARD_RIGHT,
            middle=(CARD_LEFT + CARD_RIGHT) / 2,
            bar_left=BAR_LEFT,
            bar_width=BAR_WIDTH,
            top=TOP,
            tall=PILL,
            signs=SIGNS,
            words=_in_words(genotype),
        )
    )


def _card(number: int, node: Node, top: float) -> Card:
    largest = max(op.share for op in node.ops)
    rows = tuple(
        OpRow(top + HEAD + ROW * i + ROW / 2, SIGNS[op.combine], op, BAR_WIDTH * op.share, op.share == largest)
        for i, op in enumerate(node.ops)
    )
    return Card(number, top, HEAD + ROW * len(rows) + FOOT, rows)


def _in_words(genotype: Genotype) -> str:
    """Describe the cell for those who cannot see the drawing."""
    nodes = [
        f"node {number}: " + ", ".join(f"{op.name} {op.share:.1%}" for op in node.ops)
        for number, node in enumerate(genotype.nodes, start=1)
    ]
    return "A chain of nodes that each read the input and the state before. " + "; ".join(nodes) + "."
