"""Bit widths of a cell's matrix products and what they cost. No torch here.

A unit is what has widths of its own: a projection of a chain, which belongs to one op or to all that share it, a gate
of a chain, or a node of a DAG (see `cost`). Bit operations of a step: the sum over units of multiplications * bits of
the weights * bits of the inputs, as in EdMIPS (Cai & Vasconcelos 2020, eq. 10). Products of single numbers (shares,
gates, Hadamard), embedding and readout are not quantised and not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from grownas.cost import costs_of
from grownas.genotype import AnyGenotype
from grownas.genotype_bits import Bits

REAL: Bits = (32, 32)  # widths of a cell that is not quantised, in float32


def multiplications(genotype: AnyGenotype, input_size: int, hidden_size: int) -> dict[tuple[str, str], int]:
    """Return the multiplications in each unit's matrix products in a time step, by the names of node and unit."""
    costs = costs_of(genotype, input_size, hidden_size)
    return {name: cost.products for name, cost in costs.items() if cost.products}


def units(genotype: AnyGenotype) -> list[tuple[str, str]]:
    """Return the names of each unit's node and of the unit in it; the second is empty in a DAG."""
    return list(multiplications(genotype, 1, 1))


def bit_operations(genotype: AnyGenotype, input_size: int, hidden_size: int, bits: Sequence[Bits] = ()) -> int:
    """Return the bit operations of a time step, with the genotype's widths or with others; real numbers have 32."""
    counts = multiplications(genotype, input_size, hidden_size).values()
    widths = bits or genotype.bits or [REAL] * len(counts)
    return sum(count * own[0] * own[1] for count, own in zip(counts, widths, strict=True))
