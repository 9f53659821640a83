"""The supernet of blocks: cells of complex feed-forward ops, each edge a softmax mixture of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from grownas.backbones.mixture import Mixture, OfEdges, check_no_skip
from grownas.blocks import BLOCK, INPUTS, NONE, block
from grownas.blocks_genotype import EDGES, BlockEdge, BlockNode, BlocksGenotype
from grownas.cells.blocks import BlockOp, BlocksNetwork, DelayLines, Node, kept_by, run_with_state
from grownas.cells.node import write_parameters
from grownas.errors import GenotypeError


class BlocksBackbone(OfEdges):
    """The supernet of blocks; it offers what `Backbone` offers, see `protocols.Supernet`.

    Node i of a cell, counted from 0, reads the i + 2 states before it, each through a mixture of ops, and sums them.
    The cells in a row have the same alpha and coefficients of their own. `cells.blocks.run_cells` has the formulas.

    Args:
        ops: for each node the ops of all of its edges: names, or pairs `("block", name)`, see `grownas.blocks`.
        cells: number of cells in a row.
        generator: draws the noise on the coefficients.

    Attributes:
        input_size, hidden_size: 2, I and Q of the complex samples.
        kept: D, the number of samples in the delay lines of all ops.
        nodes: the mixtures of each node's edges, in the order of the states that they read.
        cells: for each cell, edge and op the `BlockOp`.
        backend, predicts: see `BlocksNetwork`.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search, on convolutional cells.
    """

    input_size = hidden_size = 2
    predicts = True
    backend = "torch"

    def __init__(
        self, ops: Sequence[Sequence[str | tuple[str, str]]], *, cells: int = 1, generator: Generator | None = None
    ) -> None:
        """See the class."""
        super().__init__()
        names = [[_name(op) for op in own] for own in ops]
        self.nodes = nn.ModuleList(
            nn.ModuleList(Mixture(own) for _ in range(i)) for i, own in enumerate(names, start=INPUTS)
        )
        if not names or any(set(own) <= {NONE} for own in names):
            raise GenotypeError(f"a network of blocks needs nodes, each with an op other than {NONE!r}, got {names}")
        self.cells = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(BlockOp(block(op)) for op in edge.ops) for edge in self.mixed_edges())
            for _ in range(cells)
        )
        self.kept = kept_by(self)
        self._draw(generator)

    def _draw(self, generator: Generator | None) -> None:
        """Begin near the identity: each op is divided by the number of edges of its node."""
        counts = [len(node) for node in self._mixtures() for _ in node]
        for cell in self.cells:
            for count, edge in zip(counts, cast("nn.ModuleList", cell), strict=True):
                for op in cast("nn.ModuleList", edge):
                    cast("BlockOp", op).draw(1 / count, generator)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map I and Q `(T, B, 2)` to as many; the state is `(D, B, 2)`, see `BlocksNetwork.forward`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        shares = self.shares
        cells = [self._cell(cast("nn.ModuleList", cell), shares) for cell in self.cells]
        return run_with_state(cells, self.kept, x, h_0)

    def _cell(self, cell: nn.ModuleList, shares: Sequence[Tensor]) -> list[Node]:
        edges = iter(zip(cell, shares, strict=True))
        return [
            [(source, partial(self._mixed, *next(edges))) for source in range(len(node))] for node in self._mixtures()
        ]

    def _mixed(self, ops: Any, shares: Tensor, x: Tensor, lines: DelayLines) -> Tensor:
        outputs = torch.stack([op(x, lines) for op in ops])
        mixed: Tensor = torch.tensordot(shares.to(outputs), outputs, 1)
        return mixed + self.skip * x

    def _mixtures(self) -> list[list[Mixture]]:
        return [cast("list[Mixture]", list(cast("nn.ModuleList", node))) for node in self.nodes]

    def mixed_edges(self) -> list[Mixture]:
        """Return the mixtures of all edges: those of node 0 first, each node's in the order of states."""
        return [edge for node in self._mixtures() for edge in node]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Node and source of each edge: (0, 0), (0, 1), (1, 0), and so on; nodes are counted from 0."""
        return [(node, source) for node in range(len(self.nodes)) for source in range(node + INPUTS)]

    @property
    def blend(self) -> list[float]:
        """1 for each node: networks of blocks do not grow, so every node is plain."""
        return [1.0] * len(self.nodes)

    @blend.setter
    def blend(self, values: Sequence[float]) -> None:
        if list(values) != self.blend:
            raise ValueError(f"blend of blocks must be {self.blend}, got {list(values)}")

    def op_names(self, edge: int) -> list[tuple[str, str]]:
        """Return an edge's ops as `("block", name)`, in the order of alpha."""
        return [(BLOCK, op) for op in self.mixed_edges()[edge].ops]

    def op_parameters(self, edge: int, op: int) -> dict[str, Tensor]:
        """Return live views of an op's coefficients, `(K, 2)`, by `CELL.PART`, both counted from 0.

        Raises:
            IndexError: there is no such edge or op.
        """
        ops = [cast("BlockOp", cast("Any", cell)[edge][op]) for cell in self.cells]
        return {
            f"{number}.{part}": own.detach() for number, one in enumerate(ops) for part, own in one.coefficients.items()
        }

    def load_op_parameters(self, edge: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of an op's coefficients.

        Raises:
            IndexError: there is no such edge or op.
            ValueError: a name or a shape does not fit.
        """
        write_parameters(f"edge {edge}", self.op_parameters(edge, op), values)

    def genotype(self, top_k: int | None = 1) -> BlocksGenotype:
        """Read out for each node the two edges with the op of largest share, "none" left out, and these ops.

        Of equal shares the first is taken. `top_k` is ignored: an edge of a derived network has one op.
        """
        return BlocksGenotype(
            tuple(
                BlockNode(tuple(BlockEdge(source, node[source].ops[op]) for source, op in kept))
                for node, kept in zip(self._mixtures(), self._kept(), strict=True)
            ),
            len(self.cells),
        )

    def _kept(self) -> list[list[tuple[int, int]]]:
        """Return the source and the number of the op of each edge that a node keeps."""
        found = []
        for node in self._mixtures():
            best = [(edge.best() or (-math.inf, edge.ops[0])) for edge in node]
            sources = sorted(range(len(node)), key=lambda source, best=best: -best[source][0])[:EDGES]  # type: ignore[misc]
            found.append([(source, node[source].ops.index(best[source][1])) for source in sorted(sources)])
        return found

    @torch.no_grad()
    def derive(self, top_k: int | None = None) -> BlocksNetwork:
        """Return the derived network, see `genotype`, with this backbone's coefficients.

        It computes something else than the supernet: a node reads two states through one op each.

        Raises:
            ValueError: there is a skip.
        """
        check_no_skip(self._skip)
        network, first = BlocksNetwork(self.genotype(top_k)), 0
        for number, (node, kept) in enumerate(zip(self._mixtures(), self._kept(), strict=True)):
            for place, (source, op) in enumerate(kept):
                for own, derived in zip(self.cells, network.cells, strict=True):
                    state = cast("Any", own)[first + source][op].state_dict()
                    cast("Any", derived)[number][place].load_state_dict(state)
            first += len(node)
        return network.to(self.alpha[0])

    @property
    def chosen_backend(self) -> str:
        """Name of the backend, see `protocols.Supernet`."""
        return self.backend

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"cells={len(self.cells)}, nodes={len(self.nodes)}"


def _name(op: str | tuple[str, str]) -> str:
    """Return an op's name.

    Raises:
        GenotypeError: it is an op of another backbone, or unknown.
    """
    combine, name = (BLOCK, op) if isinstance(op, str) else op
    if combine != BLOCK:
        raise GenotypeError(f"unknown op {combine}/{name!r} of a network of blocks; expected {BLOCK} and a name")
    block(name)
    return name
