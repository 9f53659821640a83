"""Genotypes of the backbone of blocks: cells of feed-forward ops on complex samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grownas.blocks import INPUTS, NONE, Block, Part, Reads, block, memory_of
from grownas.errors import GenotypeError
from grownas.genotype_bits import Bits, check_all_or_none, check_bits, in_words, spread
from grownas.genotype_json import FORMAT, HEAD, VERSION, Saved, fields_of, is_number, items_of

MOST_CELLS = 3
EDGES = 2  # that a node keeps, as in the cells of DARTS


@dataclass(frozen=True)
class BlockEdge:
    """An op on an earlier state.

    Attributes:
        reads: number of the state. States 0 and 1 are the outputs of the two cells before, or the network's input;
            state i + 2 is the output of node i.
        op: name of an op, such as `fir(8)`, see `blocks`; not `none`.
        bits: widths of the weights and inputs of each part of the op that has coefficients, see
            `cells.quantised_blocks`; empty: they are real numbers.
    """

    reads: int
    op: str
    bits: tuple[Bits, ...] = ()


@dataclass(frozen=True)
class BlockNode:
    """A node: the sum of two edges, which read different states in ascending order."""

    edges: tuple[BlockEdge, ...]


@dataclass(frozen=True)
class BlocksGenotype(Saved):
    """A network of `cells` cells in a row with the same nodes and weights of their own. Checked, hashable.

    The output of a cell is the mean of its nodes. The network's output is that of the last cell.

    Attributes:
        nodes: of each cell, in order.
        cells: number of cells.

    Raises:
        GenotypeError: a value is wrong; the message quotes its place.
    """

    nodes: tuple[BlockNode, ...]
    cells: int = 1

    def __post_init__(self) -> None:
        """Check everything."""
        if not is_number(self.cells) or not 1 <= self.cells <= MOST_CELLS:
            raise GenotypeError(f"cells: {self.cells!r} is not a whole number from 1 to {MOST_CELLS}")
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_node(node, number)
        check_all_or_none(self._unit_bits())

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""
        nodes = [{"edges": [_edge_to_dict(edge) for edge in node.edges]} for node in self.nodes]
        return {"format": FORMAT, "version": VERSION, "backbone": "blocks", "cells": self.cells, "nodes": nodes}

    @property
    def op_count(self) -> int:
        """Number of ops in all nodes of a cell."""
        return EDGES * len(self.nodes)

    @property
    def reads(self) -> list[Reads]:
        """What each node sums: numbers of states, each with its op."""
        return [[(edge.reads, block(edge.op)) for edge in node.edges] for node in self.nodes]

    @property
    def units(self) -> list[tuple[tuple[str, str], Part]]:
        """What has bit widths of its own: each FIR and each polynomial of a cell, after the names of node and unit."""
        return [
            ((f"node {number}", f"edge {place} part {i} {part.name}"), part)
            for number, reads in enumerate(self.reads, start=1)
            for place, (_, op) in enumerate(reads, start=1)
            for i, part in enumerate(op.parts, start=1)
            if part.coefficients
        ]

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Widths of each unit in order; empty if coefficients and samples are real numbers."""
        return tuple(own for own in self._unit_bits() if own is not None)

    def _unit_bits(self) -> list[Bits | None]:
        return [own for node in self.nodes for edge in node.edges for own in edge.bits or [None] * _units_in(edge)]

    def with_bits(self, bits: Sequence[Bits]) -> BlocksGenotype:
        """Return the genotype with other widths, per FIR and polynomial of a cell; without widths if there are none."""
        left, nodes = spread(bits, len(self.units), "FIR and polynomial"), list[BlockNode]()
        for node in self.nodes:
            edges = list[BlockEdge]()
            for edge in node.edges:
                own, left = left[: _units_in(edge)], left[_units_in(edge) :]
                edges.append(replace(edge, bits=tuple(one for one in own if one is not None)))
            nodes.append(BlockNode(tuple(edges)))
        return replace(self, nodes=tuple(nodes))

    @property
    def memory(self) -> int:
        """Number of earlier samples that the network's output depends on."""
        return memory_of(self.reads, self.cells)

    @property
    def figures(self) -> dict[str, int]:
        """FIRs, polynomials and real multiplications a sample of the whole network, without a readout.

        The mean of several nodes takes 2 multiplications.
        """
        ops = list(self._ops())
        return {
            "firs": self.cells * sum(op.firs for op in ops),
            "polynomials": self.cells * sum(op.polynomials for op in ops),
            "multiplications": self.cells * (sum(op.multiplications for op in ops) + 2 * (len(self.nodes) > 1)),
        }

    def _ops(self) -> Iterator[Block]:
        return (op for reads in self.reads for _, op in reads)

    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""
        last = len(self.nodes) + INPUTS
        lines = [
            f"state {i}: {' + '.join(f'{edge.op} of state {edge.reads}' for edge in node.edges)}"
            for i, node in enumerate(self.nodes, start=INPUTS)
        ]
        found = self.figures
        widths = zip(self.units, self.bits, strict=bool(self.bits))
        return [
            "states 0 and 1: the outputs of the two cells before; x_t where there is none",
            *lines,
            f"output: the mean of states {', '.join(map(str, range(INPUTS, last)))}",
            f"{self.cells} cell(s) in a row: {found['firs']} FIRs, {found['polynomials']} polynomials, "
            f"{found['multiplications']} real multiplications a sample, {self.memory} earlier samples",
            *(f"{node} {unit}{in_words(own)}" for ((node, unit), _), own in widths),
        ]


