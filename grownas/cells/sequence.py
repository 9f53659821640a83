"""The sequence engine: a chain of nodes over all time steps, with a backward derived by hand.

Per node the ops lie side by side, additive ones first, each kind sorted by activation, so that a node costs one GEMM a
step and one call per activation. What does not depend on the state is hoisted out of the time loop:

    before    X = x [W_x of all ops, nodes, gates]            one GEMM for all steps
    forward   u_t = C_t + s_t W_h = [z_add | q]               C = X + b_x where additive, b_h where Hadamard
              y_t = phi([z_add | p_t * q]), s' = sum_k w_k y_k       p = X + b_x where Hadamard
    before    F = w phi'(Y), M_s = [F | F p], M_x = [F | F q]        pointwise, all steps at once
    backward  g = g' + (g M_s,t) W_h^T                        three small calls a step: nothing else is recurrent
    after     dW_h = S^T (G M_s), dW_x = x^T (G M_x), dx = (G M_x) W_x^T, biases and shares by sums

G holds the gradient of each node's output at each step. Under `highway` the gate is one more block of W_h with its own
multiplier; under `share_projection` the multipliers of ops that share a projection are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells.node import Node
from grownas.ops import ACTIVATION


class Plan(NamedTuple):
    """What of a node's layout does not change: the order in which the engine takes its ops.

    Attributes:
        order: op numbers, additive first, then by activation.
        additive: how many are additive.
        runs: `(activation, start, stop)` over the ordered ops.
        projection: each ordered op's projection, or None where each has its own (then projections are ordered too).
        highway: whether the node has a gate.
    """

    order: list[int]
    additive: int
    runs: list[tuple[str, int, int]]
    projection: list[int] | None
    highway: bool


class Packed(NamedTuple):
    """A node's tensors in the plan's order: W_x (I, P*H), W_h (H, P*H), each with the gate's block last if any."""

    W_x: Tensor
    W_h: Tensor
    b_x: Tensor  # (K, H)
    b_h: Tensor  # (Kh, H)
    shares: Tensor  # (K,)


class Kept(NamedTuple):
    """What the forward keeps of a node for its backward. Shapes `(T, B, ., H)`."""

    u: Tensor  # [z_add | q], K blocks
    y: Tensor  # K blocks
    p: Tensor  # Hadamard blocks
    s: Tensor  # the node's output, (T, B, H)
    gate: Tensor  # (T, B, H); empty without highway
    mixed: Tensor  # (T, B, H); empty without highway


