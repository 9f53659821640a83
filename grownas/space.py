"""The search space: allowed ops, most ops per node, most nodes. It also draws and mutates genotypes."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from grownas import blocks_space
from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import (
    COMBINES,
    GATED,
    NONE,
    AnyGenotype,
    BlocksGenotype,
    DagGenotype,
    DagNode,
    Genotype,
    Node,
    Op,
)

Pair = tuple[str, str]
FIELDS: dict[str, tuple[Any, tuple[str, ...]]] = {  # field -> its value elsewhere, and the backbones that have it
    "combine": ((), ("chain",)),
    "activation": ((), ("chain", "dag")),
    "highway": (False, ("chain",)),
    "share_projection": (False, ("chain",)),
    "blocks": ((), ("blocks",)),
    "cells": (1, ("blocks",)),
}


@dataclass(frozen=True)
class SearchSpace:
    """The set of genotypes that a search may return. Checked on construction, hashable.

    Attributes:
        combine: keys of `ops.COMBINE`; empty for a DAG, whose ops are all gated.
        activation: keys of `ops.ACTIVATION`; for a DAG also "none", an op of a supernet's edges only.
        max_nodes: most nodes of a cell.
        max_ops: most ops of a node; a node may contain the same op several times. A node of a DAG has one op.
        highway, share_projection: see `Genotype`; the same for every chain of the space. Off for a DAG.
        backbone: the kind of the genotypes, a key of `KINDS`.
        blocks: names of ops, see `grownas.blocks`, with "none" as an op of a supernet's edges only; empty elsewhere.
        cells: see `BlocksGenotype`; 1 elsewhere.

    Raises:
        ConfigError: a field is wrong; the message quotes its value and the nearest name.
    """

    combine: tuple[str, ...]
    activation: tuple[str, ...]
    max_nodes: int = 3
    max_ops: int = 8
    highway: bool = False
    share_projection: bool = False
    backbone: str = "chain"
    blocks: tuple[str, ...] = ()
    cells: int = 1

    def __post_init__(self) -> None:
        """Check everything."""
        if self.backbone not in KINDS:
            raise ConfigError(f"space.backbone: unknown {self.backbone!r}, expected one of {', '.join(KINDS)}")
        for field, (elsewhere, backbones) in FIELDS.items():
            if self.backbone not in backbones and getattr(self, field) != elsewhere:
                owners = " and ".join(KINDS[name].plural for name in backbones)
                raise ConfigError(
                    f"space.{field}: {getattr(self, field)!r} is for {owners} only; leave it out with "
                    f"backbone={self.backbone}"
                )
        self._kind.check(self)
        for field in ("max_nodes", "max_ops"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"space.{field}: {value!r} is not a whole number above 0")
        for field in ("highway", "share_projection"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigError(f"space.{field}: {getattr(self, field)!r} is not true or false")

    @property
    def _kind(self) -> Kind:
        return KINDS[self.backbone]

    def _check_chain(self) -> None:
        _check_names("combine", self.combine, COMBINES)
        _check_names("activation", self.activation, _activations())

    def _check_dag(self) -> None:
        _check_names("activation", self.activation, [NONE, *_activations()])
        if self.activation == (NONE,):
            raise ConfigError(f"space.activation: {NONE!r} alone cannot form a cell; add another activation")

    @property
    def ops(self) -> list[Pair]:
        """The allowed pairs `(combine, activation)`, in the order of the tables; for a DAG in that of `activation`.

        For a DAG they are the ops of a supernet's edges, which may include `("gated", "none")`; for blocks they are
        `("block", name)`, in the order of `blocks`.
        """
        return self._kind.ops(self)

    def _chain_ops(self) -> list[Pair]:
        activations = [name for name in _activations() if name in self.activation]
        return [(combine, activation) for combine in COMBINES if combine in self.combine for activation in activations]

    def _gated_ops(self) -> list[Pair]:
        return [(GATED, name) for name in self.activation]

    def contains(self, genotype: AnyGenotype) -> bool:
        """Return whether a genotype is allowed; its shares do not matter."""
        return self._complaint(genotype) is None

    def sample(self, rng: random.Random) -> AnyGenotype:
        """Draw a genotype: number of nodes, then each node's number of ops and different ops, with equal shares.

        For a DAG: number of nodes, then the state that each node reads and its op. For blocks: number of nodes, then
        two states for each, with an op on each.
        """
        return self._kind.sample(self, rng)

    def _sample_chain(self, rng: random.Random) -> Genotype:
        count = rng.randint(1, self.max_nodes)
        return Genotype(tuple(self._sample_node(rng) for _ in range(count)), self.highway, self.share_projection)

    def _sample_dag(self, rng: random.Random) -> DagGenotype:
        count, ops = rng.randint(1, self.max_nodes), self._dag_ops
        return DagGenotype(tuple(DagNode(rng.randint(0, i), rng.choice(ops)) for i in range(count)))

    def mutate(self, genotype: AnyGenotype, rng: random.Random) -> AnyGenotype:
        """Return a genotype of this space that differs by one change.

        The kind of change is drawn from the possible ones: replace, add or remove an op; add or remove a node. Then its
        place is drawn. The ops of a changed node get equal shares. In a DAG: change the op of a node or the state it
        reads; add or remove a node. A node is added at any place with a drawn op and source, and the later nodes read
        the same nodes as before. What read a removed node reads what that node read. Blocks change as DAGs do.

        Raises:
            GenotypeError: the genotype is not in this space.
            ConfigError: the space contains a single genotype.
        """
        complaint = self._complaint(genotype)
        if complaint:
            raise GenotypeError(f"{complaint}; only a genotype of the space can be mutated")
        return self._kind.mutate(self, genotype, rng)

    def _mutate_dag(self, genotype: DagGenotype, rng: random.Random) -> DagGenotype:
        nodes, ops = list(genotype.nodes), self._dag_ops
        changes = ["activation"] * (len(ops) > 1) + ["reads", "remove"] * (len(nodes) > 1)
        changes += ["add"] * (len(nodes) < self.max_nodes)
        if not changes:
            raise ConfigError("space: a cell with one op and one node cannot be mutated; allow more ops or nodes")
        change = rng.choice(changes)
        at = rng.randrange(change == "reads", len(nodes) + (change == "add"))  # the first node can read one state only
        if change == "activation":
            nodes[at] = replace(nodes[at], activation=rng.choice([op for op in ops if op != nodes[at].activation]))
        elif change == "reads":
            nodes[at] = replace(nodes[at], reads=rng.choice([i for i in range(at + 1) if i != nodes[at].reads]))
        elif change == "add":  # its state has the number at + 1
            later = [replace(node, reads=node.reads + (node.reads > at)) for node in nodes[at:]]
            nodes[at:] = [DagNode(rng.randint(0, at), rng.choice(ops)), *later]
        else:
            source = nodes[at].reads
            nodes[at:] = [replace(node, reads=_without(at + 1, node.reads, source)) for node in nodes[at + 1 :]]
        return DagGenotype(tuple(nodes))

    @property
    def _dag_ops(self) -> list[str]:
        """The activations that a node of a derived DAG may have."""
        return [name for name in self.activation if name != NONE]

    def _mutate_chain(self, genotype: Genotype, rng: random.Random) -> Genotype:
        nodes = genotype.nodes
        shrinkable = [i for i, node in enumerate(nodes) if len(node.ops) > 1]
        extensible = [i for i, node in enumerate(nodes) if len(node.ops) < self.max_ops]
        changes: list[Callable[[], tuple[Node, ...]]] = []
        if len(self.ops) > 1:
            changes.append(lambda: self._replace_op(nodes, rng))
        if extensible:
            changes.append(lambda: self._add_op(nodes, rng.choice(extensible), rng))
        if shrinkable:
            changes.append(lambda: self._remove_op(nodes, rng.choice(shrinkable), rng))
        if len(nodes) < self.max_nodes:
            changes.append(lambda: _put(nodes, rng.randint(0, len(nodes)), 0, self._sample_node(rng)))
        if len(nodes) > 1:
            changes.append(lambda: _put(nodes, rng.randrange(len(nodes)), 1))
        if not changes:
            raise ConfigError("space: with one op, one node and one op per node nothing can be mutated; allow more")
        return replace(genotype, nodes=rng.choice(changes)())

    def _sample_node(self, rng: random.Random) -> Node:
        ops = self.ops
        size = rng.randint(1, min(self.max_ops, len(ops)))
        return _equal_shares([Op(*ops[number]) for number in sorted(rng.sample(range(len(ops)), size))])

    def _replace_op(self, nodes: tuple[Node, ...], rng: random.Random) -> tuple[Node, ...]:
        place = rng.randrange(len(nodes))
        ops = list(nodes[place].ops)
        number = rng.randrange(len(ops))
        ops[number] = Op(*rng.choice([op for op in self.ops if op != _pair(ops[number])]))
        return _put(nodes, place, 1, _equal_shares(ops))

    def _add_op(self, nodes: tuple[Node, ...], place: int, rng: random.Random) -> tuple[Node, ...]:
        return _put(nodes, place, 1, _equal_shares([*nodes[place].ops, Op(*rng.choice(self.ops))]))

    def _remove_op(self, nodes: tuple[Node, ...], place: int, rng: random.Random) -> tuple[Node, ...]:
        ops = list(nodes[place].ops)
        del ops[rng.randrange(len(ops))]
        return _put(nodes, place, 1, _equal_shares(ops))

    def _complaint(self, genotype: AnyGenotype) -> str | None:
        """Return why a genotype is not allowed; None if it is allowed."""
        if not isinstance(genotype, self._kind.genotype):
            found = next(kind for kind in KINDS.values() if isinstance(genotype, kind.genotype))
            return f"the genotype is {found.one}, the space has backbone={self.backbone}"
        if len(genotype.nodes) > self.max_nodes:
            return f"nodes: {len(genotype.nodes)}, the space allows {self.max_nodes}"
        return self._kind.complaint(self, genotype)

    def _chain_complaint(self, genotype: Genotype) -> str | None:
        for field in ("highway", "share_projection"):
            if getattr(genotype, field) != getattr(self, field):
                return f"{field} is {getattr(genotype, field)}, the space has {getattr(self, field)}"
        for place, node in enumerate(genotype.nodes):
            if len(node.ops) > self.max_ops:
                return f"nodes[{place}].ops: {len(node.ops)}, the space allows {self.max_ops}"
            for number, op in enumerate(node.ops):
                if _pair(op) not in self.ops:
                    return f"nodes[{place}].ops[{number}]: {op.name} is not in the space"
        return None

    def _dag_complaint(self, genotype: DagGenotype) -> str | None:
        if genotype.concat != tuple(range(1, len(genotype.nodes) + 1)):
            return f"concat: {list(genotype.concat)}, the space takes the mean of all nodes"
        for place, node in enumerate(genotype.nodes):
            if node.activation not in self._dag_ops:
                return f"nodes[{place}].activation: {node.activation} is not in the space"
        return None


class Kind(NamedTuple):
    """How the genotypes of one backbone are drawn and changed.

    Attributes:
        genotype: their class.
        one, plural: what they are called in messages.
        check: raises ConfigError if a field of the space is wrong.
        ops: returns `SearchSpace.ops`.
        sample, mutate: see `SearchSpace`; `mutate` takes genotypes of the space only.
        complaint: returns why a genotype of the class, of at most `max_nodes` nodes, is not allowed.
    """

    genotype: type[AnyGenotype]
    one: str
    plural: str
    check: Callable[[SearchSpace], None]
    ops: Callable[[SearchSpace], list[Pair]]
    sample: Callable[[SearchSpace, random.Random], AnyGenotype]
    mutate: Callable[[SearchSpace, Any, random.Random], AnyGenotype]
    complaint: Callable[[SearchSpace, Any], str | None]


KINDS: dict[str, Kind] = {
    "chain": Kind(
        Genotype,
        "a chain",
        "chains",
        SearchSpace._check_chain,
        SearchSpace._chain_ops,
        SearchSpace._sample_chain,
        SearchSpace._mutate_chain,
        SearchSpace._chain_complaint,
    ),
    "dag": Kind(
        DagGenotype,
        "a DAG",
        "DAGs",
        SearchSpace._check_dag,
        SearchSpace._gated_ops,
        SearchSpace._sample_dag,
        SearchSpace._mutate_dag,
        SearchSpace._dag_complaint,
    ),
    "blocks": Kind(
        BlocksGenotype,
        "a network of blocks",
        "blocks",
        blocks_space.check,
        blocks_space.ops,
        blocks_space.sample,
        blocks_space.mutate,
        blocks_space.complaint,
    ),
}


def _activations() -> list[str]:
    from grownas.ops import ACTIVATION  # imports torch: only when a space is constructed

    return list(ACTIVATION)


def _check_names(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not isinstance(names, tuple) or not names:
        raise ConfigError(f"space.{field}: {names!r} is not a tuple of at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"space.{field}: unknown {name!r}, expected some of {', '.join(known)}{hint}")
        if names.count(name) > 1:
            raise ConfigError(f"space.{field}: {name!r} appears twice")


def _pair(op: Op) -> Pair:
    return op.combine, op.activation


def _equal_shares(ops: Sequence[Op]) -> Node:
    return Node(tuple(replace(op, share=1 / len(ops)) for op in ops))


def _without(state: int, reads: int, instead: int) -> int:
    """Return the number of a state that is read after a state is removed; `instead` replaces the removed one."""
    return instead if reads == state else reads - (reads > state)


def _put(nodes: tuple[Node, ...], place: int, drop: int, *new: Node) -> tuple[Node, ...]:
    """Return the nodes with `drop` nodes from a place on replaced by `new`."""
    return (*nodes[:place], *new, *nodes[place + drop :])
