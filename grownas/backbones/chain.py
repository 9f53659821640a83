"""The supernet: a chain of nodes, each a softmax mixture over an ordered multiset of ops (JG21 eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from grownas.backbones.mixture import Blend, OfMixtures, check_no_blend, check_no_skip
from grownas.cells import backends, chain
from grownas.cells.cell import GrownRNN
from grownas.cells.node import Node
from grownas.genotype import Genotype, Op
from grownas.genotype import Node as GenotypeNode
from grownas.ops import DEFAULT_OPS
from grownas.protocols import Supernet

OpLike = tuple[str, str] | Op


class MixedNode(Node):
    """A node whose shares are softmax(alpha), or shares set by `Backbone.set_shares`.

    Attributes:
        given: tuple that holds the set shares, shape `(K,)`; empty for softmax(alpha). In a tuple, `nn.Module` does
            not register a parameter as the node's own.
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
        """See `Node`; alpha is zero at first: equal shares."""
        super().__init__(
            input_size, hidden_size, ops, highway=highway, share_projection=share_projection, generator=generator
        )
        self.alpha = nn.Parameter(torch.zeros(len(ops)))

    @property
    def shares(self) -> Tensor:
        """Mixture weights, shape `(K,)`."""
        return self.given[0] if self.given else torch.softmax(self.alpha, 0)


