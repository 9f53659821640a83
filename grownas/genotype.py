"""Genotypes: the discrete description of a cell, a chain or a DAG, and its JSON."""

from __future__ import annotations

import difflib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from grownas.combine import COMBINE
from grownas.errors import GenotypeError

FORMAT, VERSION = "grownas.genotype", 1
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
    """

    combine: str
    activation: str
    share: float = 1.0
    own_projection: bool = False

    @property
    def name(self) -> str:
        """Combine and activation, such as `add/tanh`."""
        return f"{self.combine}/{self.activation}"


@dataclass(frozen=True)
class Node:
    """A node: an ordered tuple of ops that read the same two inputs."""

    ops: tuple[Op, ...]


class Saved(ABC):
    """Base class of genotypes: JSON and a description in words."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""

    @property
    @abstractmethod
    def op_count(self) -> int:
        """Number of ops in all nodes."""

    @abstractmethod
    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON atomically."""
        part = Path(f"{os.fspath(path)}.part")
        part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> AnyGenotype:
        """Return the genotype of some plain values, of the backbone that they name; the inverse of `to_dict`.

        Raises:
            GenotypeError: a key or a value is wrong; the message quotes its place.
        """
        tree = _fields(mapping, "genotype", HEAD, (*CHAIN_KEYS, *DAG_KEYS))
        for key, wanted in (("format", FORMAT), ("version", VERSION)):
            if tree[key] != wanted or isinstance(tree[key], bool):
                raise GenotypeError(f"{key}: {tree[key]!r} is not supported; expected {wanted!r}")
        backbone = tree["backbone"]
        if not isinstance(backbone, str) or backbone not in FROM_DICT:
            expected = " or ".join(map(repr, FROM_DICT))
            raise GenotypeError(f"backbone: {backbone!r} is not supported; expected {expected}")
        return FROM_DICT[backbone](tree)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> AnyGenotype:
        """Read JSON of either backbone.

        Args:
            path: a file or a run folder; if neither exists, the name of a published cell (see `published`).

        Raises:
            GenotypeError: the file is missing or wrong; the message quotes the file and the place in it.
        """
        name, cells = os.fspath(path), published()
        file = cells[name] if name in cells and not os.path.exists(path) else Path(os.path.expanduser(path))
        if file.is_dir():
            file = file / "genotype.json"
            if not file.exists():
                raise GenotypeError(f"{name}: the folder has no genotype.json; give the folder of a finished run")
        try:
            tree = json.loads(
                file.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
            )
            return Saved.from_dict(tree)
        except FileNotFoundError as error:
            raise GenotypeError(
                f"{name}: no such file; give the path of a genotype.json or a published cell: "
                f"{', '.join(cells)}{_hint(name, tuple(cells))}"
            ) from error
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise GenotypeError(f"{name}: cannot be read: {error}") from error
        except ValueError as error:  # also raised for a number with too many digits
            raise GenotypeError(f"{name}: not JSON: {error}") from error
        except GenotypeError as error:
            raise GenotypeError(f"{name}: {error}") from error


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
            _flag(getattr(self, switch), switch)
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_node(node, f"nodes[{number}]", self.share_projection)

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "backbone": "chain"}
        tree |= {key: True for key in CHAIN_KEYS if getattr(self, key)}
        return tree | {"nodes": [{"ops": [_op_to_dict(op) for op in node.ops]} for node in self.nodes]}

    @property
    def op_count(self) -> int:
        """Number of ops in all nodes."""
        return sum(len(node.ops) for node in self.nodes)

    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""
        lines = [f"{key} is on" for key in CHAIN_KEYS if getattr(self, key)]
        for number, node in enumerate(self.nodes, start=1):
            lines.append(f"node {number}: reads x_t and {'h_(t-1)' if number == 1 else f'node {number - 1}'}")
            for op in sorted(node.ops, key=lambda op: -op.share):
                lines.append(f"  {op.share:7.2%}  {op.name}{'  (own projection)' if op.own_projection else ''}")
        return lines


@dataclass(frozen=True)
class DagNode:
    """A node of a DAG: s + c (y - s), where s is the state it reads, c its gate and y the activation of s W_h.

    Attributes:
        reads: number of an earlier state. State 0 is the output of the input node, which reads x_t and h_(t-1); state
            i is the output of node i.
        activation: a key of `ops.ACTIVATION`.
    """

    reads: int
    activation: str


@dataclass(frozen=True)
class DagGenotype(Saved):
    """A derived cell of the DAG backbone, as published for DARTS and ENAS. Checked, hashable.

    Each node has one op and its own gate; there is no mixture. Nodes are counted from 1, since state 0 is the output of
    the input node.

    Attributes:
        nodes: in order; each reads one earlier state.
        concat: numbers of the states whose mean is h_t, ascending; the states of all nodes if left out.

    Raises:
        GenotypeError: a value is wrong; the message quotes its place.
    """

    nodes: tuple[DagNode, ...]
    concat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check everything; fill in the default of `concat`."""
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_dag_node(node, number)
        last = len(self.nodes)
        for place, state in enumerate(self.concat):
            if not _is_number(state) or not 0 <= state <= last:
                raise GenotypeError(f"concat[{place}]: {state!r} is not a state; expected one of 0..{last}")
            if state in self.concat[:place]:
                raise GenotypeError(f"concat[{place}]: state {state} appears twice")
        object.__setattr__(self, "concat", tuple(sorted(self.concat)) or self._all_nodes())

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "backbone": "dag"}
        tree["nodes"] = [{"reads": node.reads, "activation": node.activation} for node in self.nodes]
        return tree if self.concat == self._all_nodes() else tree | {"concat": list(self.concat)}

    @property
    def op_count(self) -> int:
        """Number of ops in all nodes: one per node."""
        return len(self.nodes)

    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""
        return [
            "state 0: reads x_t and h_(t-1), tanh",
            *(f"state {i}: reads state {node.reads}, {node.activation}" for i, node in enumerate(self.nodes, start=1)),
            f"h_t: the mean of states {', '.join(map(str, self.concat))}",
        ]

    def _all_nodes(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.nodes) + 1))


