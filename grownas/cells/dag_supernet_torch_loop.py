"""The time loop of the DAG supernet in PyTorch calls: on any device, for any activation. See `dag_supernet_sequence`.

The backward multiplies by what it prepares for all steps at once, as `torch_loop` does:

    before    M_i = [c (1 - c) (M - P s_j) | c sum_k p_k o_k'], through = P (1 - c) + skip       pointwise
    loop      A_t := G_t M_t                                              G_t the gradient of s_i before norm
              gradients of all s_j += through G_t + A_t W_h^T             two calls
    after     the shares' gradients, from A as it was and all G
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from grownas.cells import torch_loop
from grownas.cells.dag_plan import EPSILON, NONE, DagPlan, DagTensors
from grownas.cells.dag_supernet_sequence import SupernetBuffers, SupernetLoop
from grownas.ops import ACTIVATION


class _Group(NamedTuple):
    """Edges of a node that mix the same op: each edge at most once.

    Attributes:
        op: its name.
        edges: their numbers within the node, None for all of them in order.
        places: of its shares.
    """

    op: str
    edges: Tensor | None
    places: Tensor


@functools.lru_cache
def _groups(plan: DagPlan, device: torch.device) -> list[list[_Group]]:
    """Return the ops of each node."""
    starts = [0, *itertools.accumulate(map(len, plan.ops))]
    nodes = []
    for i in range(1, plan.nodes + 1):
        found: dict[tuple[str, int], list[tuple[int, int]]] = {}  # an op's n-th time on an edge -> edges, places
        first = plan.edges(i).start
        for edge, ops in enumerate(plan.ops[plan.edges(i)]):
            for number, op in enumerate(ops):
                if op != NONE:
                    times = ops[:number].count(op)
                    found.setdefault((op, times), []).append((edge, starts[first + edge] + number))
        with torch.inference_mode(False):  # they are kept, and autograd takes nothing that was made in it
            nodes.append(
                [
                    _Group(
                        op,
                        None if len(pairs) == i else torch.tensor([edge for edge, _ in pairs], device=device),
                        torch.tensor([place for _, place in pairs], device=device),
                    )
                    for (op, _), pairs in found.items()
                ]
            )
    return nodes


class _Node:
    """A node's ops and shares, and what they make of its products `(.., i, B, 2H)` and sources `(.., i, B, H)`."""

    def __init__(self, i: int, groups: list[_Group], tensors: DagTensors) -> None:
        self.groups, self.skip = groups, tensors.skip
        self.shares = [tensors.shares[group.places].view(-1, 1, 1) for group in groups]
        self.total = tensors.shares.new_zeros(i, 1, 1)  # P of each edge
        for group, shares in zip(groups, self.shares, strict=True):
            _add(self.total, group, shares)

    def mix(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Return c and M of each edge."""
        gate, z = A.chunk(2, -1)
        mixed = torch.zeros_like(z)
        for group, shares in zip(self.groups, self.shares, strict=True):
            _add(mixed, group, shares * ACTIVATION[group.op].f(_rows(z, group)))
        return torch.sigmoid(gate), mixed

    def output(self, A: Tensor, s: Tensor) -> Tensor:
        """Return the node's sum, `(B, H)`."""
        gate, mixed = self.mix(A)
        return torch.addcmul((self.total + self.skip) * s, gate, mixed - self.total * s).sum(0)

    def prepare(self, A: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return what G is to be multiplied by for the gradient of A, and for that of s past the products."""
        gate, mixed = self.mix(A)
        closed, z = 1 - gate, A.chunk(2, -1)[1]
        slope = torch.zeros_like(z)
        for group, shares in zip(self.groups, self.shares, strict=True):
            own, activation = _rows(z, group), ACTIVATION[group.op]
            _add(slope, group, shares * activation.df(activation.f(own), own))
        through = self.total * closed + self.skip
        return torch.cat([gate * closed * (mixed - self.total * s), gate * slope], -1), through

    def add_dshares(self, A: Tensor, s: Tensor, G: Tensor, dshares: Tensor) -> None:
        """Add the gradients of the shares, from G `(T, B, H)`."""
        gate, z = A.chunk(2, -1)
        gate = torch.sigmoid(gate)
        G = G.unsqueeze(1)
        common = (G * (1 - gate) * s).sum((0, 2, 3))
        passed = G * gate
        for group in self.groups:
            y = ACTIVATION[group.op].f(_rows(z, group))
            own = common if group.edges is None else common[group.edges]
            dshares[group.places] = own + (_rows(passed, group) * y).sum((0, 2, 3))


def _rows(of: Tensor, group: _Group) -> Tensor:
    return of if group.edges is None else of.index_select(-3, group.edges)


def _add(to: Tensor, group: _Group, value: Tensor) -> None:
    if group.edges is None:
        to += value
    else:
        to.index_add_(-3, group.edges, value)


def forward(plan: DagPlan, tensors: DagTensors, buffers: SupernetBuffers, h_0: Tensor) -> None:
    """Run the loop forward; see `SupernetLoop`."""
    (T, B, H), kept, N = buffers.out.shape, len(buffers.states), plan.nodes
    picked = tensors.mean.nonzero().flatten()  # without the others, a state of no weight changes no bit
    weight = tensors.mean[picked]
    nodes = [_Node(i, own, tensors) for i, own in enumerate(_groups(plan, h_0.device), 1)]
    products, W_h = buffers.products(), tensors.W_h.unbind()
    h = h_0
    for t in range(T):
        k = t if kept == T else 0
        states = buffers.states[k]
        gate, z = buffers.A_0[t].addmm_(h, W_h[0]).chunk(2, -1)
        _put(plan, tensors, buffers, t, 0, torch.lerp(h, torch.tanh(z), torch.sigmoid(gate)), states)
        for i, node in enumerate(nodes, 1):
            A, s = products[i - 1][k], states[:i]
            torch.mm(s.view(i * B, H), W_h[i], out=A.view(i * B, 2 * H))
            _put(plan, tensors, buffers, t, i, node.output(A, s), states)
        rows = states.view(N + 1, B * H).index_select(0, picked)
        h = torch.mv(rows.t(), weight, out=buffers.out[t].view(B * H)).view(B, H)


def _put(
    plan: DagPlan, tensors: DagTensors, buffers: SupernetBuffers, t: int, i: int, s: Tensor, states: Tensor
) -> None:
    """Write state i, normalised."""
    if plan.norm == "batch":
        assert buffers.moments is not None
        variance, mean = torch.var_mean(s, 0, correction=0)
        buffers.moments[t, 0, i], buffers.moments[t, 1, i] = mean, variance
    elif plan.norm == "running":
        assert tensors.moments is not None
        mean, variance = tensors.moments[:, i]
    states[i] = s if plan.norm == "none" else (s - mean) * torch.rsqrt(variance + EPSILON)
    if plan.norm == "running" and tensors.limit is not None:
        states[i].clamp_(-tensors.limit, tensors.limit)


def backward(
    plan: DagPlan, tensors: DagTensors, buffers: SupernetBuffers, h_0: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the loop backward; see `SupernetLoop`."""
    (T, B, H), N = buffers.out.shape, plan.nodes
    nodes = [_Node(i, own, tensors) for i, own in enumerate(_groups(plan, h_0.device), 1)]
    products, states = buffers.products(), buffers.states
    kept = [A.clone() for A in products]  # for the shares
    through = [torch.empty(0)]
    for i, (node, A) in enumerate(zip(nodes, products, strict=True), 1):
        multiplier, past = node.prepare(A, states[:, :i])
        A.copy_(multiplier)
        through.append(past)
    before = torch.cat([h_0.unsqueeze(0), buffers.out[:-1]])
    through[0] = _prepare_input(buffers.A_0, before)
    scale = None if plan.norm == "none" else torch.rsqrt(_variances(tensors, buffers) + EPSILON)  # (T or 1, N + 1, H)
    transposed = tensors.W_h.transpose(1, 2).unbind()
    G = torch.empty_like(states)
    carried = torch.zeros_like(h_0)
    for t in range(T - 1, -1, -1):
        g = tensors.mean.view(-1, 1, 1) * (carried + grad[t])
        for i in range(N, -1, -1):
            own = g[i]
            if scale is not None:
                own = _before_norm(plan, tensors, own, states[t, i], scale[t if len(scale) == T else 0, i])
            G[t, i] = own
            A = products[i - 1][t] if i else buffers.A_0[t]
            A.view(max(i, 1), B, 2, H).mul_(own.unsqueeze(1))
            if i:
                g[:i].addcmul_(through[i][t], own).view(i * B, H).addmm_(A.view(i * B, 2 * H), transposed[i])
            else:
                carried = torch.addmm(own * through[0][t], A, transposed[0])
    dshares = torch.zeros_like(tensors.shares)
    for i, (node, A) in enumerate(zip(nodes, kept, strict=True), 1):
        node.add_dshares(A, states[:, :i], G[:, i], dshares)
    return carried, dshares


def _prepare_input(A_0: Tensor, before: Tensor) -> Tensor:
    """Put into A_0, for all steps, what the gradient of s_0 is to be multiplied by; return 1 - c."""
    gate, z = A_0.chunk(2, -1)
    open_, y = torch.sigmoid(gate), torch.tanh(z)
    closed = 1 - open_
    A_0.copy_(torch.cat([open_ * closed * (y - before), open_ * (1 - y * y)], -1))
    return closed


def _variances(tensors: DagTensors, buffers: SupernetBuffers) -> Tensor:
    if buffers.moments is not None:
        return buffers.moments[:, 1]
    assert tensors.moments is not None
    return tensors.moments[1:]


def _before_norm(plan: DagPlan, tensors: DagTensors, g: Tensor, s: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of a state before it was normalised, from that of the normalised state s."""
    if plan.norm == "running":
        return g * scale if tensors.limit is None else g * scale * (s.abs() < tensors.limit)
    return scale * (g - g.mean(0) - s * (g * s).mean(0))


LOOP = SupernetLoop("torch", forward, backward, torch_loop.multiply)
