"""The supernet: a chain of nodes, each a softmax mixture over an ordered multiset of ops (JG21 eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from grownas.backbones.mixture import Blend, check_no_skip, given_shares
from grownas.cells import backends, chain
from grownas.cells.cell import GrownRNN
from grownas.cells.node import Node
from grownas.genotype import Genotype, Op
from grownas.genotype import Node as GenotypeNode
from grownas.ops import DEFAULT_OPS

OpLike = tuple[str, str] | Op


class MixedNode(Node):
    """A node whose shares are softmax(alpha), or those given for a while.

    Attributes:
        given: holds the given shares, shape `(K,)`; empty for softmax(alpha). A tuple, so that a parameter among them
            does not become the node's own.
    """

    given: tuple[Tensor, ...] = ()

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Op],
        *,
        highway: bool = False,
        share_projection: bool = False,
        generator: Generator | None = None,
    ) -> None:
        """See `Node`; alpha starts at zero: equal shares."""
        super().__init__(
            input_size, hidden_size, ops, highway=highway, share_projection=share_projection, generator=generator
        )
        self.alpha = nn.Parameter(torch.zeros(len(ops)))

    @property
    def shares(self) -> Tensor:
        """Mixture weights, shape `(K,)`."""
        return self.given[0] if self.given else torch.softmax(self.alpha, 0)


class Backbone(nn.Module):
    """The supernet (CONTRACT). Nodes may hold different ops and different numbers of them.

    Args:
        input_size: I.
        hidden_size: H.
        nodes: how many nodes.
        ops: the ops of every node, `(combine, activation)`; the eight default ones if None.
        highway: give every node a gate.
        share_projection: let ops of a node with the same combine share W_x and W_h.
        generator: draws the weights.
        backend: see `GrownRNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nodes: int = 1,
        ops: Sequence[OpLike] | None = None,
        *,
        highway: bool = False,
        share_projection: bool = False,
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> None:
        """See the class."""
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("nodes", nodes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.highway, self.share_projection = highway, share_projection
        self.backend = backends.check_name(backend)
        self._skip = 0.0
        self.nodes = nn.ModuleList(
            self.new_node(DEFAULT_OPS if ops is None else ops, generator=generator) for _ in range(nodes)
        )

    @classmethod
    def from_ops(
        cls,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Sequence[OpLike]],
        *,
        highway: bool = False,
        share_projection: bool = False,
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> Backbone:
        """Build a backbone from each node's ops."""
        backbone = cls(
            input_size,
            hidden_size,
            1,
            ops[0],
            highway=highway,
            share_projection=share_projection,
            generator=generator,
            backend=backend,
        )
        backbone.nodes.extend(backbone.new_node(node, generator=generator) for node in ops[1:])
        return backbone

    def new_node(self, ops: Sequence[OpLike], generator: Generator | None = None) -> MixedNode:
        """Return a node of this backbone's sizes and switches that is not part of it."""
        node = MixedNode(
            self.input_size,
            self.hidden_size,
            [op if isinstance(op, Op) else Op(*op) for op in ops],
            highway=self.highway,
            share_projection=self.share_projection,
            generator=generator,
        )
        node.set_skip(self._skip)
        return node

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `(T, B, I)` and a state `(1, B, H)`, zeros if left out, to states `(T, B, H)` and the last `(1, B, H)`.

        Both have the weights' dtype, under `torch.autocast` too; but on CUDA autocast's then, see `chain.run`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        chain.check_types(x, h_0)
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)
        nodes = self.mixed_nodes()
        out = chain.run(self.backend, nodes, [node.shares for node in nodes], x, state[0])
        return out, out[-1:].clone()  # a state that is kept must not keep all steps, nor change with them

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs this chain where it lies now: what `auto` stands for."""
        return backends.choose(self.backend, self.mixed_nodes())

    def mixed_nodes(self) -> list[MixedNode]:
        """Return the nodes as a list."""
        return cast("list[MixedNode]", list(self.nodes))

    @property
    def blend(self) -> list[float]:
        """How far each node is mixed in, in [0, 1]; 1 for a plain node. Assign a list, or one of its items."""
        return Blend(self.mixed_nodes())

    @blend.setter
    def blend(self, values: Sequence[float]) -> None:
        Blend(self.mixed_nodes()).assign(values)

    @property
    def alpha(self) -> list[nn.Parameter]:
        """One parameter `(K,)` a node."""
        return [node.alpha for node in self.mixed_nodes()]

    @property
    def shares(self) -> list[Tensor]:
        """The mixture weights that it computes with, `(K,)` a node: softmax(alpha), or those of `set_shares`."""
        return [node.shares for node in self.mixed_nodes()]

    def set_shares(self, shares: Sequence[Tensor] | None) -> None:
        """Compute with these mixture weights, `(K,)` a node, instead of softmax(alpha); None goes back to that.

        Gradients reach the given tensors. They are not saved, and reading out takes alpha, not them.

        Raises:
            ValueError: their number or a shape does not fit.
        """
        nodes = self.mixed_nodes()
        for node, given in zip(nodes, given_shares(self.alpha, shares), strict=True):
            node.given = given

    def set_skip(self, beta: float) -> None:
        """Put an identity of weight beta beside each node's mixture, see `Node.skip`; 0 takes it away.

        It is not saved: who resumes a search sets it again.

        Raises:
            ValueError: `beta` is not finite.
        """
        for node in self.mixed_nodes():
            node.set_skip(beta)
        self._skip = float(beta)

    def op_names(self, node: int) -> list[tuple[str, str]]:
        """Return a node's `(combine, activation)`, in the order of alpha."""
        return [(op.combine, op.activation) for op in self.mixed_nodes()[node].ops]

    def op_parameters(self, node: int, op: int) -> dict[str, Tensor]:
        """Return live views of an op's parameters: W_x (I, H), b_x (H,), W_h (H, H); b_h (H,) if Hadamard."""
        return self.mixed_nodes()[node].op_parameters(op)

    def load_op_parameters(self, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of an op's parameters."""
        self.mixed_nodes()[node].load_op_parameters(op, values)

    def genotype(self, top_k: int | None = 1) -> Genotype:
        """Read out each node's ops of largest share, renormalised; all ops if `top_k` is None. `blend` is not read."""
        kept = [self.largest_ops(node, top_k) for node in self.mixed_nodes()]
        return Genotype(
            tuple(GenotypeNode(tuple(op for _, op in node)) for node in kept),
            highway=self.highway,
            share_projection=self.share_projection,
        )

    def derive(self, top_k: int | None = None) -> GrownRNN:
        """Return the derived cell with this backbone's weights; it computes the same if all ops are kept.

        Raises:
            ValueError: a node is not mixed in fully or has a skip: a derived cell has plain nodes only.
        """
        check_no_skip(self._skip)
        partial = {number: value for number, value in enumerate(self.blend) if value < 1}
        if partial:
            raise ValueError(f"nodes are blended in part ({partial}); a derived cell needs blend 1: train on or set it")
        cell = GrownRNN(self.genotype(top_k), self.input_size, self.hidden_size, backend=self.backend)
        cell.to(self.alpha[0])
        layer = cast("chain.ChainLayer", cell.layer(0))
        for number, node in enumerate(self.mixed_nodes()):
            target = layer.nodes()[number]
            for place, (op, _) in enumerate(self.largest_ops(node, top_k)):
                target.load_op_parameters(place, node.op_parameters(op))
            if self.highway:
                target.load_state_dict({**target.state_dict(), "gate_x": node.gate_x, "gate_h": node.gate_h})
        return cell

    def check_place(self, node: int, op: int) -> None:
        """Check that there is such an op.

        Raises:
            ValueError: there is none.
        """
        nodes = self.mixed_nodes()
        if not 0 <= node < len(nodes):
            raise ValueError(f"the backbone has nodes 0..{len(nodes) - 1}, got {node}")
        count = len(nodes[node].ops)
        if not 0 <= op < count:
            raise ValueError(f"node {node} has ops 0..{count - 1}, got {op}")

    def largest_ops(self, node: MixedNode, top_k: int | None) -> list[tuple[int, Op]]:
        """Return number and op, with its new share, of the ops that are kept, in their old order."""
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        alpha = node.alpha.detach().double()
        order = torch.sort(alpha, descending=True, stable=True).indices.tolist()
        numbers = sorted(order[:top_k])
        tiny = torch.finfo(alpha.dtype).tiny  # a genotype's shares are above 0
        shares = torch.softmax(alpha[numbers], 0).clamp_min(tiny).tolist()
        return [
            (number, Op(node.ops[number].combine, node.ops[number].activation, share, node.ops[number].own_projection))
            for number, share in zip(numbers, shares, strict=True)
        ]

    def extra_repr(self) -> str:
        """Return sizes for printing."""
        return f"{self.input_size}, {self.hidden_size}, backend={self.backend}"


def shares_of(core: Backbone) -> list[list[float]]:
    """Return each node's mixture weights, in float64."""
    return [torch.softmax(alpha.detach().double(), 0).tolist() for alpha in core.alpha]