AnyGenotype = Genotype | DagGenotype


def published() -> dict[str, Path]:
    """Return the paths of the published cells that the package contains, by name."""
    folder = Path(str(resources.files("grownas") / "cells" / "published"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def _chain_from(tree: Mapping[str, Any]) -> Genotype:
    _fields(tree, "genotype", HEAD, CHAIN_KEYS)
    nodes = tuple(_node_from(node, f"nodes[{i}]") for i, node in enumerate(_items(tree["nodes"], "nodes")))
    return Genotype(nodes, tree.get("highway", False), tree.get("share_projection", False))


def _dag_from(tree: Mapping[str, Any]) -> DagGenotype:
    for key in CHAIN_KEYS:
        if key in tree:
            raise GenotypeError(
                f"{key}: only the chain backbone has this key; leave it out, every node of a dag has a gate"
            )
    nodes = tuple(_dag_node_from(node, f"nodes[{i}]") for i, node in enumerate(_items(tree["nodes"], "nodes")))
    concat = tuple(_items(tree["concat"], "concat")) if "concat" in tree else ()
    if "concat" in tree and not concat:
        raise GenotypeError("concat: empty; list the states whose mean is h_t, or leave it out for all nodes")
    return DagGenotype(nodes, concat)


HEAD = ("format", "version", "backbone", "nodes")
CHAIN_KEYS, DAG_KEYS = ("highway", "share_projection"), ("concat",)
FROM_DICT: dict[str, Callable[[Mapping[str, Any]], AnyGenotype]] = {"chain": _chain_from, "dag": _dag_from}


def _check_node(node: Node, place: str, share_projection: bool) -> None:
    from grownas.ops import ACTIVATION  # imports torch: only when an op is checked

    if not node.ops:
        raise GenotypeError(f"{place}.ops: empty; a node needs at least one op")
    for number, op in enumerate(node.ops):
        here = f"{place}.ops[{number}]"
        _known(op.combine, COMBINES, f"{here}.combine")
        _known(op.activation, ACTIVATION, f"{here}.activation")
        number_like = isinstance(op.share, int | float) and not isinstance(op.share, bool)
        if not number_like or not 0 < op.share <= 1 + TOLERANCE:  # nan and inf fail too
            raise GenotypeError(f"{here}.share: {op.share!r} is not a number above 0 and at most 1")
        if op.own_projection and not share_projection:
            raise GenotypeError(f"{here}.own_projection: only allowed with share_projection")
    total = math.fsum(op.share for op in node.ops)
    if abs(total - 1) > TOLERANCE:
        raise GenotypeError(f"{place}: shares sum to {total:.9g}, expected 1")


def _check_dag_node(node: DagNode, number: int) -> None:
    from grownas.ops import ACTIVATION  # imports torch: only when an op is checked

    place = f"nodes[{number}]"
    if not _is_number(node.reads) or not 0 <= node.reads <= number:
        there = f"states 0..{number} exist" if number else "state 0 exists"
        raise GenotypeError(
            f"{place}.reads: {node.reads!r}, but only {there} before it; a node reads one earlier state"
        )
    if node.activation == NONE:
        raise GenotypeError(f"{place}.activation: 'none' exists in the search only; a derived cell has no such op")
    _known(node.activation, ACTIVATION, f"{place}.activation")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _op_to_dict(op: Op) -> dict[str, Any]:
    tree: dict[str, Any] = {"combine": op.combine, "activation": op.activation, "share": op.share}
    return tree | ({"own_projection": True} if op.own_projection else {})


def _node_from(value: Any, place: str) -> Node:
    ops = _items(_fields(value, place, ("ops",))["ops"], f"{place}.ops")
    return Node(tuple(_op_from(op, f"{place}.ops[{i}]") for i, op in enumerate(ops)))


def _op_from(value: Any, place: str) -> Op:
    tree = dict(_fields(value, place, ("combine", "activation", "share"), ("own_projection",)))
    if "own_projection" in tree:
        tree["own_projection"] = _flag(tree["own_projection"], f"{place}.own_projection")
    return Op(**tree)


def _dag_node_from(value: Any, place: str) -> DagNode:
    return DagNode(**_fields(value, place, ("reads", "activation")))


def _fields(value: Any, place: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise GenotypeError(f"{place}: {value!r} is not an object with {', '.join(needed)}")
    for key in value:
        _known(key, (*needed, *optional), f"{place}: key")
    missing = [key for key in needed if key not in value]
    if missing:
        raise GenotypeError(f"{place}: {', '.join(missing)} missing")
    return value


def _items(value: Any, place: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise GenotypeError(f"{place}: {value!r} is not a list")
    return value


def _flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise GenotypeError(f"{place}: {value!r} is not true or false")
    return value


def _known(value: Any, allowed: Collection[str], place: str) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise GenotypeError(
            f"{place}: unknown {value!r}, expected one of {', '.join(allowed)}{_hint(str(value), allowed)}"
        )


def _hint(value: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise GenotypeError(f"key {twice!r} appears twice in one object")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise GenotypeError(f"{word} is not a finite number")
