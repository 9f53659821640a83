"""Bit widths of a cell's matrix products and what they cost. No torch here.

A unit is what has widths of its own: a projection of a chain, which belongs to one op or to all that share it, a gate
of a chain, or a node of a DAG. Its products in a time step are

    an op or gate of a chain     x W_x and s W_h               (I + H) H multiplications
    the input node of a DAG      [x, h] [gate | W]             2 (I + H) H
    another node of a DAG        s [gate | W]                  2 H H

Bit operations of a step: the sum over units of multiplications * bits of the weights * bits of the inputs, as in EdMIPS
(Cai & Vasconcelos 2020, eq. 10). Products of single numbers (shares, gates, Hadamard), embedding and readout are not
quantised and not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from grownas.errors import GenotypeError
from grownas.genotype import AnyGenotype, DagGenotype, Genotype, projections
from grownas.genotype_bits import Bits

WIDTHS = (2, 3, 4, 6, 8, 12, 16)  # among which a search chooses, by default
REAL: Bits = (32, 32)  # widths of a cell that is not quantised, in float32


def units(genotype: AnyGenotype) -> list[tuple[str, str]]:
    """Return the names of each unit's node and of the unit in it, which in a DAG is empty; the input node is node 0.

    Raises:
        GenotypeError: a genotype of another backbone.
    """
    if isinstance(genotype, DagGenotype):
        return [(f"node {node}", "") for node in range(len(genotype.nodes) + 1)]
    if not isinstance(genotype, Genotype):
        raise GenotypeError("bits: only chains and dags have bit widths")
    found = []
    for number, node in enumerate(genotype.nodes, start=1):
        places = projections(node.ops, genotype.share_projection)
        firsts = [f"op {places.index(place) + 1}" for place in dict.fromkeys(places)]  # of those that share it
        found += [(f"node {number}", name) for name in [*firsts, *["gate"] * genotype.highway]]
    return found


def multiplications(genotype: AnyGenotype, input_size: int, hidden_size: int) -> list[int]:
    """Return the number of multiplications in each unit's products in a time step."""
    both, state = (input_size + hidden_size) * hidden_size, hidden_size * hidden_size
    if isinstance(genotype, DagGenotype):
        return [2 * both, *[2 * state] * len(genotype.nodes)]
    return [both] * len(units(genotype))


def bit_operations(genotype: AnyGenotype, input_size: int, hidden_size: int, bits: Sequence[Bits] = ()) -> int:
    """Return the bit operations of a time step, with the genotype's widths or with others; real numbers have 32."""
    counts = multiplications(genotype, input_size, hidden_size)
    widths = bits or genotype.bits or [REAL] * len(counts)
    return sum(count * own[0] * own[1] for count, own in zip(counts, widths, strict=True))