def blocks_from(tree: Mapping[str, Any]) -> BlocksGenotype:
    """Return the genotype of plain values.

    Raises:
        GenotypeError: a key or a value is wrong; the message quotes its place.
    """
    fields_of(tree, "genotype", (*HEAD, "cells"))
    nodes = tuple(_node_from(node, f"nodes[{i}]") for i, node in enumerate(items_of(tree["nodes"], "nodes")))
    return BlocksGenotype(nodes, tree["cells"])


def _node_from(value: Any, place: str) -> BlockNode:
    edges = items_of(fields_of(value, place, ("edges",))["edges"], f"{place}.edges")
    return BlockNode(tuple(_edge_from(one, f"{place}.edges[{i}]") for i, one in enumerate(edges)))


def _edge_from(value: Any, place: str) -> BlockEdge:
    tree = fields_of(value, place, ("reads", "op"), ("bits",))
    bits = items_of(tree.get("bits", []), f"{place}.bits")
    return BlockEdge(tree["reads"], tree["op"], tuple(tuple(items_of(one, f"{place}.bits")) for one in bits))


def _edge_to_dict(edge: BlockEdge) -> dict[str, Any]:
    bits = {"bits": [list(own) for own in edge.bits]} if edge.bits else {}
    return {"reads": edge.reads, "op": edge.op, **bits}


def _units_in(edge: BlockEdge) -> int:
    return sum(part.coefficients > 0 for part in block(edge.op).parts)


def _check_node(node: BlockNode, number: int) -> None:
    place, last = f"nodes[{number}]", number + INPUTS - 1
    if len(node.edges) != EDGES:
        raise GenotypeError(f"{place}.edges: {len(node.edges)}, expected {EDGES}")
    for i, edge in enumerate(node.edges):
        here = f"{place}.edges[{i}]"
        if not is_number(edge.reads) or not 0 <= edge.reads <= last:
            raise GenotypeError(f"{here}.reads: {edge.reads!r}, but only states 0..{last} exist before the node")
        if edge.op == NONE:
            raise GenotypeError(f"{here}.op: 'none' exists in the search only; a derived cell has no such op")
        if not isinstance(edge.op, str):
            raise GenotypeError(f"{here}.op: {edge.op!r} is not the name of an op")
        try:
            block(edge.op)
        except GenotypeError as error:
            raise GenotypeError(f"{here}.op: {error}") from error
        if len(edge.bits) not in (0, _units_in(edge)):
            raise GenotypeError(
                f"{here}.bits: {len(edge.bits)} pairs of widths, expected {_units_in(edge)}, one per FIR and polynomial"
            )
        for i, own in enumerate(edge.bits):
            check_bits(own, f"{here}.bits[{i}]")
    if node.edges[0].reads >= node.edges[1].reads:
        found = ", ".join(str(edge.reads) for edge in node.edges)
        raise GenotypeError(f"{place}.edges: they read states {found}, expected two states in ascending order")
