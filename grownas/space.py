"""What cells are allowed: the ops, how many of them, how many nodes; draws genotypes and changes them."""

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
    """The set of genotypes that a search may return. Checked when made, hashable.

    Attributes:
        combine: keys of `ops.COMBINE`; none of a dag, whose ops are all gated.
        activation: keys of `ops.ACTIVATION`; of a dag also "none", which only a supernet's edges may hold.
        max_nodes: most nodes of a cell.
        max_ops: most ops of a node; one op may stand several times in a node. A dag's node has one.
        highway, share_projection: the switches of every chain; off for a dag.
        backbone: what the genotypes are: `chain` or `dag`.

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
                    f"space.{field}: {getattr(self, field)!r} is of chains; leave it out with backbone=dag"
                )
        _check_names("activation", self.activation, [NONE, *_activations()])
        if self.activation == (NONE,):
            raise ConfigError(f"space.activation: {NONE!r} alone makes no cell; name one more")

    @property
    def ops(self) -> list[Pair]:
        """Every `(combine, activation)` that is allowed, in the order of the tables; of a dag in that of `activation`.

        Those of a dag are what a supernet's edges hold: `("gated", "none")` may be among them.
        """
        if self.backbone == "dag":
            return [(GATED, name) for name in self.activation]
        activations = [name for name in _activations() if name in self.activation]
        return [(combine, activation) for combine in COMBINES if combine in self.combine for activation in activations]

    def contains(self, genotype: AnyGenotype) -> bool:
        """Say whether a genotype is allowed, whatever its shares."""
        return self._complaint(genotype) is None

    def sample(self, rng: random.Random) -> AnyGenotype:
        """Draw a genotype: how many nodes, how many ops of each, then which; none twice, equal shares.

        Of a dag: how many nodes, then for each the state that it reads and its op.
        """
        count = rng.randint(1, self.max_nodes)
        if self.backbone == "dag":
            ops = self._dag_ops
            return DagGenotype(tuple(DagNode(rng.randint(0, i), rng.choice(ops)) for i in range(count)))
        return Genotype(tuple(self._sample_node(rng) for _ in range(count)), self.highway, self.share_projection)

    def mutate(self, genotype: AnyGenotype, rng: random.Random) -> AnyGenotype:
        """Return a genotype of this space that differs by one change.

        A kind of change is drawn among those possible, then a place: replace, add or remove an op; add or remove a
        node. The ops of a node that changed get equal shares. Of a dag, either the op or the state that is read changes
        at one node; the number of nodes stays.

        Raises:
            GenotypeError: the genotype is not of this space.
            ConfigError: the space holds one genotype only.
        """
        complaint = self._complaint(genotype)
        if complaint:
            raise GenotypeError(f"{complaint}; only a genotype of the space can be mutated")
        return (
            self._mutate_dag(genotype, rng) if isinstance(genotype, DagGenotype) else self._mutate_chain(genotype, rng)
        )

    def _mutate_dag(self, genotype: DagGenotype, rng: random.Random) -> DagGenotype:
        nodes, ops = list(genotype.nodes), self._dag_ops
        changes = ["activation"] * (len(ops) > 1) + ["reads"] * (len(nodes) > 1)
        if not changes:
            raise ConfigError("space: one op and one node leave nothing to mutate; allow more")
        if rng.choice(changes) == "activation":
            at = rng.randrange(len(nodes))
            nodes[at] = replace(nodes[at], activation=rng.choice([op for op in ops if op != nodes[at].activation]))
        else:
            at = rng.randrange(1, len(nodes))  # the first node can read one state only
            nodes[at] = replace(nodes[at], reads=rng.choice([i for i in range(at + 1) if i != nodes[at].reads]))
        return replace(genotype, nodes=tuple(nodes))

    @property
    def _dag_ops(self) -> list[str]:
        """What a node of a dag may compute."""
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
            raise ConfigError("space: one op, one node, one op a node leave nothing to mutate; allow more")
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
        """Say why a genotype is not allowed; None if it is."""
        if isinstance(genotype, DagGenotype):
            return self._dag_complaint(genotype)
        if self.backbone != "chain":
            return f"a chain, the space has cells of the {self.backbone}"
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
            return f"a dag, the space has cells of the {self.backbone}"
        if len(genotype.nodes) > self.max_nodes:
            return f"nodes: {len(genotype.nodes)}, the space allows {self.max_nodes}"
        if genotype.concat != tuple(range(1, len(genotype.nodes) + 1)):
            return f"concat: {list(genotype.concat)}, the space takes the mean of all nodes"
        for place, node in enumerate(genotype.nodes):
            if node.activation not in self._dag_ops:
                return f"nodes[{place}].activation: {node.activation} is not in the space"
        return None


def _activations() -> list[str]:
    from grownas.ops import ACTIVATION  # brings torch: only where a space is made

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
            raise ConfigError(f"space.{field}: {name!r} stands twice")


def _pair(op: Op) -> Pair:
    return op.combine, op.activation


def _equal_shares(ops: Sequence[Op]) -> Node:
    return Node(tuple(replace(op, share=1 / len(ops)) for op in ops))


def _put(nodes: tuple[Node, ...], place: int, drop: int, *new: Node) -> tuple[Node, ...]:
    """Return the nodes with `drop` of them at a place taken out and new ones put there."""
    return (*nodes[:place], *new, *nodes[place + drop :])
