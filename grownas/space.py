"""The search space: allowed ops, most ops per node, most nodes. It also draws and mutates genotypes."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import COMBINES, GATED, NONE, AnyGenotype, DagGenotype, DagNode, Genotype, Node, Op

Pair = tuple[str, str]
BACKBONES = ("chain", "dag")


@dataclass(frozen=True)
class SearchSpace:
    """The set of genotypes that a search may return. Checked on construction, hashable.

    Attributes:
        combine: keys of `ops.COMBINE`; empty for a DAG, whose ops are all gated.
        activation: keys of `ops.ACTIVATION`; for a DAG also "none", an op of a supernet's edges only.
        max_nodes: most nodes of a cell.
        max_ops: most ops of a node; a node may contain the same op several times. A node of a DAG has one op.
        highway, share_projection: see `Genotype`; the same for every chain of the space. Off for a DAG.
        backbone: the kind of the genotypes, `chain` or `dag`.

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

    def __post_init__(self) -> None:
        """Check everything."""
        if self.backbone not in BACKBONES:
            raise ConfigError(f"space.backbone: unknown {self.backbone!r}, expected one of {', '.join(BACKBONES)}")
        if self.backbone == "dag":
            self._check_dag()
        else:
            _check_names("combine", self.combine, COMBINES)
            _check_names("activation", self.activation, _activations())
        for field in ("max_nodes", "max_ops"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"space.{field}: {value!r} is not a whole number above 0")
        for field in ("highway", "share_projection"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigError(f"space.{field}: {getattr(self, field)!r} is not true or false")

    def _check_dag(self) -> None:
        for field in ("combine", "highway", "share_projection"):
            if getattr(self, field):
                raise ConfigError(
                    f"space.{field}: {getattr(self, field)!r} is for chains only; leave it out with backbone=dag"
                )
        _check_names("activation", self.activation, [NONE, *_activations()])
        if self.activation == (NONE,):
            raise ConfigError(f"space.activation: {NONE!r} alone cannot form a cell; add another activation")

    @property
    def ops(self) -> list[Pair]:
        """The allowed pairs `(combine, activation)`, in the order of the tables; for a DAG in that of `activation`.

        For a DAG they are the ops of a supernet's edges, which may include `("gated", "none")`.
        """
        if self.backbone == "dag":
            return [(GATED, name) for name in self.activation]
        activations = [name for name in _activations() if name in self.activation]
        return [(combine, activation) for combine in COMBINES if combine in self.combine for activation in activations]

    def contains(self, genotype: AnyGenotype) -> bool:
        """Return whether a genotype is allowed; its shares do not matter."""
        return self._complaint(genotype) is None

    def sample(self, rng: random.Random) -> AnyGenotype:
        """Draw a genotype: number of nodes, then each node's number of ops and different ops, with equal shares.

        For a DAG: number of nodes, then the state that each node reads and its op.
        """
        count = rng.randint(1, self.max_nodes)
        if self.backbone == "dag":
            ops = self._dag_ops
            return DagGenotype(tuple(DagNode(rng.randint(0, i), rng.choice(ops)) for i in range(count)))
        return Genotype(tuple(self._sample_node(rng) for _ in range(count)), self.highway, self.share_projection)

    def mutate(self, genotype: AnyGenotype, rng: random.Random) -> AnyGenotype:
        """Return a genotype of this space that differs by one change.

        The kind of change is drawn from the possible ones: replace, add or remove an op; add or remove a node. Then its
        place is drawn. The ops of a changed node get equal shares. In a DAG: change the op of a node or the state it
        reads; add or remove a node. A node is added at any place with a drawn op and source, and the later nodes read
        the same nodes as before. What read a removed node reads what that node read.

        Raises:
            GenotypeError: the genotype is not in this space.
            ConfigError: the space contains a single genotype.
        """
        complaint = self._complaint(genotype)
        if complaint:
            raise GenotypeError(f"{complaint}; only a genotype of the space can be mutated")
        return (
            self._mutate_dag(genotype, rng) if isinstance(genotype, DagGenotype) else self._mutate_chain(genotype, rng)
        )

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
        if isinstance(genotype, DagGenotype):
            return self._dag_complaint(genotype)
        if self.backbone != "chain":
            return f"the genotype is a chain, the space has backbone={self.backbone}"
        for field in ("highway", "share_projection"):
            if getattr(genotype, field) != getattr(self, field):
                return f"{field} is {getattr(genotype, field)}, the space has {getattr(self, field)}"
        if len(genotype.nodes) > self.max_nodes:
            return f"nodes: {len(genotype.nodes)}, the space allows {self.max_nodes}"
        for place, node in enumerate(genotype.nodes):
            if len(node.ops) > self.max_ops:
                return f"nodes[{place}].ops: {len(node.ops)}, the space allows {self.max_ops}"
            for number, op in enumerate(node.ops):
                if _pair(op) not in self.ops:
                    return f"nodes[{place}].ops[{number}]: {op.name} is not in the space"
        return None

    def _dag_complaint(self, genotype: DagGenotype) -> str | None:
        if self.backbone != "dag":
            return f"the genotype is a DAG, the space has backbone={self.backbone}"
        if len(genotype.nodes) > self.max_nodes:
            return f"nodes: {len(genotype.nodes)}, the space allows {self.max_nodes}"
        if genotype.concat != tuple(range(1, len(genotype.nodes) + 1)):
            return f"concat: {list(genotype.concat)}, the space takes the mean of all nodes"
        for place, node in enumerate(genotype.nodes):
            if node.activation not in self._dag_ops:
                return f"nodes[{place}].activation: {node.activation} is not in the space"
        return None


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
