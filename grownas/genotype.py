"""Genotypes: the discrete description of a cell: a chain, a DAG, or blocks (`blocks_genotype`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from grownas import genotype_bits
from grownas.blocks_genotype import BlocksGenotype as BlocksGenotype
from grownas.blocks_genotype import blocks_from
from grownas.combine import COMBINE
from grownas.errors import GenotypeError
from grownas.genotype_bits import Bits, check_all_or_none, check_bits
from grownas.genotype_json import (
    FORMAT,
    HEAD,
    READERS,
    VERSION,
    Reader,
    Saved,
    fields_of,
    flag,
    is_number,
    items_of,
    known,
)
from grownas.genotype_json import published as published

CHAIN_KEYS = ("highway", "share_projection")
COMBINES = tuple(COMBINE)
GATED, NONE = "gated", "none"  # combine of all DAG ops; activation of the op that outputs zero, in a search only
TOLERANCE = 1e-6  # of the sum of a node's shares; the error of a float32 softmax is far smaller


@dataclass(frozen=True)
class Op:
    """One op of a node.

    Attributes:
        combine: a key of `ops.COMBINE`.
        activation: a key of `ops.ACTIVATION`.
        share: fixed mixture weight, in (0, 1].
        own_projection: under `share_projection` the op still has its own W_x and W_h, as a carrier needs.
        bits: widths of the op's weights and inputs, see `cells.quantiser`; None: they are real numbers.
    """

    combine: str
    activation: str
    share: float = 1.0
    own_projection: bool = False
    bits: Bits | None = None

    @property
    def name(self) -> str:
        """Combine and activation, such as `add/tanh`."""
        return f"{self.combine}/{self.activation}"


@dataclass(frozen=True)
class Node:
    """A node: an ordered tuple of ops that read the same two inputs.

    Attributes:
        ops: the ops.
        gate_bits: under `highway` widths of the gate's weights and inputs; None: they are real numbers.
    """

    ops: tuple[Op, ...]
    gate_bits: Bits | None = None


@dataclass(frozen=True)
class Genotype(Saved):
    """A chain of nodes. Checked on construction, hashable.

    Attributes:
        nodes: in order.
        highway: every node has a gate.
        share_projection: ops of a node with the same combine share W_x and W_h.

    Raises:
        GenotypeError: a value is wrong; the message quotes its place.
    """

    nodes: tuple[Node, ...]
    highway: bool = False
    share_projection: bool = False

    def __post_init__(self) -> None:
        """Check everything."""
        for switch in CHAIN_KEYS:
            flag(getattr(self, switch), switch)
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_node(node, f"nodes[{number}]", self.share_projection)
            if node.gate_bits is not None and not self.highway:
                raise GenotypeError(f"nodes[{number}].gate_bits: only allowed with highway")
            _check_shared_bits(node, f"nodes[{number}]", projections(node.ops, self.share_projection))
        check_all_or_none([own for each in self._unit_bits() for own in each])

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "backbone": "chain"}
        tree |= {key: True for key in CHAIN_KEYS if getattr(self, key)}
        nodes = [
            {"ops": [_op_to_dict(op) for op in node.ops], **genotype_bits.to_dict(node.gate_bits, "gate_bits")}
            for node in self.nodes
        ]
        return tree | {"nodes": nodes}

    @property
    def op_count(self) -> int:
        """Number of ops in all nodes."""
        return sum(len(node.ops) for node in self.nodes)

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Widths of each node's projections and gate in order; empty if weights and inputs are real numbers."""
        return tuple(own for each in self._unit_bits() for own in each if own is not None)

    def _unit_bits(self) -> list[list[Bits | None]]:
        """Return for each node the widths of its projections, then of its gate."""
        return [
            [*projection_bits(node.ops, self.share_projection), *[node.gate_bits] * self.highway] for node in self.nodes
        ]

    def with_bits(self, bits: Sequence[Bits]) -> Self:
        """Return the genotype with other widths, per projection and gate; without widths if there are none."""
        counts = [len(each) for each in self._unit_bits()]
        left, nodes = genotype_bits.spread(bits, sum(counts), "projection and gate"), []
        for node, count in zip(self.nodes, counts, strict=True):
            own, left = left[:count], left[count:]
            places = projections(node.ops, self.share_projection)
            ops = tuple(replace(op, bits=own[place]) for op, place in zip(node.ops, places, strict=True))
            nodes.append(Node(ops, own[-1] if self.highway else None))
        return replace(self, nodes=tuple(nodes))

    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""
        lines = [f"{key} is on" for key in CHAIN_KEYS if getattr(self, key)]
        for number, node in enumerate(self.nodes, start=1):
            source = "h_(t-1)" if number == 1 else f"node {number - 1}"
            lines.append(f"node {number}: reads x_t and {source}{genotype_bits.in_words(node.gate_bits, 'gate: ')}")
            for op in sorted(node.ops, key=lambda op: -op.share):
                own = "  (own projection)" if op.own_projection else ""
                lines.append(f"  {op.share:7.2%}  {op.name}{own}{genotype_bits.in_words(op.bits)}")
        return lines


