"""The discrete description of a cell, and its JSON (CONTRACT: genotype.json)."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grownas.errors import GenotypeError

FORMAT, VERSION = "grownas.genotype", 1
COMBINES = ("add", "hadamard")
TOLERANCE = 1e-6  # on the sum of a node's shares: float32 softmax stays well inside


@dataclass(frozen=True)
class Op:
    """One op of a node.

    Attributes:
        combine: a key of `ops.COMBINE`.
        activation: a key of `ops.ACTIVATION`.
        share: its fixed mixture weight, in (0, 1].
        own_projection: under `share_projection`, keeps W_x and W_h of its own, as a carrier must.
    """

    combine: str
    activation: str
    share: float = 1.0
    own_projection: bool = False

    @property
    def name(self) -> str:
        """Combine and activation in one word."""
        return f"{self.combine}/{self.activation}"


@dataclass(frozen=True)
class Node:
    """A node: ops that read the same two inputs, in order."""

    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Genotype:
    """A chain of nodes with two switches (ALGORITHMS 1). Checked when made, hashable.

    Raises:
        GenotypeError: anything about it is wrong; the message quotes the place.
    """

    nodes: tuple[Node, ...]
    highway: bool = False
    share_projection: bool = False

    def __post_init__(self) -> None:
        """Check everything."""
        for switch in ("highway", "share_projection"):
            _flag(getattr(self, switch), switch)
        if not self.nodes:
            raise GenotypeError("nodes: empty; a cell needs at least one node")
        for number, node in enumerate(self.nodes):
            _check_node(node, f"nodes[{number}]", self.share_projection)

    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as JSON holds it."""
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "backbone": "chain"}
        tree |= {key: True for key in ("highway", "share_projection") if getattr(self, key)}
        return tree | {"nodes": [{"ops": [_op_to_dict(op) for op in node.ops]} for node in self.nodes]}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Genotype:
        """Read plain values; the inverse of `to_dict`."""
        tree = _fields(mapping, "genotype", ("format", "version", "backbone", "nodes"), ("highway", "share_projection"))
        for key, wanted in (("format", FORMAT), ("version", VERSION), ("backbone", "chain")):
            if tree[key] != wanted or isinstance(tree[key], bool):
                raise GenotypeError(f"{key}: {tree[key]!r} is not supported; expected {wanted!r}")
        nodes = tuple(_node_from(node, f"nodes[{i}]") for i, node in enumerate(_items(tree["nodes"], "nodes")))
        return cls(nodes, tree.get("highway", False), tree.get("share_projection", False))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, whole or not at all."""
        part = Path(f"{os.fspath(path)}.part")
        part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Genotype:
        """Read JSON; every error quotes the file and the place in it."""
        try:
            tree = json.loads(
                Path(path).read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
            )
            return cls.from_dict(tree)
        except FileNotFoundError as error:
            raise GenotypeError(f"{os.fspath(path)}: no such file; give the path of a genotype.json") from error
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise GenotypeError(f"{os.fspath(path)}: cannot be read: {error}") from error
        except ValueError as error:  # also for a number of too many digits
            raise GenotypeError(f"{os.fspath(path)}: not JSON: {error}") from error
        except GenotypeError as error:
            raise GenotypeError(f"{os.fspath(path)}: {error}") from error


def _check_node(node: Node, place: str, share_projection: bool) -> None:
    from grownas.ops import ACTIVATION  # brings torch: only where an op is checked

    if not node.ops:
        raise GenotypeError(f"{place}.ops: empty; a node needs at least one op")
    for number, op in enumerate(node.ops):
        here = f"{place}.ops[{number}]"
        _known(op.combine, COMBINES, f"{here}.combine")
        _known(op.activation, tuple(ACTIVATION), f"{here}.activation")
        number_like = isinstance(op.share, int | float) and not isinstance(op.share, bool)
        if not number_like or not 0 < op.share <= 1 + TOLERANCE:  # nan and inf fail too; any int compares
            raise GenotypeError(f"{here}.share: {op.share!r} is not a number above 0 and at most 1")
        if op.own_projection and not share_projection:
            raise GenotypeError(f"{here}.own_projection: only allowed with share_projection")
    total = math.fsum(op.share for op in node.ops)
    if abs(total - 1) > TOLERANCE:
        raise GenotypeError(f"{place}: shares sum to {total:.9g}, expected 1")


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


def _known(value: Any, allowed: Sequence[str], place: str) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise GenotypeError(f"{place}: unknown {value!r}, expected one of {', '.join(allowed)}{hint}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise GenotypeError(f"key {twice!r} stands twice in one object")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise GenotypeError(f"{word} is not a finite number")
