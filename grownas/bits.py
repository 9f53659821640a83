"""Bit widths of a cell's products and what they cost. No torch here.

A unit is what has widths of its own: a projection of a chain, which belongs to one op or to all that share it, a gate
of a chain, a node of a DAG (see `cost`), or a FIR or polynomial of blocks. Bit operations of a step: the sum over units
of multiplications * bits of one factor * bits of the other, as in EdMIPS (Cai & Vasconcelos 2020, eq. 10). Products of
single numbers (shares, gates, Hadamard), embedding and readout are not quantised and not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grownas.blocks import POLYNOMIALS, Part
from grownas.cost import costs_of
from grownas.genotype import AnyGenotype, BlocksGenotype
from grownas.genotype_bits import Bits

REAL: Bits = (32, 32)  # widths of a cell that is not quantised, in float32


class Products(NamedTuple):
    """Numbers of a unit's multiplications in a time step.

    Attributes:
        weighted: of an input by a weight.
        powers: of two numbers with the width of the inputs, which form the powers of a polynomial.
    """

    weighted: int
    powers: int = 0


def multiplications(genotype: AnyGenotype, input_size: int, hidden_size: int) -> dict[tuple[str, str], Products]:
    """Return the multiplications of each unit in a time step, by the names of node and unit."""
    if isinstance(genotype, BlocksGenotype):
        return {name: _of_part(part, genotype.cells) for name, part in genotype.units}
    costs = costs_of(genotype, input_size, hidden_size)
    return {name: Products(cost.products) for name, cost in costs.items() if cost.products}


def _of_part(part: Part, cells: int) -> Products:
    """Return the multiplications of a FIR or polynomial in all cells, see `cells.quantised_blocks`."""
    count, has_powers = part.coefficients, part.kind in POLYNOMIALS and part.coefficients > 1
    return Products(4 * count * cells, 2 * count * cells * has_powers)


def units(genotype: AnyGenotype) -> list[tuple[str, str]]:
    """Return the names of each unit's node and of the unit in it; the second is empty in a DAG."""
    return list(multiplications(genotype, 1, 1))


def bit_operations(genotype: AnyGenotype, input_size: int, hidden_size: int, bits: Sequence[Bits] = ()) -> int:
    """Return the bit operations of a time step, with the genotype's widths or with others; real numbers have 32."""
    counts = multiplications(genotype, input_size, hidden_size).values()
    widths = bits or genotype.bits or [REAL] * len(counts)
    return sum(
        count.weighted * weights * inputs + count.powers * inputs**2
        for count, (weights, inputs) in zip(counts, widths, strict=True)
    )