class Backbone(OfMixtures):
    """The supernet. Nodes may have different ops and different numbers of ops.

    Args:
        input_size: I.
        hidden_size: H.
        nodes: number of nodes.
        ops: the ops of every node, `(combine, activation)`; the eight default ops if None.
        highway: give every node a gate.
        share_projection: ops of a node with the same combine share W_x and W_h.
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
        chain.check_sizes(input_size=input_size, hidden_size=hidden_size, nodes=nodes)
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

    @classmethod
    @torch.no_grad()
    def of_cell(cls, cell: GrownRNN) -> Backbone:
        """Build the supernet of a derived chain: its ops and weights, with alpha = log(share).

        Promise: `Backbone.of_cell(cell).derive()` equals `cell` up to the rounding of the shares.

        Raises:
            ValueError: the cell is not a chain of one layer and one direction.
        """
        genotype = cell.genotype
        if not isinstance(genotype, Genotype) or cell.num_layers > 1 or cell.bidirectional:
            raise ValueError("only a chain with one layer and one direction has a supernet that computes the same")
        nodes = cast("chain.ChainLayer", cell.layer(0)).nodes()
        backbone = cls.from_ops(
            cell.input_size,
            cell.hidden_size,
            [node.ops for node in nodes],
            highway=genotype.highway,
            share_projection=genotype.share_projection,
            backend=cell.backend,
        ).to(nodes[0].W_x)
        for node, source in zip(backbone.mixed_nodes(), nodes, strict=True):
            for name, parameter in source.named_parameters():
                getattr(node, name).copy_(parameter)
            node.alpha.copy_(source.shares.double().log())
        return backbone

    def new_node(self, ops: Sequence[OpLike], generator: Generator | None = None) -> MixedNode:
        """Return a new node with this backbone's sizes and switches; it is not added to the backbone."""
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
        """Map x `(T, B, I)` and a state `(1, B, H)`, zeros if None, to states `(T, B, H)` and the last one `(1, B, H)`.

        Both results have the weights' dtype; under CUDA autocast they have autocast's dtype, see `chain.run`.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit.
        """
        chain.check_types(x, h_0)
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)
        nodes = self.mixed_nodes()
        out = chain.run(self.backend, nodes, [node.shares for node in nodes], x, state[0])
        return out, out[-1:].clone()  # a copy: a kept last state does not keep all steps in memory

    @torch.no_grad()
    def vjp(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor, Callable[[Tensor], None]] | None:
        """Return the outputs and the last state of `forward`, without autograd, and a function of their gradient.

        It sets the gradients of all parameters from the loss's gradient by the outputs, `(T, B, H)`; call it once.
        None if only autograd can, see `sequence.vjp`, or if shares were set.
        """
        nodes = self.mixed_nodes()
        if any(node.given for node in nodes):
            return None
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)
        shares = [node.shares for node in nodes]
        found = chain.vjp(self.backend, nodes, shares, x, state[0])
        if found is None:
            return None
        out, pull = found

        def set_gradients(grad: Tensor) -> None:
            for node, one, gradients in zip(nodes, shares, pull(grad), strict=True):
                chain.set_gradients(node, gradients)
                node.alpha.grad = torch._softmax_backward_data(gradients.shares, one, 0, one.dtype)

        return out, out[-1:].clone(), set_gradients

    def prepare(self, T: int, B: int) -> Callable[..., tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] | None:
        """Return `vjp` for windows of T steps and B streams, with buffers that each call overwrites.

        It is for training: the parameters must stay at their addresses and the nodes as they are, without autograd. The
        function of the gradient also returns a tensor that holds the gradients of all weights, and more. None if
        nothing can be prepared, see `chain.prepare`, or if shares were set.
        """
        nodes = self.mixed_nodes()
        prepared = None if any(node.given for node in nodes) else chain.prepare(self.backend, nodes, T, B)
        if prepared is None:
            return None
        mixtures = list(zip(self.alpha, prepared.shares, prepared.shares_gradients, strict=True))

        def vjp(x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
            for alpha, shares, _ in mixtures:
                torch.softmax(alpha, 0, out=shares)
            out = prepared.forward(x, h_0)
            return out, prepared.last.clone(), set_gradients

        def set_gradients(grad: Tensor) -> Tensor:
            memory = prepared.backward(grad)
            for alpha, shares, gradient in mixtures:
                alpha.grad = torch._softmax_backward_data(gradient, shares, 0, shares.dtype)
            return memory

        return vjp

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs this chain on its present device and in its dtype."""
        return backends.choose(self.backend, self.mixed_nodes())

    def mixed_nodes(self) -> list[MixedNode]:
        """Return the nodes as a list."""
        return cast("list[MixedNode]", list(self.nodes))

    @property
    def blend(self) -> list[float]:
        """Blend m of each node, in [0, 1]; 1 for a plain node (see `Node.blend`). Assign a list or a single item."""
        return Blend(self.mixed_nodes())

    @blend.setter
    def blend(self, values: Sequence[float]) -> None:
        Blend(self.mixed_nodes()).assign(values)

    def mixtures(self) -> Sequence[MixedNode]:
        """Return the mixtures: the nodes."""
        return self.mixed_nodes()

    def set_skip(self, beta: float) -> None:
        """Add beta times its input to each node's mixture, see `Node.skip`; 0 removes the skip.

        The skip is not saved: a resumed search sets it again.

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
        """Return each node's ops of largest share, renormalised; all ops if `top_k` is None. `blend` is ignored."""
        kept = [self.largest_ops(node, top_k) for node in self.mixed_nodes()]
        return Genotype(
            tuple(GenotypeNode(tuple(op for _, op in node)) for node in kept),
            highway=self.highway,
            share_projection=self.share_projection,
        )

    def derive(self, top_k: int | None = None) -> GrownRNN:
        """Return the derived cell with this backbone's weights; its output is the same if all ops are kept.

        Raises:
            ValueError: a node's blend is below 1, or a node has a skip: a derived cell has plain nodes only.
        """
        check_no_skip(self._skip)
        check_no_blend(self.blend)
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
        """Check that an op exists.

        Raises:
            ValueError: there is no such node or op.
        """
        nodes = self.mixed_nodes()
        if not 0 <= node < len(nodes):
            raise ValueError(f"the backbone has nodes 0..{len(nodes) - 1}, got {node}")
        count = len(nodes[node].ops)
        if not 0 <= op < count:
            raise ValueError(f"node {node} has ops 0..{count - 1}, got {op}")

    def largest_ops(self, node: MixedNode, top_k: int | None) -> list[tuple[int, Op]]:
        """Return the number of each kept op, and the op with its new share, in the old order."""
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        alpha = node.alpha.detach().double()
        order = torch.sort(alpha, descending=True, stable=True).indices.tolist()
        numbers = sorted(order[:top_k])
        tiny = torch.finfo(alpha.dtype).tiny  # a genotype's shares must be above 0
        shares = torch.softmax(alpha[numbers], 0).clamp_min(tiny).tolist()
        return [
            (number, Op(node.ops[number].combine, node.ops[number].activation, share, node.ops[number].own_projection))
            for number, share in zip(numbers, shares, strict=True)
        ]

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"{self.input_size}, {self.hidden_size}, backend={self.backend}"


def shares_of(core: Supernet) -> list[list[float]]:
    """Return the weights of each mixture of a supernet of any kind, in float64."""
    return [torch.softmax(alpha.detach().double(), 0).tolist() for alpha in core.alpha]