def run(nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence; equals `reference.run`, which documents the arguments.

    Raises:
        RuntimeError: a second derivative is asked for; only the reference backend has one.
    """
    plans = [make_plan(node) for node in nodes]
    packed = [pack(node, weights, plan) for node, weights, plan in zip(nodes, shares, plans, strict=True)]
    states: Tensor = _Sequence.apply(  # type: ignore[no-untyped-call]
        plans, x, h_0, *(tensor for node in packed for tensor in node)
    )
    return states


def make_plan(node: Node) -> Plan:
    """Return the engine's order of a node's ops."""
    key = [(op.combine != "add", ACTIVATION[op.activation].code) for op in node.ops]
    order = sorted(range(len(node.ops)), key=lambda number: key[number])
    runs: list[tuple[str, int, int]] = []
    for place, number in enumerate(order):
        name = node.ops[number].activation
        if runs and runs[-1][0] == name and key[order[place - 1]] == key[number]:
            runs[-1] = (name, runs[-1][1], place + 1)
        else:
            runs.append((name, place, place + 1))
    own = node.W_x.shape[1] == len(order)
    projection = None if own else [node.projection[number] for number in order]
    return Plan(order, sum(not hadamard for hadamard, _ in key), runs, projection, node.highway)


def pack(node: Node, shares: Tensor, plan: Plan) -> Packed:
    """Bring a node's parameters into the plan's order, differentiably."""
    tensors: tuple[Tensor, ...] = (node.W_x, node.W_h, node.b_x, node.b_h)
    W_x, W_h, b_x, b_h = tensors
    if plan.order != list(range(len(plan.order))):
        order = torch.tensor(plan.order, device=W_x.device)
        rows = torch.tensor([node.bias[n] for n in plan.order if n in node.bias], device=W_x.device, dtype=torch.long)
        b_x, b_h, shares = b_x[order], b_h[rows], shares[order]
        if plan.projection is None:
            W_x, W_h = W_x[:, order], W_h[:, order]
    W_x, W_h = W_x.flatten(1), W_h.flatten(1)
    if plan.highway:
        W_x, W_h = torch.cat([W_x, node.gate_x], 1), torch.cat([W_h, node.gate_h], 1)
    return Packed(W_x, W_h, b_x, b_h, shares)


class _Sequence(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: Any, plans: list[Plan], x: Tensor, h_0: Tensor, *flat: Tensor) -> Tensor:
        packed = _grouped(flat, Packed)
        kept = _forward(plans, packed, x, h_0)
        ctx.plans = plans
        ctx.save_for_backward(x, h_0, *flat, *(tensor for node in kept for tensor in node))
        return kept[-1].s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, h_0, *flat = ctx.saved_tensors
        count = len(ctx.plans) * len(Packed._fields)
        packed, kept = _grouped(flat[:count], Packed), _grouped(flat[count:], Kept)
        with torch.no_grad(), _full_precision(x.device.type):
            results = _backward(ctx.plans, packed, kept, x, h_0, grad, needs_x=ctx.needs_input_grad[1])
        if torch.is_grad_enabled():  # create_graph
            results = list(_Last.apply(results, grad, x, h_0, *flat[:count]))  # type: ignore[no-untyped-call]
        return None, *results


class _Last(torch.autograd.Function):
    """Passes first derivatives on as functions of the engine's inputs, and refuses to derive them.

    `once_differentiable` ties them to the output's gradient only, so that others would seem not to matter.
    """

    @staticmethod
    def forward(ctx: Any, results: list[Tensor | None], *inputs: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("the sequence engine has no second derivative; build the model with backend='reference'")


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Keep a backward that runs under autocast in its forward's dtype, which `chain.run` sees to."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _grouped(flat: Sequence[Tensor], kind: Any) -> list[Any]:
    size = len(kind._fields)
    return [kind(*flat[i : i + size]) for i in range(0, len(flat), size)]


def _forward(plans: list[Plan], packed: list[Packed], x: Tensor, h_0: Tensor) -> list[Kept]:
    T, B, _ = x.shape
    projected = x.flatten(0, 1) @ torch.cat([node.W_x for node in packed], 1)
    parts = torch.split(projected, [node.W_x.shape[1] for node in packed], 1)
    steps, kept = [], []
    for plan, node, part in zip(plans, packed, parts, strict=True):
        fixed, buffers = _prepare(plan, node, part.view(T, B, part.shape[1]))
        steps.append(_stepper(plan, node, fixed, buffers))
        kept.append(buffers)
    s = h_0
    for t in range(T):
        for step in steps:
            s = step(t, s)
    return kept


def _prepare(plan: Plan, node: Packed, projected: Tensor) -> tuple[Tensor, Kept]:
    """Return C of the module's docstring, shape (T, B, K [+ gate], H), and the buffers that the loop fills."""
    T, B, _ = projected.shape
    K, H = node.b_x.shape
    a = plan.additive
    blocks = node.W_h.shape[1] // H
    from_x = projected.view(T, B, blocks, H)
    ops_from_x = from_x[:, :, :K] if plan.projection is None else from_x[:, :, plan.projection]
    p = ops_from_x[:, :, a:] + node.b_x[a:]
    fixed = projected.new_empty(T, B, K + plan.highway, H)
    torch.add(ops_from_x[:, :, :a], node.b_x[:a], out=fixed[:, :, :a])
    fixed[:, :, a:K] = node.b_h
    if plan.highway:
        fixed[:, :, K] = from_x[:, :, -1]
    u, y = torch.empty_like(fixed), projected.new_empty(T, B, K, H)
    s = projected.new_empty(T, B, H)
    gate, mixed = (projected.new_empty((T, B, H) if plan.highway else 0) for _ in range(2))
    return fixed, Kept(u, y, p, s, gate, mixed)


def _stepper(plan: Plan, node: Packed, fixed: Tensor, kept: Kept) -> Callable[[int, Tensor], Tensor]:
    """Return the function that takes a node over step t: from its input s to its output, both (B, H)."""
    _, B, K, H = kept.y.shape
    a = plan.additive
    weights = node.shares.expand(B, 1, K)
    functions = [(ACTIVATION[name].f, start, stop) for name, start, stop in plan.runs]
    index = None
    if plan.projection is not None:
        gate_block = [node.W_h.shape[1] // H - 1] if plan.highway else []
        index = torch.tensor([*plan.projection, *gate_block], device=fixed.device)

    def step(t: int, s: Tensor) -> Tensor:
        u = kept.u[t]
        if index is None:
            torch.addmm(fixed[t].flatten(1), s, node.W_h, out=u.flatten(1))
        else:
            torch.add((s @ node.W_h).view(B, node.W_h.shape[1] // H, H).index_select(1, index), fixed[t], out=u)
        z = u[:, :K] if a == K else torch.cat([u[:, :a], u[:, a:K] * kept.p[t]], 1)
        y = kept.y[t]
        torch.cat([f(z[:, start:stop]) for f, start, stop in functions], 1, out=y)
        if not plan.highway:
            torch.bmm(weights, y, out=kept.s[t].unsqueeze(1))
            return kept.s[t]
        torch.bmm(weights, y, out=kept.mixed[t].unsqueeze(1))
        torch.sigmoid(u[:, K], out=kept.gate[t])
        return torch.lerp(s, kept.mixed[t], kept.gate[t], out=kept.s[t])

    return step


def _backward(
    plans: list[Plan],
    packed: list[Packed],
    kept: list[Kept],
    x: Tensor,
    h_0: Tensor,
    grad: Tensor,
    *,
    needs_x: bool,
) -> list[Tensor | None]:
    T = len(grad)
    before = torch.cat([h_0.unsqueeze(0), kept[-1].s[:-1]])  # what node 1 reads
    inputs = [before, *(node.s for node in kept[:-1])]
    multipliers = [_multipliers(*one) for one in zip(plans, packed, kept, inputs, strict=True)]
    gradients = [torch.empty_like(node.s) for node in kept]  # G
    deltas = [torch.empty_like(m.to_s) for m in multipliers]  # G M_s
    transposed = [node.W_h.t() for node in packed]
    g = torch.zeros_like(h_0)
    for t in range(T - 1, -1, -1):
        g = g + grad[t]
        for j in range(len(packed) - 1, -1, -1):
            gradients[j][t] = g
            torch.mul(g.unsqueeze(1), multipliers[j].to_s[t], out=deltas[j][t])
            carried = deltas[j][t].flatten(1) @ transposed[j]
            g = torch.addcmul(carried, g, multipliers[j].through[t]) if plans[j].highway else carried
    results: list[Tensor] = []
    to_x = torch.cat(
        [(G.unsqueeze(2) * m.to_x).flatten(2) for G, m in zip(gradients, multipliers, strict=True)], 2
    ).flatten(0, 1)
    flat_x = x.flatten(0, 1)
    dW_x = torch.split(flat_x.t() @ to_x, [node.W_x.shape[1] for node in packed], 1)
    for j, m in enumerate(multipliers):
        dW_h = inputs[j].flatten(0, 1).t() @ deltas[j].flatten(0, 1).flatten(1)
        G = gradients[j].unsqueeze(2)
        db_x = (G * m.bias_x).sum((0, 1))
        db_h = (G * m.bias_h).sum((0, 1))
        through_mix = gradients[j] * kept[j].gate if plans[j].highway else gradients[j]
        dshares = torch.einsum("tbh,tbkh->k", through_mix, kept[j].y)
        results += [dW_x[j], dW_h, db_x, db_h, dshares]
    dx = (to_x @ torch.cat([node.W_x for node in packed], 1).t()).view_as(x) if needs_x else None
    return [dx, g, *results]


class _Multipliers(NamedTuple):
    """What a node's output gradient is multiplied by, at all steps, on its way back."""

    to_s: Tensor  # M_s, (T, B, P [+ gate], H)
    to_x: Tensor  # M_x, the same shape
    bias_x: Tensor  # (T, B, K, H)
    bias_h: Tensor  # (T, B, Kh, H)
    through: Tensor  # 1 - gate, (T, B, H); empty without highway


def _multipliers(plan: Plan, node: Packed, kept: Kept, s: Tensor) -> _Multipliers:
    K = kept.y.shape[2]
    a = plan.additive
    slopes = torch.cat([ACTIVATION[name].df(kept.y[:, :, i:j]) for name, i, j in plan.runs], 2)
    slopes *= node.shares.view(-1, 1)
    if plan.highway:
        slopes *= kept.gate.unsqueeze(2)
    hadamard = slopes[:, :, a:]
    to_s = torch.cat([slopes[:, :, :a], hadamard * kept.p], 2) if a < K else slopes
    to_x = torch.cat([slopes[:, :, :a], hadamard * kept.u[:, :, a:K]], 2) if a < K else slopes
    bias_x, bias_h = to_x, to_s[:, :, a:]
    if plan.projection is not None:
        to_s, to_x = (_sum_shared(tensor, plan.projection) for tensor in (to_s, to_x))
    through = kept.gate
    if plan.highway:
        block = ((kept.mixed - s) * kept.gate * (1 - kept.gate)).unsqueeze(2)
        to_s, to_x = torch.cat([to_s, block], 2), torch.cat([to_x, block], 2)
        through = 1 - kept.gate
    return _Multipliers(to_s.contiguous(), to_x, bias_x, bias_h, through)


def _sum_shared(tensor: Tensor, projection: list[int]) -> Tensor:
    T, B, _, H = tensor.shape
    index = torch.tensor(projection, device=tensor.device)
    return tensor.new_zeros(T, B, max(projection) + 1, H).index_add_(2, index, tensor)
