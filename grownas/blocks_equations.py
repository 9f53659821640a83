"""Writes a network of blocks for `equations.txt`: its equations for people, and all its numbers for programs.

The file documents its own format; `tests/support/following_blocks.py` evaluates it with NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from grownas.blocks import INPUTS, block
from grownas.equations import CoreText, as_arrays, matrix

if TYPE_CHECKING:
    from grownas.blocks_genotype import BlockEdge
    from grownas.cells.blocks import BlockOp, BlocksNetwork
    from grownas.genotype import BlocksGenotype
    from grownas.genotype_bits import Bits

NOTATION = """\
  x, s, y   sequences of complex samples I + jQ, one for each {step} t; all are 0 before the first {step}
  s_i       state i of a cell, counted from 0
  h_t W     a row vector times a matrix
  a[c,i,k,p]  the complex coefficients of part p of the op of cell c between states k and i; c and p count from 1"""

FUNCTIONS = """\
Functions
  delay(s, k)           at step t: s at step t - k
  fir(s, a)             at step t: the sum over k of a[k] times s at step t - k
  polynomial(s, a)      s * (a[0] + a[1] |s|^2 + a[2] |s|^4 + ..)
  polynomial_all(s, a)  s * (a[0] + a[1] |s| + a[2] |s|^2 + ..)"""

QUANTISED = """\
Bit widths
  fir[b,c], polynomial[b,c], polynomial_all[b,c] are computed with coefficients of b bits and samples of c bits:
  fir[b,c](s, a)         at step t: the sum over k of Qb(a[k]) times Qc(s at step t - k)
  polynomial[b,c](s, a)  the sum over k of Qb(a[k]) u_k, where u_0 = Qc(s) and u_k = Qc(r u_(k-1))
                         with r = Qc(|u_0|^2); for polynomial_all r = Qc(|u_0|)
  Qb(v)                  real and imaginary part on a grid of b bits: d q, where q = v / d, rounded (halves to even)
                         and cut to -L .. L, L = 2^(b-1) - 1; d is the step size. Taps have one grid, and so have the
                         samples of a FIR; each coefficient of a polynomial, each u_k and r has its own. Sums of
                         products q q' are exact."""

ENDS = """\
Input and output of the network, at step t
  x = x_t[0] + j x_t[1]
  h_t = [re(y) im(y)]"""

LINES = """\
`edge` lines give the op between two states, the same in all cells; the parts of an op, joined by -, act in this order.
Blocks of coefficients have a row of real and imaginary part for each number."""

QUANTISED_LINES = """
`bits` lines give the widths of the coefficients and of the samples of a part. The block `steps` of the same place has
the step sizes: for a FIR of the taps, then of the samples; for a polynomial a row for each k: of a[k], then of u_k. The
block `step_of_r` has that of r."""


def blocks_text(network: BlocksNetwork, step: str) -> CoreText:
    """Return how a network of blocks is written.

    Args:
        network: the derived network.
        step: what a time step is, such as `sample`.
    """
    genotype = network.genotype
    words = ", ".join(f"{count} {name}" for name, count in genotype.figures.items())
    cells = ("\n".join(_cell(genotype, number)) for number in range(1, genotype.cells + 1))
    return CoreText(
        f"a network of blocks on complex samples: {genotype.cells} cell(s); {words}",
        NOTATION.replace("{step}", step),
        [FUNCTIONS, *([QUANTISED] if genotype.bits else []), ENDS, *cells],
        LINES + (QUANTISED_LINES if genotype.bits else ""),
        _numbers(network),
    )


def _cell(genotype: BlocksGenotype, number: int) -> Iterator[str]:
    outputs = ["x", "x", *(f"y_{i}" for i in range(1, genotype.cells)), "y"]  # y_i is the output of cell i
    yield f"Cell {number}"
    yield from (f"  s_{i} = {outputs[number - 1 + i]}" for i in range(INPUTS))
    for i, node in enumerate(genotype.nodes, start=INPUTS):
        terms = [_term(edge, f"{number},{i},{edge.reads}") for edge in node.edges]
        yield f"  s_{i} = {' + '.join(terms)}"
    states = range(INPUTS, len(genotype.nodes) + INPUTS)
    yield f"  {outputs[number + 1]} = ({' + '.join(f's_{i}' for i in states)}) / {len(states)}"


def _term(edge: BlockEdge, label: str) -> str:
    """Return the formula of an edge with the label of its coefficients."""
    text, bits = f"s_{edge.reads}", iter(edge.bits)
    for place, part in enumerate(block(edge.op).parts, start=1):
        if part.coefficients:
            widths = f"[{'{},{}'.format(*next(bits))}]" if edge.bits else ""
            text = f"{part.kind}{widths}({text}, a[{label},{place}])"
        else:
            text = f"{part.kind}({text}, {part.size})"
    return text


def _numbers(network: BlocksNetwork) -> Iterator[str]:
    genotype = network.genotype
    yield f"cells {genotype.cells}"
    yield f"nodes {len(genotype.nodes)}"
    for i, node in enumerate(genotype.nodes, start=INPUTS):
        yield from (f"edge[state={i},source={edge.reads}] {edge.op}" for edge in node.edges)
    for label, op in _ops(network):
        for part, values in as_arrays(dict(op.coefficients.items())).items():
            yield from matrix(f"coefficients[{label},part={int(part) + 1}]", values)
        for (part, unit), bits in zip(op.quantised.items(), op.bits, strict=True):
            yield from _grids(f"[{label},part={int(part) + 1}]", bits, unit)


def _grids(place: str, bits: Bits, unit: Any) -> Iterator[str]:
    """Yield the lines about the grids of a part."""
    yield f"bits{place} {bits[0]} {bits[1]}"
    grids = [[own.weights.step, own.inputs.step] for own in unit.products]
    steps = np.block([[as_arrays({"d": step})["d"] for step in row] for row in grids])
    yield from matrix(f"steps{place}", steps)
    if unit.radius is not None:
        yield from matrix(f"step_of_r{place}", as_arrays({"d": unit.radius.step})["d"])


def _ops(network: BlocksNetwork) -> Iterator[tuple[str, BlockOp]]:
    """Yield the place of each op, and the op."""
    for number, cell in enumerate(network.wiring(), start=1):
        for i, reads in enumerate(cell, start=INPUTS):
            yield from ((f"cell={number},state={i},source={source}", op) for source, op in reads)
