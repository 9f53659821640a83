"""How the engine lays a node's ops out: additive ones first, ops that share a projection together."""

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
    """The engine's order of a node's ops, and the blocks of H columns that its products have.

    Blocks: the additive ops' projections, the gate's if there is one, the Hadamard ops' projections. Where no two ops
    share a projection, there is one block an op, in the ops' order.

    Attributes:
        order: op numbers, additive first, then by projection where some are shared, then by activation.
        activations: the ordered ops' activations.
        additive: how many of them are additive.
        projection: the ordered ops' projections, numbered within the additive and within the Hadamard ones; never
            falling within either.
        columns: the node's own number of each projection, additive ones first.
        additive_projections: how many of those are of additive ops.
        gate: 1 under `highway`, else 0.
        apart: the node's product with x is done apart from the other nodes', so that theirs has the bits that it has
            without this node: a wider matrix is summed in another order by some libraries.
    """

    order: tuple[int, ...]
    activations: tuple[str, ...]
    additive: int
    projection: tuple[int, ...]
    columns: tuple[int, ...]
    additive_projections: int
    gate: int
    apart: bool = False
    text: str = field(init=False, compare=False, repr=False)  # the whole plan; read back by `read_plan`

    def __post_init__(self) -> None:
        """Work out, once, what a compiler can read but not work out."""
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.init}
        object.__setattr__(self, "text", json.dumps(known, separators=(",", ":")))
        _ = self.is_natural  # is kept

    @cached_property
    def hadamard_projections(self) -> int:
        """How many projections the Hadamard ops have."""
        return len(self.columns) - self.additive_projections

    @cached_property
    def summed(self) -> int:
        """Blocks, the first ones, whose two parts are summed: the additive ops' and the gate's."""
        return self.additive_projections + self.gate

    @cached_property
    def blocks(self) -> int:
        """Blocks in all."""
        return len(self.columns) + self.gate

    @cached_property
    def is_natural(self) -> bool:
        """Whether the node's own order is the engine's."""
        return all(one == tuple(range(len(one))) for one in (self.order, self.columns))

    @cached_property
    def kernel_layout(self) -> tuple[bytes, bytes, int, int, int, int]:
        """What kernels are told: each op's code and projection, then how many ops and blocks of each kind."""
        codes = kernel_codes(self.activations)
        counts = self.additive, self.additive_projections, self.gate, self.hadamard_projections
        return codes, array("i", self.projection).tobytes(), *counts

    @cached_property
    def runs(self) -> list[tuple[str, int, int]]:
        """Neighbouring ops with the same activation, `(activation, start, stop)`."""
        runs: list[tuple[str, int, int]] = []
        for at, name in enumerate(self.activations):
            if runs and runs[-1][0] == name:
                runs[-1] = (name, runs[-1][1], at + 1)
            else:
                runs.append((name, at, at + 1))
        return runs


@functools.lru_cache
def read_plan(text: str) -> Plan:
    """Return the plan that a text says."""
    known: dict[str, Any] = json.loads(text)
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in known.items()}
    return Plan(**fields)


def make_plan(ops: Sequence[Op], projections: Sequence[int], *, highway: bool) -> Plan:
    """Return the engine's layout of a node.

    Args:
        ops: of the node.
        projections: each op's projection.
        highway: whether the node has a gate.
    """
    shared = len(set(projections)) < len(ops)

    def key(number: int) -> tuple[int, int, tuple[bool, int, str]]:
        op = ops[number]
        return COMBINE[op.combine].code, projections[number] if shared else 0, place(op.activation)

    order = sorted(range(len(ops)), key=key)
    additive = sum(COMBINE[op.combine].code == ADD for op in ops)
    columns = list(dict.fromkeys(projections[number] for number in order))  # ops of different kinds share none
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
