"""The supernet of DARTS' recurrent cell: a DAG of states, each edge a softmax mixture of gated ops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Generator, Tensor, nn

from grownas.backbones.mixture import Blend, Mixture, OfEdges, check_no_blend, check_no_skip
from grownas.cells import backends, chain, dag_supernet
from grownas.cells.cell import GrownRNN
from grownas.cells.dag import gate_and_op
from grownas.cells.dag_plan import DagPlan, DagTensors
from grownas.cells.node import write_parameters
from grownas.errors import GenotypeError
from grownas.genotype import GATED, NONE, DagGenotype, DagNode
from grownas.ops import ACTIVATION

DEFAULT_ACTIVATIONS = (NONE, "tanh", "relu", "sigmoid", "identity")  # in the order of the published code
MOMENTUM = 0.1  # of running moments, as `nn.BatchNorm1d` has it
EdgeReduction = Literal["sum", "mean"]
DagOpLike = str | tuple[str, str]  # an activation or "none", alone or after "gated"


class MixedEdge(Mixture):
    """The mixture of a DAG's edge: its ops are activations, or "none"."""

    def __init__(self, ops: Sequence[DagOpLike]) -> None:
        """Store the ops.

        Raises:
            GenotypeError: the list is empty, or an op is unknown.
        """
        super().__init__([_activation(op) for op in ops])


class MixedDagNode(nn.Module):
    """A node: it projects each earlier state with the same weights and combines the outputs of its edges.

    Attributes:
        W_h: shape `(H, 2H)`; the columns are the gate's, then the op's.
        edges: one for each earlier state, the input node's first.
        blend: how far the node counts in the mean that is h_t, see `DagBackbone.blend`; None for a plain node.
    """

    blend: Tensor | None

    def __init__(
        self, hidden_size: int, edges: Sequence[Sequence[DagOpLike]], *, generator: Generator | None = None
    ) -> None:
        """Draw the weights.

        Args:
            hidden_size: H.
            edges: the ops of each edge.
            generator: draws the weights.

        Raises:
            GenotypeError: an op is unknown, an edge has none, or all are "none".
        """
        super().__init__()
        self.W_h = nn.Parameter(_drawn(hidden_size, hidden_size, generator))
        self.edges = nn.ModuleList(MixedEdge(ops) for ops in edges)
        if all(edge.best() is None for edge in self.mixed_edges()):
            raise GenotypeError(f"a node needs an op other than {NONE!r} on at least one edge")
        self.register_buffer("blend", None)

    def mixed_edges(self) -> list[MixedEdge]:
        """Return the edges as a list."""
        return cast("list[MixedEdge]", list(self.edges))

    def set_blend(self, blend: float) -> None:
        """Let the node count in h_t as far as `blend` says; 1 makes it a plain node.

        Raises:
            ValueError: `blend` does not lie in [0, 1], or is below 1 for the first node.
        """
        if not 0 <= blend <= 1:
            raise ValueError(f"blend must lie between 0 and 1, got {blend}")
        if blend < 1 and len(self.edges) == 1:
            raise ValueError(f"the first node of a dag has no earlier nodes to blend with, got blend {blend}")
        self.blend = None if blend == 1 else self.W_h.new_tensor(blend)


