"""The time loop of a chain in PyTorch calls, for any device and activation. `sequence` explains the data.

The number of calls per step decides the speed, so the backward pass first computes its factors for all steps at once:

    before    F = w phi'(Y), M_s = [F | F p], M_x = [F | F q]        pointwise
    loop      g = g' + (g M_s,t) W_h^T                               three calls per node: only this is recurrent
    after     gradients of A and Q: G M_x and G M_s                  G: gradient of each step's output
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grownas.cells.plan import Plan
from grownas.cells.sequence import Buffers, Loop, NodeGradients, Packed, columns, node_inputs
from grownas.ops import ACTIVATION


def forward(plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor) -> None:
    """Run the loop forward; see `Loop`."""
    steps = [
        _stepper(plan, node, buffers, number, place)
        for number, (plan, node, place) in enumerate(zip(plans, packed, columns(plans, h_0.shape[1]), strict=True))
    ]
    s = h_0
    for t in range(len(buffers.A)):
        for step in steps:
            s = step(t, s)


def backward(
    plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor, grad: Tensor
) -> tuple[Tensor, list[NodeGradients]]:
    """Run the loop backward; see `Loop`."""
    places = columns(plans, h_0.shape[1])
    inputs = node_inputs(buffers, h_0)
    multipliers = [
        _multipliers(plan, node, _blocks(buffers, place, h_0.shape[1]), mixed, s)
        for plan, node, place, mixed, s in zip(plans, packed, places, buffers.mixed, inputs, strict=True)
    ]
    gradients = [torch.empty_like(states) for states in buffers.states]  # G
    transposed = [node.W_h.flatten(1).t() for node in packed]
    g = torch.zeros_like(h_0)
    for t in range(len(grad) - 1, -1, -1):
        g = g + grad[t]
        for j in range(len(plans) - 1, -1, -1):
            gradients[j][t] = g
            carried = (g.unsqueeze(1) * multipliers[j].to_s[t]).flatten(1) @ transposed[j]
            through = multipliers[j].through
            g = carried if through is None else torch.addcmul(carried, g, through[t])
    return g, [
        _finish(plan, m, G.unsqueeze(2), _blocks(buffers, place, h_0.shape[1]))
        for plan, m, G, place in zip(plans, multipliers, gradients, places, strict=True)
    ]


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a matrix product; see `Loop`."""
    torch.mm(a, b, out=out)


LOOP = Loop("torch", forward, backward, multiply)


class _Blocks(NamedTuple):
    """A node's part of A and Q as `(T, B, blocks, H)`."""

    A: Tensor
    Q: Tensor | None


class _Multipliers(NamedTuple):
    """Factors of a node's output gradient in the backward pass, at all steps."""

    to_s: Tensor  # M_s, (T, B, P, H)
    to_x: Tensor  # M_x, (T, B, P, H)
    bias_x: Tensor  # (T, B, K, H)
    bias_h: Tensor  # (T, B, Kh, H)
    value: Tensor  # each op's output times the gate, (T, B, K, H)
    through: Tensor | None  # 1 - gate, (T, B, H)


