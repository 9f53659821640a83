"""One layer of a derived DAG cell: its weights, and running it on a backend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from grownas.cells.backends import BACKENDS, choose_dag
from grownas.cells.chain import autocast_dtype
from grownas.cells.node import write_parameters
from grownas.cells.quantiser import Units
from grownas.genotype import DagGenotype


class DagLayer(nn.Module):
    """The input node and the nodes of a genotype. There are no biases, as in the published code of DARTS.

    Attributes:
        W_x: weights of x in the input node, shape `(I, 2H)`; H columns of the gate, then H columns of the op.
        W_h: weights of the state that each node reads, input node first, shape `(N + 1, H, 2H)`, same column order.
            The published W_0 is `[W_x; W_h[0]]`, and W_i is `W_h[i]`.
        state_axis: axis of W_h that belongs to the units of the state, for dropout of the state.
        quantised: a list with the quantised products of each node, input node first; None: products of real numbers.
    """

    quantised: nn.ModuleList | None
    state_axis: ClassVar[int] = 1

    def __init__(self, genotype: DagGenotype, input_size: int, hidden_size: int, **where: Any) -> None:
        """Create the weights and draw them; `where` is device and dtype."""
        super().__init__()
        self.genotype, self.input_size, self.hidden_size = genotype, input_size, hidden_size
        self.W_x = nn.Parameter(torch.empty(input_size, 2 * hidden_size, **where))
        self.W_h = nn.Parameter(torch.empty(len(genotype.nodes) + 1, hidden_size, 2 * hidden_size, **where))
        units = [Units.of([bits], reads_x=number == 0) for number, bits in enumerate(genotype.bits)]
        self.register_module("quantised", nn.ModuleList(units).to(self.W_x) if units else None)
        self.draw_parameters()

    def run(self, backend: str, x: Tensor, h_0: Tensor) -> Tensor:
        """Return the states over a sequence, see `reference.run_dag`; autocast works as in `chain.run`."""
        dtype = autocast_dtype(x.device.type, self.W_x.dtype)
        if dtype is None:
            return self._run(backend, self.W_x, self.W_h, x, h_0)
        with torch.autocast(x.device.type, enabled=False):
            return self._run(backend, self.W_x.to(dtype), self.W_h.to(dtype), x.to(dtype), h_0.to(dtype))

    def _run(self, backend: str, W_x: Tensor, W_h: Tensor, x: Tensor, h_0: Tensor) -> Tensor:
        run = BACKENDS[choose_dag(backend, self.genotype, W_x, quantised=self.quantised is not None)].run_dag
        assert run is not None  # `choose_dag` returns only backends that run DAGs
        units = {} if self.quantised is None else {"units": self.quantised}
        return run(self.genotype, W_x, W_h, x, h_0, **units)

    def choose(self, backend: str) -> str:
        """Return the name of the backend; see `backends.choose_dag`."""
        return choose_dag(backend, self.genotype, self.W_x, quantised=self.quantised is not None)

    @torch.no_grad()
    def draw_parameters(self, generator: Generator | None = None) -> None:
        """Draw all weights from U(-1/sqrt(H), 1/sqrt(H)), as for a chain.

        The published bound is 0.04 at H = 850, near 1/sqrt(850) = 0.034. It is far too small for the small cells that
        are also trained here.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for weights in self.parameters(recurse=False):
            weights.uniform_(-bound, bound, generator=generator)
        for units in self.quantised or ():
            units.reset_parameters(bound)  # type: ignore[operator]  # Modules to mypy

    def op_parameters(self, node: int, op: int) -> dict[str, Tensor]:
        """Return live views of a node's weights: gate_h, W_h (H, H); the input node also has gate_x, W_x (I, H).

        Args:
            node: 0 for the input node, i for the genotype's i-th node, counted from 1.
            op: 0, since a node has one op only.

        Raises:
            IndexError: there is no such node or op.
        """
        last = len(self.genotype.nodes)
        if not 0 <= node <= last or op != 0:
            raise IndexError(
                f"a dag of {last} node(s) has nodes 0..{last}, 0 the input node, and op 0; got node {node}, op {op}"
            )
        return gate_and_op(self.W_h[node], self.W_x if node == 0 else None)

    def load_op_parameters(self, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of a node's weights.

        Raises:
            IndexError: there is no such node or op.
            ValueError: a name or a shape does not fit.
        """
        write_parameters(f"node {node}", self.op_parameters(node, op), values)

    def extra_repr(self) -> str:
        """Return the sizes and ops for `repr`."""
        ops = ", ".join(f"{node.reads}/{node.activation}" for node in self.genotype.nodes)
        return f"{self.input_size}, {self.hidden_size}, nodes=[{ops}]"


def gate_and_op(W_h: Tensor, W_x: Tensor | None) -> dict[str, Tensor]:
    """Return live views of a node's weights: gate_h, W_h (H, H); with `W_x` also gate_x, W_x (I, H)."""
    read = {"h": W_h} if W_x is None else {"h": W_h, "x": W_x}
    return {
        f"{name}_{source}": half
        for source, weights in read.items()
        for name, half in zip(("gate", "W"), weights.chunk(2, -1), strict=True)
    }