@dataclass(frozen=True)
class DagNode:
    """A node of a DAG: s + c (y - s), where s is the state it reads, c its gate and y the activation of s W_h.

    Attributes:
        reads: number of an earlier state. State 0 is the output of the input node, which reads x_t and h_(t-1); state
            i is the output of node i.
        activation: a key of `ops.ACTIVATION`.
        bits: widths of the node's weights and of the state that it reads; None: they are real numbers.
    """

    reads: int
    activation: str
    bits: Bits | None = None


@dataclass(frozen=True)
class DagGenotype(Saved):
    """A derived cell of the DAG backbone, as published for DARTS and ENAS. Checked, hashable.

    Each node has one op and its own gate; there is no mixture. Nodes are counted from 1, since state 0 is the output of
    the input node.

    Attributes:
        nodes: in order; each reads one earlier state.
        concat: numbers of the states whose mean is h_t, ascending; the states of all nodes if left out.
        input_bits: widths of the input node's weights and inputs; None: they are real numbers.

    Raises:
        GenotypeError: a value is wrong; the message quotes its place.
    """

    nodes: tuple[DagNode, ...]
    concat: tuple[int, ...] = ()
    input_bits: Bits | None = None

    def __post_init__(self) -> None:
        """Check everything; fill in the default of `concat`."""
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_dag_node(node, number)
        last = len(self.nodes)
        for place, state in enumerate(self.concat):
            if not is_number(state) or not 0 <= state <= last:
                raise GenotypeError(f"concat[{place}]: {state!r} is not a state; expected one of 0..{last}")
            if state in self.concat[:place]:
                raise GenotypeError(f"concat[{place}]: state {state} appears twice")
        object.__setattr__(self, "concat", tuple(sorted(self.concat)) or self._all_nodes())
        check_bits(self.input_bits, "input_bits")
        check_all_or_none(self._unit_bits())

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "backbone": "dag"}
        tree["nodes"] = [
            {"reads": node.reads, "activation": node.activation, **genotype_bits.to_dict(node.bits)}
            for node in self.nodes
        ]
        tree |= genotype_bits.to_dict(self.input_bits, "input_bits")
        return tree if self.concat == self._all_nodes() else tree | {"concat": list(self.concat)}

    @property
    def op_count(self) -> int:
        """Number of ops in all nodes: one per node."""
        return len(self.nodes)

    @property
    def bits(self) -> tuple[Bits, ...]:
        """Widths of the input node and of each node in order; empty if weights and inputs are real numbers."""
        return tuple(own for own in self._unit_bits() if own is not None)

    def _unit_bits(self) -> list[Bits | None]:
        return [self.input_bits, *(node.bits for node in self.nodes)]

    def with_bits(self, bits: Sequence[Bits]) -> Self:
        """Return the genotype with other widths, first the input node's; without widths if there are none."""
        first, *rest = genotype_bits.spread(bits, len(self.nodes) + 1, "node")
        nodes = tuple(replace(node, bits=own) for node, own in zip(self.nodes, rest, strict=True))
        return replace(self, nodes=nodes, input_bits=first)

    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""
        return [
            f"state 0: reads x_t and h_(t-1), tanh{genotype_bits.in_words(self.input_bits)}",
            *(
                f"state {i}: reads state {node.reads}, {node.activation}{genotype_bits.in_words(node.bits)}"
                for i, node in enumerate(self.nodes, start=1)
            ),
            f"h_t: the mean of states {', '.join(map(str, self.concat))}",
        ]

    def _all_nodes(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.nodes) + 1))


AnyGenotype = Genotype | DagGenotype | BlocksGenotype


def projections(ops: Sequence[Op], share_projection: bool) -> list[int]:
    """Return the index of each op's projection, numbered in order of first use."""
    seen: dict[object, int] = {}
    keys = [op.combine if share_projection and not op.own_projection else number for number, op in enumerate(ops)]
    return [seen.setdefault(key, len(seen)) for key in keys]


def projection_bits(ops: Sequence[Op], share_projection: bool) -> list[Bits | None]:
    """Return the widths of each projection."""
    found: dict[int, Bits | None] = {}
    for place, op in zip(projections(ops, share_projection), ops, strict=True):
        found.setdefault(place, op.bits)
    return list(found.values())