def _blocks(buffers: Buffers, place: tuple[slice, slice], H: int) -> _Blocks:
    in_A, in_Q = place
    A, Q = buffers.A[..., in_A], None if buffers.Q is None else buffers.Q[..., in_Q]
    T, B, _ = A.shape
    return _Blocks(A.view(T, B, A.shape[2] // H, H), None if Q is None else Q.view(T, B, Q.shape[2] // H, H))


def _per_op(blocks: Tensor, projection: Sequence[int], dim: int) -> Tensor:
    """Return the block of each op, from the blocks of the projections."""
    if list(projection) == list(range(blocks.shape[dim])):
        return blocks
    return blocks.index_select(dim, torch.tensor(projection, device=blocks.device))


def _per_projection(ops: Tensor, projection: Sequence[int]) -> Tensor:
    """Return for each projection the sum over its ops; `ops` has shape `(T, B, ops, H)`."""
    if list(projection) == list(range(ops.shape[2])):
        return ops
    index = torch.tensor(projection, device=ops.device)
    T, B, _, H = ops.shape
    return ops.new_zeros(T, B, max(projection) + 1, H).index_add_(2, index, ops)


def _stepper(
    plan: Plan, node: Packed, buffers: Buffers, number: int, place: tuple[slice, slice]
) -> Callable[[int, Tensor], Tensor]:
    """Return the function that computes a node's output at step t from its input s, both `(B, H)`."""
    _, B, H = buffers.states[number].shape
    A, Q = _blocks(buffers, place, H)
    a, summed = plan.additive, plan.summed
    additive, hadamard = plan.projection[:a], plan.projection[a:]
    W_h, weights = node.W_h.flatten(1), node.shares.expand(B, 1, len(plan.order))
    functions = [(ACTIVATION[name].f, start, stop) for name, start, stop in plan.runs]
    p = _per_op(A[:, :, summed:], hadamard, 2) + node.b_x[a:]
    states, mixed = buffers.states[number], buffers.mixed[number]

    def step(t: int, s: Tensor) -> Tensor:
        u = (s @ W_h).view(B, plan.blocks, H)
        A[t, :, :summed] += u[:, :summed]
        if Q is not None:
            Q[t] = u[:, summed:]
        z = _per_op(A[t, :, : plan.additive_projections], additive, 1) + node.b_x[:a]
        if hadamard:
            z = torch.cat([z, p[t] * (_per_op(u[:, summed:], hadamard, 1) + node.b_h)], 1)
        y = torch.cat([f(z[:, start:stop]) for f, start, stop in functions], 1)
        mixture = torch.bmm(weights, y).squeeze(1)
        if mixed is not None:
            mixed[t] = mixture
        states[t] = torch.lerp(s, mixture, torch.sigmoid(A[t, :, summed - 1])) if plan.gate else mixture
        return states[t]

    return step


def _multipliers(plan: Plan, node: Packed, blocks: _Blocks, mixed: Tensor | None, s: Tensor) -> _Multipliers:
    A, Q = blocks
    assert Q is not None
    a, summed = plan.additive, plan.summed
    additive, hadamard = plan.projection[:a], plan.projection[a:]
    z = _per_op(A[:, :, : plan.additive_projections], additive, 2) + node.b_x[:a]
    p = _per_op(A[:, :, summed:], hadamard, 2) + node.b_x[a:]
    q = _per_op(Q, hadamard, 2) + node.b_h
    z = torch.cat([z, p * q], 2)
    y = torch.cat([ACTIVATION[name].f(z[:, :, i:j]) for name, i, j in plan.runs], 2)
    slopes = torch.cat([ACTIVATION[name].df(y[:, :, i:j], z[:, :, i:j]) for name, i, j in plan.runs], 2)
    slopes = slopes * node.shares.view(-1, 1)
    through, gates = None, []
    if mixed is not None:
        gate = torch.sigmoid(A[:, :, summed - 1])
        slopes, y = slopes * gate.unsqueeze(2), y * gate.unsqueeze(2)
        gates = [((mixed - s) * gate * (1 - gate)).unsqueeze(2)]
        through = 1 - gate
    own, to_x, to_s = slopes[:, :, :a], slopes[:, :, a:] * q, slopes[:, :, a:] * p
    summed_ops = [_per_projection(own, additive), *gates]
    return _Multipliers(
        torch.cat([*summed_ops, _per_projection(to_s, hadamard)], 2),
        torch.cat([*summed_ops, _per_projection(to_x, hadamard)], 2),
        torch.cat([own, to_x], 2),
        to_s,
        y,
        through,
    )


def _finish(plan: Plan, m: _Multipliers, G: Tensor, blocks: _Blocks) -> NodeGradients:
    """Write a node's gradients of A and Q into these buffers; return the others. G is `(T, B, 1, H)`."""
    torch.mul(G, m.to_x, out=blocks.A)
    assert blocks.Q is not None
    torch.mul(G, m.to_s[:, :, plan.summed :], out=blocks.Q)
    dshares = torch.einsum("tbh,tbkh->k", G.squeeze(2), m.value)
    return NodeGradients((G * m.bias_x).sum((0, 1)), (G * m.bias_h).sum((0, 1)), dshares)
