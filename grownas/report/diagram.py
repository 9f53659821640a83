"""Draws a chain cell as SVG: each node is a card with its ops and their shares; with all wires, or only the cards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from grownas.genotype import Genotype, Node, Op

if TYPE_CHECKING:
    from jinja2 import Environment

TOP, PILL = 20, 28  # y of the topmost rounded label; height of such labels; in SVG units, as all lengths here
SIGNS = {"add": "+", "hadamard": "\N{MULTIPLICATION SIGN}"}


@dataclass(frozen=True)
class Layout:
    """Lengths of a drawing, in SVG units.

    Attributes:
        width: width of the drawing.
        left, right: left and right edge of the cards.
        row, head, foot, gap: height of an op, of a card's title, of its lower margin, and of the gap between cards.
        bar_left, bar_width: left edge and width of the bars.
        has_wires: whether inputs, states and the recurrent wire are drawn, or only the cards.
    """

    width: int
    left: int
    right: int
    row: int
    head: int
    foot: int
    gap: int
    bar_left: int
    bar_width: int
    has_wires: bool


FULL = Layout(400, 84, 348, 24, 34, 8, 40, 190, 88, has_wires=True)
CARDS = Layout(208, 1, 207, 20, 30, 5, 10, 104, 36, has_wires=False)


@dataclass(frozen=True)
class OpRow:
    """An op in a drawing.

    Attributes:
        y: vertical position.
        sign: `+` or a multiplication sign.
        op: the op.
        bar: length of the bar.
        largest: whether the op has the largest share of its node.
        fate: `gone` for a removed op, `new` for a new op, else empty.
    """

    y: float
    sign: str
    op: Op
    bar: float
    largest: bool
    fate: str


@dataclass(frozen=True)
class Card:
    """A node in a drawing."""

    number: int
    top: float
    height: float
    rows: tuple[OpRow, ...]


@cache
def environment() -> Environment:
    """Return the templates of this package; they escape all inserted values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


Place = tuple[int, int]  # position of an op: index of the node, index of the op in the node


def diagram(
    genotype: Genotype,
    layout: Layout = FULL,
    *,
    gone: Collection[Place] = (),
    new: Collection[Place] = (),
) -> str:
    """Draw a cell as SVG, for a file or a page; it follows the reader's light or dark theme.

    Args:
        genotype: the cell.
        layout: `FULL` or `CARDS`.
        gone: removed ops, drawn struck out.
        new: new ops, drawn in the accent colour.
    """
    fates = {**dict.fromkeys(gone, "gone"), **dict.fromkeys(new, "new")}
    cards, y = [], TOP + PILL / 2 + layout.gap * 0.75 if layout.has_wires else 1.0
    for number, node in enumerate(genotype.nodes):
        card = _card(number, node, y, layout, fates)
        cards.append(card)
        y += card.height + layout.gap
    bottom = y - layout.gap * 0.25 + PILL / 2
    return (
        environment()
        .get_template("diagram.svg")
        .render(
            genotype=genotype,
            cards=cards,
            bottom=bottom,
            layout=layout,
            height=bottom + PILL / 2 + 24 if layout.has_wires else y - layout.gap + 1,
            middle=(layout.left + layout.right) / 2,
            top=TOP,
            tall=PILL,
            signs=SIGNS,
            words=_in_words(genotype, fates),
        )
    )


def _card(number: int, node: Node, top: float, layout: Layout, fates: Mapping[Place, str]) -> Card:
    largest = max(op.share for op in node.ops)
    rows = tuple(
        OpRow(
            top + layout.head + layout.row * (i + 0.5),
            SIGNS[op.combine],
            op,
            layout.bar_width * op.share,
            op.share == largest,
            fates.get((number, i), ""),
        )
        for i, op in enumerate(node.ops)
    )
    return Card(number + 1, top, layout.head + layout.row * len(rows) + layout.foot, rows)


def _in_words(genotype: Genotype, fates: Mapping[Place, str]) -> str:
    """Describe the cell as text for screen readers."""
    nodes = [
        f"node {number + 1}: "
        + ", ".join(
            f"{op.name} {op.share:.1%}" + (f" ({fate})" if (fate := fates.get((number, i))) else "")
            for i, op in enumerate(node.ops)
        )
        for number, node in enumerate(genotype.nodes)
    ]
    return "A chain of nodes; each node reads the input and the previous state. " + "; ".join(nodes) + "."