def _chain_from(tree: Mapping[str, Any]) -> Genotype:
    fields_of(tree, "genotype", HEAD, CHAIN_KEYS)
    nodes = tuple(_node_from(node, f"nodes[{i}]") for i, node in enumerate(items_of(tree["nodes"], "nodes")))
    return Genotype(nodes, tree.get("highway", False), tree.get("share_projection", False))


def _dag_from(tree: Mapping[str, Any]) -> DagGenotype:
    for key in CHAIN_KEYS:
        if key in tree:
            raise GenotypeError(
                f"{key}: only the chain backbone has this key; leave it out, every node of a dag has a gate"
            )
    nodes = tuple(_dag_node_from(node, f"nodes[{i}]") for i, node in enumerate(items_of(tree["nodes"], "nodes")))
    concat = tuple(items_of(tree["concat"], "concat")) if "concat" in tree else ()
    if "concat" in tree and not concat:
        raise GenotypeError("concat: empty; list the states whose mean is h_t, or leave it out for all nodes")
    return DagGenotype(nodes, concat, genotype_bits.from_dict(tree, "input_bits", "input_bits"))


READERS.update(
    chain=Reader(_chain_from, CHAIN_KEYS),
    dag=Reader(_dag_from, ("concat", "input_bits")),
    blocks=Reader(blocks_from, ("cells",)),
)


def _check_node(node: Node, place: str, share_projection: bool) -> None:
    from grownas.ops import ACTIVATION  # imports torch: only when an op is checked

    if not node.ops:
        raise GenotypeError(f"{place}.ops: empty; a node needs at least one op")
    check_bits(node.gate_bits, f"{place}.gate_bits")
    for number, op in enumerate(node.ops):
        here = f"{place}.ops[{number}]"
        known(op.combine, COMBINES, f"{here}.combine")
        known(op.activation, ACTIVATION, f"{here}.activation")
        number_like = isinstance(op.share, int | float) and not isinstance(op.share, bool)
        if not number_like or not 0 < op.share <= 1 + TOLERANCE:  # nan and inf fail too
            raise GenotypeError(f"{here}.share: {op.share!r} is not a number above 0 and at most 1")
        if op.own_projection and not share_projection:
            raise GenotypeError(f"{here}.own_projection: only allowed with share_projection")
        check_bits(op.bits, f"{here}.bits")
    total = math.fsum(op.share for op in node.ops)
    if abs(total - 1) > TOLERANCE:
        raise GenotypeError(f"{place}: shares sum to {total:.9g}, expected 1")


def _check_dag_node(node: DagNode, number: int) -> None:
    from grownas.ops import ACTIVATION  # imports torch: only when an op is checked

    place = f"nodes[{number}]"
    if not is_number(node.reads) or not 0 <= node.reads <= number:
        there = f"states 0..{number} exist" if number else "state 0 exists"
        raise GenotypeError(
            f"{place}.reads: {node.reads!r}, but only {there} before it; a node reads one earlier state"
        )
    if node.activation == NONE:
        raise GenotypeError(f"{place}.activation: 'none' exists in the search only; a derived cell has no such op")
    known(node.activation, ACTIVATION, f"{place}.activation")
    check_bits(node.bits, f"{place}.bits")


def _check_shared_bits(node: Node, place: str, shared: Sequence[int]) -> None:
    for number, (op, projection) in enumerate(zip(node.ops, shared, strict=True)):
        first = shared.index(projection)
        if op.bits != node.ops[first].bits:
            raise GenotypeError(
                f"{place}.ops[{number}].bits: {op.bits}, but ops[{first}] has {node.ops[first].bits}; ops that share a "
                "projection have the same"
            )


def _op_to_dict(op: Op) -> dict[str, Any]:
    tree: dict[str, Any] = {"combine": op.combine, "activation": op.activation, "share": op.share}
    return tree | ({"own_projection": True} if op.own_projection else {}) | genotype_bits.to_dict(op.bits)


def _node_from(value: Any, place: str) -> Node:
    tree = fields_of(value, place, ("ops",), ("gate_bits",))
    ops = tuple(_op_from(op, f"{place}.ops[{i}]") for i, op in enumerate(items_of(tree["ops"], f"{place}.ops")))
    return Node(ops, genotype_bits.from_dict(tree, f"{place}.gate_bits", "gate_bits"))


def _op_from(value: Any, place: str) -> Op:
    tree = dict(fields_of(value, place, ("combine", "activation", "share"), ("own_projection", "bits")))
    if "own_projection" in tree:
        tree["own_projection"] = flag(tree["own_projection"], f"{place}.own_projection")
    return Op(**{**tree, "bits": genotype_bits.from_dict(tree, f"{place}.bits")})


def _dag_node_from(value: Any, place: str) -> DagNode:
    tree = fields_of(value, place, ("reads", "activation"), ("bits",))
    return DagNode(tree["reads"], tree["activation"], genotype_bits.from_dict(tree, f"{place}.bits"))
