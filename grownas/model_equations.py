"""Writes `equations.txt` of a model whose task gives the formulas around the core, see `protocols.Written`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from grownas.blocks_equations import blocks_text
from grownas.cells.blocks import BlocksNetwork
from grownas.cells.cell import GrownRNN
from grownas.equations import CoreText, cell_text, for_programs, matrix, readout_numbers, underlined
from grownas.protocols import Formulas, Model
from grownas.readout import readout_of

CORES: dict[type, Callable[[Any, str], CoreText]] = {GrownRNN: cell_text, BlocksNetwork: blocks_text}


def model_equations(model: Model, formulas: Formulas) -> str:
    """Return a model as equations and numbers.

    Args:
        model: its core is a derived cell or network.
        formulas: how the model is written around its core.

    Returns:
        The text, ending with a newline.
    """
    core = CORES[type(model.core)](model.core, formulas.step)
    paragraphs = [
        underlined(f"{formulas.title} with {core.title}", "="),
        "\n".join(["Notation", formulas.notation, core.notation]),
        *formulas.before,
        *core.equations,
        formulas.after,
        *for_programs(f"{formulas.lines}\n{core.lines}", _numbers(model, formulas, core)),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _numbers(model: Model, formulas: Formulas, core: CoreText) -> Iterator[str]:
    yield from readout_numbers(readout_of(model))
    yield from formulas.words
    for name, values in formulas.numbers.items():
        yield from matrix(name, values)
    yield from core.numbers