class DagBackbone(OfEdges):
    """The DAG supernet, the search cell of DARTS; it offers what `Backbone` offers, see `protocols.Supernet`.

    The input node, number 0, reads `x_t` and `h_(t-1)`. Node i = 1..N reads every earlier state: each edge is a mixture
    of ops that share the node's weights, and its state is the sum or the mean over its edges. `h_t` is the mean of the
    nodes' states. `cells.dag_supernet` has the formulas; with `edge_reduction="mean"` a node's shares are divided by
    the number of its edges.

    Args:
        input_size: I.
        hidden_size: H.
        nodes: N, without the input node.
        ops: the ops of every edge: activations or "none", alone or as `("gated", activation)`; by default `none`,
            `tanh`, `relu`, `sigmoid`, `identity`.
        norm: normalise every state, without a learned scale or bias: in training over the batch, in evaluation by
            running moments of mean and variance, cut to the range of a batch (see below). Each state has moments of its
            own, where DARTS' code has one set for all. They are saved; a derived cell has none.
        edge_reduction: how a node combines its edges: "sum" as published, or "mean". A sum's scale grows with every
            node, so that many nodes overflow without `norm`; a mean has the scale of the derived cell.
        generator: draws the weights.
        backend: see `GrownRNN`.

    A state that is normalised over B streams lies within +-sqrt(B - 1). Running moments have no such limit: a single
    large input moves the state to values that training never reached, from which identity, relu and the states that
    pass the gates grow from step to step until they overflow. So evaluation cuts a state to +-sqrt(B - 1), where B is
    the largest number of streams in a training pass so far. The published code has no limit. Like it, we take no
    moments over the streams of an evaluation: a forecast would depend on other streams, hence on later rows, and the
    variance of a single stream is 0.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS: Differentiable Architecture Search; code in quark0/darts.
    """

    moments: Tensor | None
    limit: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nodes: int = 8,
        ops: Sequence[DagOpLike] | None = None,
        *,
        norm: bool = False,
        edge_reduction: EdgeReduction = "sum",
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> None:
        """See the class."""
        super().__init__()
        chain.check_sizes(input_size=input_size, hidden_size=hidden_size, nodes=nodes)
        if edge_reduction not in get_args(EdgeReduction):
            raise ValueError(f"edge_reduction must be 'sum' or 'mean', got {edge_reduction!r}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.norm, self.edge_reduction = norm, edge_reduction
        self.backend = backends.check_name(backend)
        self.W_x = nn.Parameter(_drawn(input_size, hidden_size, generator))
        self.W_h = nn.Parameter(_drawn(hidden_size, hidden_size, generator))
        own = DEFAULT_ACTIVATIONS if ops is None else ops
        self.nodes = nn.ModuleList(self.new_node([own] * number, generator) for number in range(1, nodes + 1))
        self._make_moments()

    @classmethod
    def from_ops(
        cls,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Sequence[DagOpLike]],
        *,
        norm: bool = False,
        edge_reduction: EdgeReduction = "sum",
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> DagBackbone:
        """Build a backbone from each node's ops, which all edges of the node get."""
        edges = [own for number, own in enumerate(ops, start=1) for _ in range(number)]
        return cls.from_edges(
            input_size, hidden_size, edges,
            norm=norm, edge_reduction=edge_reduction, generator=generator, backend=backend,
        )  # fmt: skip

    @classmethod
    def from_edges(
        cls,
        input_size: int,
        hidden_size: int,
        ops: Sequence[Sequence[DagOpLike]],
        *,
        norm: bool = False,
        edge_reduction: EdgeReduction = "sum",
        generator: Generator | None = None,
        backend: str = "auto",
    ) -> DagBackbone:
        """Build a backbone from each edge's ops, in the order of `edges`.

        Raises:
            ValueError: there are too few or too many for any number of nodes.
        """
        nodes = math.isqrt(2 * len(ops))
        if not ops or len(ops) != nodes * (nodes + 1) // 2:
            raise ValueError(f"a dag of N nodes has N (N + 1) / 2 edges: 1, 3, 6, 10, ..; got the ops of {len(ops)}")
        backbone = cls(
            input_size, hidden_size, 1, ops[0],
            norm=norm, edge_reduction=edge_reduction, generator=generator, backend=backend,
        )  # fmt: skip
        for number in range(2, nodes + 1):
            first = number * (number - 1) // 2
            backbone.nodes.append(backbone.new_node(ops[first : first + number], generator))
        backbone._make_moments()
        return backbone

    def new_node(self, edges: Sequence[Sequence[DagOpLike]], generator: Generator | None = None) -> MixedDagNode:
        """Return a node of this backbone's size that is not part of it; `edges` are the ops of each of its edges."""
        return MixedDagNode(self.hidden_size, edges, generator=generator)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `(T, B, I)` and a state `(1, B, H)`, zeros if None, to states `(T, B, H)` and the last `(1, B, H)`.

        Both results have the weights' dtype; under CUDA autocast they have autocast's dtype, see `chain.run`. In
        training with `norm`, the running moments are updated.

        Raises:
            TypeError: `x` or `h_0` is not a tensor.
            ValueError: a shape does not fit, or a batch of one stream is to be normalised.
        """
        chain.check_types(x, h_0)
        state = chain.check_input(x, h_0, input_size=self.input_size, layers=1, hidden_size=self.hidden_size)[0]
        if self.norm and self.training and x.shape[1] < 2:
            raise ValueError(
                f"norm=True takes each state's variance over the batch in training, which needs 2 streams or more, got "
                f"{x.shape[1]}; train on more streams, call eval(), or build the backbone with norm=False"
            )
        out, seen = dag_supernet.run_on(self.backend, self.plan, self._tensors(), x, state)
        if seen is not None:
            self._follow(seen, x.shape[1])
        return out, out[-1:].clone()  # a copy: a kept last state does not keep all steps in memory

    @property
    def plan(self) -> DagPlan:
        """The layout of the present computation: each edge's ops, and how states are normalised."""
        norm = ("batch" if self.training else "running") if self.norm else "none"
        return DagPlan(tuple(edge.ops for edge in self.mixed_edges()), norm)

    def _tensors(self) -> DagTensors:
        nodes, shares = self.mixed_nodes(), self.shares
        if self.edge_reduction == "mean":
            shares = [own / node for own, (node, _) in zip(shares, self.edges, strict=True)]
        return DagTensors(
            W_x=self.W_x,
            W_h=torch.stack([self.W_h, *(node.W_h for node in nodes)]),
            shares=torch.cat(shares),
            mean=self._mean(len(nodes)),
            skip=self.skip,
            moments=None if self.moments is None or self.training else self.moments.clone(),  # they move in place
            limit=None if self.limit is None or self.training else self.limit.clone(),
        )

    def _mean(self, count: int) -> Tensor:
        """Return the weights of the states in the mean over the first `count` nodes, shape `(count + 1,)`."""
        plain = self.W_x.new_full((count + 1,), 1 / count)
        plain[0] = 0  # the input node's
        m = self.mixed_nodes()[count - 1].blend
        return plain if m is None else (1 - m) * nn.functional.pad(self._mean(count - 1), (0, 1)) + m * plain

    @torch.no_grad()
    def _follow(self, seen: Tensor, batch: int) -> None:
        """Update the running moments by those of a sequence, `(T, 2, N + 1, H)`, step by step, and raise the limit.

        As in `nn.BatchNorm1d`, the running variance is the unbiased one: divided by the batch size minus 1.
        """
        assert self.moments is not None
        assert self.limit is not None
        self.limit.clamp_(min=math.sqrt(batch - 1))
        ages = torch.arange(len(seen) - 1, -1, -1, dtype=self.moments.dtype, device=self.moments.device)
        moved = torch.einsum("t,tsnh->snh", MOMENTUM * (1 - MOMENTUM) ** ages, seen.to(self.moments))
        moved[1] *= batch / (batch - 1)
        self.moments.mul_((1 - MOMENTUM) ** len(seen)).add_(moved)

    def _make_moments(self) -> None:
        """Begin with mean 0, variance 1 and the limit of 2 streams, where states are normalised."""
        shape = (len(self.nodes) + 1, self.hidden_size)
        moments = torch.stack([self.W_x.new_zeros(shape), self.W_x.new_ones(shape)]).detach() if self.norm else None
        self.register_buffer("moments", moments)
        self.register_buffer("limit", self.W_x.new_ones(()).detach() if self.norm else None)

    @property
    def chosen_backend(self) -> str:
        """Name of the backend that runs this DAG on its present device and in its dtype."""
        return backends.choose_dag_supernet(self.backend, self.plan, self.W_x)

    def mixed_nodes(self) -> list[MixedDagNode]:
        """Return the nodes as a list, without the input node."""
        return cast("list[MixedDagNode]", list(self.nodes))

    def mixed_edges(self) -> list[MixedEdge]:
        """Return the edges in the order of `edges`."""
        return [edge for node in self.mixed_nodes() for edge in node.mixed_edges()]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Node and source of each edge: (1, 0), (2, 0), (2, 1), (3, 0), and so on; the input node's state is 0."""
        return [(node, source) for node in range(1, len(self.nodes) + 1) for source in range(node)]

    @property
    def blend(self) -> list[float]:
        """How far each node counts in h_t, in [0, 1]; 1 for a plain node. Assign a list, or one of its items.

        With m of the last node, h_t is `(1 - m) mean(s_1..s_(N-1)) + m mean(s_1..s_N)`, so that a new node changes
        nothing at m = 0. An earlier node's m weighs the mean of the nodes up to it likewise; those after it read its
        state whatever its m is. The first node's is always 1.
        """
        return Blend(self.mixed_nodes())

    @blend.setter
    def blend(self, values: Sequence[float]) -> None:
        Blend(self.mixed_nodes()).assign(values)

    def op_names(self, edge: int) -> list[tuple[str, str]]:
        """Return an edge's ops as `("gated", activation)`, "none" among the activations, in the order of alpha."""
        return [(GATED, op) for op in self.mixed_edges()[edge].ops]

    def op_parameters(self, node: int, op: int = 0) -> dict[str, Tensor]:
        """Return live views of a node's weights: gate_h, W_h (H, H); of the input node, 0, also gate_x, W_x (I, H).

        All ops of all edges of a node share them.

        Raises:
            IndexError: there is no such node or op.
        """
        last = len(self.nodes)
        if not 0 <= node <= last:
            raise IndexError(f"a dag of {last} node(s) has nodes 0..{last}, 0 the input's; got node {node}")
        ops = max(len(edge.ops) for edge in self.mixed_nodes()[node - 1].mixed_edges()) if node else 1
        if not 0 <= op < ops:
            raise IndexError(f"node {node} has ops 0..{ops - 1}, got {op}")
        return gate_and_op(self.mixed_nodes()[node - 1].W_h, None) if node else gate_and_op(self.W_h, self.W_x)

    def load_op_parameters(self, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of a node's weights.

        Raises:
            IndexError: there is no such node or op.
            ValueError: a name or a shape does not fit.
        """
        write_parameters(f"node {node}", self.op_parameters(node, op), values)

    def genotype(self, top_k: int | None = 1) -> DagGenotype:
        """Read out for each node the edge with the op of largest share, "none" left out, and that op.

        Of equal shares the first is taken. `top_k` is ignored, because a derived DAG has one op per node; so is
        `blend`.
        """
        return DagGenotype(tuple(_read_out(node) for node in self.mixed_nodes()))

    def derive(self, top_k: int | None = None) -> GrownRNN:
        """Return the derived cell, see `genotype`, with this backbone's weights.

        It computes something else than the supernet: each node reads one state through one op, and no state is
        normalised.

        Raises:
            ValueError: a node's blend is below 1, or there is a skip.
        """
        check_no_skip(self._skip)
        check_no_blend(self.blend, first=1)
        cell = GrownRNN(self.genotype(top_k), self.input_size, self.hidden_size, backend=self.backend)
        cell.to(self.W_x)
        for node in range(len(self.nodes) + 1):
            cell.load_op_parameters(0, node, 0, self.op_parameters(node))
        return cell

    def extra_repr(self) -> str:
        """Return sizes for printing."""
        return (
            f"{self.input_size}, {self.hidden_size}, norm={self.norm}, "
            f"edge_reduction={self.edge_reduction}, backend={self.backend}"
        )


def _read_out(node: MixedDagNode) -> DagNode:
    found = [(*best, source) for source, edge in enumerate(node.mixed_edges()) if (best := edge.best())]
    _, activation, source = max(found, key=lambda one: one[0])  # of equal shares the first
    return DagNode(source, activation)


def _activation(op: DagOpLike) -> str:
    """Return an op's activation, or "none".

    Raises:
        GenotypeError: it is unknown.
    """
    combine, name = (GATED, op) if isinstance(op, str) else op
    if combine != GATED or not (name == NONE or name in ACTIVATION):
        raise GenotypeError(
            f"unknown op {combine}/{name!r} of a dag; expected {GATED} and {NONE}|{'|'.join(ACTIVATION)}"
        )
    return name


def _drawn(rows: int, hidden_size: int, generator: Generator | None) -> Tensor:
    """Return weights `(rows, 2H)` from U(-1/sqrt(H), 1/sqrt(H)), as a derived cell's are drawn."""
    bound = 1 / math.sqrt(hidden_size)
    return torch.empty(rows, 2 * hidden_size).uniform_(-bound, bound, generator=generator)
