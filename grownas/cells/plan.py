"""The engine's layout of a node's ops: additive ops first, ops with a common projection side by side."""

from __future__ import annotations

import dataclasses
import functools
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grownas.combine import ADD
from grownas.genotype import Op
from grownas.ops import COMBINE, kernel_codes, place


@dataclass(frozen=True)
class Plan:
    """The engine's order of a node's ops, and the blocks of H columns in its matrix products.

    Blocks: projections of the additive ops, the gate if any, projections of the Hadamard ops. If no two ops share a
    projection, there is one block per op, in the order of the ops.

    Attributes:
        order: op numbers, additive first, then by projection if some are shared, then by activation.
        activations: activations of the ordered ops.
        additive: number of additive ops.
        projection: projections of the ordered ops, numbered separately for additive and for Hadamard ops; ascending
            within each kind.
        columns: the node's own number of each projection, additive projections first.
        additive_projections: number of projections of additive ops.
        gate: 1 under `highway`, otherwise 0.
        apart: compute this node's product with x separately. The other nodes' product then has the same bits as without
            this node; some libraries sum a wider matrix in another order.
    """

    order: tuple[int, ...]
    activations: tuple[str, ...]
    additive: int
    projection: tuple[int, ...]
    columns: tuple[int, ...]
    additive_projections: int
    gate: int
    apart: bool = False
    text: str = field(init=False, compare=False, repr=False)  # the whole plan; `read_plan` is the inverse

    def __post_init__(self) -> None:
        """Compute the cached values once: a compiler can read them but not compute them."""
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.init}
        object.__setattr__(self, "text", json.dumps(known, separators=(",", ":")))
        _ = self.is_natural  # fills the cache

    @cached_property
    def hadamard_projections(self) -> int:
        """Number of projections of the Hadamard ops."""
        return len(self.columns) - self.additive_projections

    @cached_property
    def summed(self) -> int:
        """Number of blocks whose two parts are summed, the additive ops' and the gate's; they come first."""
        return self.additive_projections + self.gate

    @cached_property
    def blocks(self) -> int:
        """Number of all blocks."""
        return len(self.columns) + self.gate

    @cached_property
    def is_natural(self) -> bool:
        """Whether the node's own order is the engine's order."""
        return all(one == tuple(range(len(one))) for one in (self.order, self.columns))

    @cached_property
    def kernel_layout(self) -> tuple[bytes, bytes, int, int, int, int]:
        """Arguments of kernels: codes and projections of the ops, then the numbers of ops and blocks of each kind."""
        codes = kernel_codes(self.activations)
        counts = self.additive, self.additive_projections, self.gate, self.hadamard_projections
        return codes, array("i", self.projection).tobytes(), *counts

    @cached_property
    def runs(self) -> list[tuple[str, int, int]]:
        """Runs of consecutive ops with the same activation, `(activation, start, stop)`."""
        runs: list[tuple[str, int, int]] = []
        for at, name in enumerate(self.activations):
            if runs and runs[-1][0] == name:
                runs[-1] = (name, runs[-1][1], at + 1)
            else:
                runs.append((name, at, at + 1))
        return runs


@functools.lru_cache
def read_plan(text: str) -> Plan:
    """Return the plan of a `Plan.text`."""
    known: dict[str, Any] = json.loads(text)
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in known.items()}
    return Plan(**fields)


def make_plan(ops: Sequence[Op], projections: Sequence[int], *, highway: bool) -> Plan:
    """Return the engine's layout of a node.

    Args:
        ops: the node's ops.
        projections: each op's projection.
        highway: whether the node has a gate.
    """
    shared = len(set(projections)) < len(ops)

    def key(number: int) -> tuple[int, int, tuple[bool, int, str]]:
        op = ops[number]
        return COMBINE[op.combine].code, projections[number] if shared else 0, place(op.activation)

    order = sorted(range(len(ops)), key=key)
    additive = sum(COMBINE[op.combine].code == ADD for op in ops)
    columns = list(dict.fromkeys(projections[number] for number in order))  # combines never share a projection
    first_hadamard = len({projections[number] for number in order[:additive]})
    return Plan(
        tuple(order),
        tuple(ops[number].activation for number in order),
        additive,
        tuple(columns.index(projections[n]) - first_hadamard * (at >= additive) for at, n in enumerate(order)),
        tuple(columns),
        first_hadamard,
        int(highway),
    )
