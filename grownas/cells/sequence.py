"""The sequence engine: a chain of nodes over all time steps, forward and backward, on any backend.

The weights of a node's ops lie side by side, additive ops first, so that a node needs one matrix product per step. All
work that does not depend on the state is outside the time loop. The computation for one node with the blocks
[additive | gate | Hadamard], each H columns wide:

    before      A = x W_x                 (T*B, blocks*H)    one product for all steps, nodes and ops
    forward     u = s W_h                 (B, blocks*H)      the loop: one product per node and step
                A_t[additive, gate] += u                     A now is the input of the activation, without b_x
                Q_t = u[Hadamard]         (B, ..)            the factor of A_t[Hadamard]; both without biases
                s' = sum_k w_k phi_k(.)                      highway: s + sigmoid(A_t[gate]) (s'- s)
                                                             -> the next node's s; the last node's s' is h_t
    backward    y, phi'(y) from A_t and Q_t                  recomputing them is cheaper than storing them
                A_t, Q_t := gradients of A_t and Q_t         in place, from g, the gradient of s'
                g = A_t[additive, gate] W_h^T + Q_t W_h^T    the gradient of s: the only other product in the loop
    after       dW_x = x^T A,  dx = A W_x^T                  one product for all steps, nodes and ops
                dW_h = S^T [A[additive, gate] | Q]           one product per node; S: s of all steps
                db_x, db_h, dw                               summed in the loop

Kept between forward and backward: A, Q and the nodes' outputs. That is 1.5 numbers per op, unit and step if half of the
ops are Hadamard ops, and 1/8 of a number for the outputs of nodes with eight ops. Under `share_projection` ops of one
kind share a block; the block's gradient is the sum of its ops' gradients.

A backend is a `Loop`: two functions that run the time loop over `Buffers`, forward and backward, and a matrix product.
Everything outside the loop is in this module. `torch_loop` implements the loop in PyTorch calls, `native_loop` in C,
`triton_loop` on a GPU; the tests compare all of them with `reference`. To add a backend, write a `Loop` and a line in
`backends.BACKENDS`. To add an activation, write a line in `ops.BUILT_IN`, or an entry point of another package. For
speed give it a code, write its value and slope in `native/kernels.h` and its name in `native/module.c`, and do the same
in `triton_pointwise`; without a code `torch_loop` runs the cells that use it. `operators` explains the use with
compilers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from grownas.cells.node import Node, Pull, Trace, Tracer
from grownas.cells.operators import NO_SECOND, Engine, define, is_symbolic, is_traced
from grownas.cells.plan import Plan, make_plan, read_plan
from grownas.genotype import Op
from grownas.modules import with_parameters


class Packed(NamedTuple):
    """A node's tensors in the plan's order. P blocks, K ops, Kh of them Hadamard ops."""

    W_x: Tensor  # (I, P, H)
    W_h: Tensor  # (H, P, H)
    b_x: Tensor  # (K, H)
    b_h: Tensor  # (Kh, H)
    shares: Tensor  # (K,)


class Buffers(NamedTuple):
    """The tensors that the loops read and write; see the module's docstring.

    Attributes:
        A: blocks of all nodes side by side, `(T, B, sum of P*H)`: x W_x before the forward loop, A as in the module's
            docstring after it, and the gradient of A after the backward loop.
        Q: Hadamard blocks of all nodes side by side, `(T, B, .)`; None if no backward pass follows.
        states: each node's output, `(T, B, H)`.
        mixed: under `highway` each node's mixture before the gate, `(T, B, H)`; None otherwise, or if no backward pass
            follows.
    """

    A: Tensor
    Q: Tensor | None
    states: list[Tensor]
    mixed: list[Tensor | None]


class NodeGradients(NamedTuple):
    """A node's gradients that the backward loop returns; the other gradients are in the buffers."""

    b_x: Tensor
    b_h: Tensor
    shares: Tensor


Pullback = Callable[[Tensor], list[Packed]]  # from the gradient of the states to those of each node's tensors


class Loop(NamedTuple):
    """A backend: the time loop forward and backward, and the matrix product used outside the loop.

    Attributes:
        name: name of the backend.
        forward: `(plans, packed, buffers, h_0)`; fills the buffers.
        backward: `(plans, packed, buffers, h_0, grad)`, grad `(T, B, H)` of the last node's states; replaces A and Q by
            their gradients; returns the gradient of h_0 `(B, H)` and each node's `NodeGradients`.
        multiply: `(a, b, out)`; writes a b into `out`. Each matrix may be transposed or a slice of a larger one.
    """

    name: str
    forward: Callable[[Sequence[Plan], Sequence[Packed], Buffers, Tensor], None]
    backward: Callable[[Sequence[Plan], Sequence[Packed], Buffers, Tensor, Tensor], tuple[Tensor, list[NodeGradients]]]
    multiply: Callable[[Tensor, Tensor, Tensor], object]


def run(loop: Loop, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence; equals `reference.run`, which documents the arguments.

    Raises:
        RuntimeError: dtypes or devices differ; or a second derivative is computed, which only the reference backend
            supports.
    """
    nodes, shares = _blended(nodes, shares)
    plans = [node.plan for node in nodes]
    packed = [pack(node, weights) for node, weights in zip(nodes, shares, strict=True)]
    flat = [x, h_0, *(tensor for node in packed for tensor in node)]
    check_alike(flat)
    if is_traced(flat):
        return _operator(flat, "\n".join([loop.name, *(plan.text for plan in plans)]))
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in flat)):
        return _forward(loop, plans, packed, x, h_0, keep=False).states[-1]
    states: Tensor = _Sequence.apply(loop, plans, *flat)  # type: ignore[no-untyped-call]
    return states


def check_alike(tensors: Sequence[Tensor]) -> None:
    """Raise RuntimeError if the tensors of an engine have different dtypes or are on different devices.

    C code reads memory by address, so a tensor of another device would end the process.
    """
    for name, values in (("dtype", {one.dtype for one in tensors}), ("device", {one.device for one in tensors})):
        if len(values) > 1:
            names = " and ".join(sorted(map(str, values)))
            raise RuntimeError(f"inputs, states and weights must have the same {name}, got {names}")


def is_plain(nodes: Sequence[Node], x: Tensor, h_0: Tensor) -> bool:
    """Return whether `vjp` can run a chain of real numbers without gates, blends and skips, in the engine's order."""
    return (
        all(node.plan.is_natural and not node.plan.gate for node in nodes)
        and all(not node.is_blended and not node.is_quantised for node in nodes)
        and all(node.W_x.dtype == x.dtype == h_0.dtype for node in nodes)
        and not is_traced([x, h_0])
    )


def vjp(
    loop: Loop, nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor
) -> tuple[Tensor, Pullback] | None:
    """Return a chain's states over a sequence, and the function of their gradient, without autograd.

    On small models autograd takes longer than the loops. The results have the bits of `run`.

    Returns:
        The states, `(T, B, H)`, and a function from the loss's gradient by them, called once, to those of each node;
        None if the chain is not plain, see `is_plain`.
    """
    if not is_plain(nodes, x, h_0):
        return None
    plans = [node.plan for node in nodes]
    packed = [Packed(*node.tensors(), one) for node, one in zip(nodes, shares, strict=True)]
    with torch.no_grad():
        buffers = _forward(loop, plans, packed, x, h_0, keep=True)

    @torch.no_grad()
    def pull(grad: Tensor) -> list[Packed]:
        needed = [False] * (2 + len(packed) * len(Packed._fields))
        _, _, *flat = _backward(loop, plans, packed, buffers, x, h_0, grad, needed)
        return _grouped(cast("list[Tensor]", flat))

    return buffers.states[-1], pull


def tracer(loop: Loop, nodes: Sequence[Node], shares: Sequence[Tensor]) -> Tracer:
    """Return a function that computes the `Trace` of a chain; equals `reference.tracer`, which documents it.

    Each node gets one more op, an additive identity of weight 1 whose value is zero. The gradient of the op's block of
    A is the gradient of the mixture. Gradients of the weights are not computed.
    """
    nodes, shares = _blended(nodes, shares)
    nodes = [_with_identity(node, 0.0) for node in nodes]
    plans = [node.plan for node in nodes]
    packed = [pack(node, torch.cat([one, one.new_ones(1)])) for node, one in zip(nodes, shares, strict=True)]
    H = nodes[0].hidden_size
    starts = [
        in_A.start + node.plan.columns.index(node.projection[-1]) * H
        for node, (in_A, _) in zip(nodes, columns(plans, H), strict=True)
    ]

    @torch.no_grad()
    def trace(x: Tensor, h_0: Tensor, pull: Pull) -> Trace:
        buffers = _forward(loop, plans, packed, x, h_0, keep=True)
        loop.backward(plans, packed, buffers, h_0, pull(buffers.states[-1]))
        # copies: a slice would keep all of A in memory
        return Trace(node_inputs(buffers, h_0), [buffers.A[..., start : start + H].clone() for start in starts])

    return trace


def _with_identity(node: Node, gain: float) -> Node:
    """Return a node with one more op, an additive identity whose value is gain * s."""
    eye = gain * torch.eye(node.hidden_size, dtype=node.W_h.dtype, device=node.W_h.device)
    more = {
        "W_x": torch.cat([node.W_x, torch.zeros_like(node.W_x[:, :1])], 1),
        "W_h": torch.cat([node.W_h, eye.unsqueeze(1)], 1),
        "b_x": torch.cat([node.b_x, torch.zeros_like(node.b_x[:1])]),
    }
    extended = with_parameters(node, more)
    extended.ops, extended.projection = (*node.ops, Op("add", "identity")), [*node.projection, node.W_x.shape[1]]
    extended.plan = make_plan(extended.ops, extended.projection, highway=node.highway)
    return extended


def _blended(nodes: Sequence[Node], shares: Sequence[Tensor]) -> tuple[list[Node], list[Tensor]]:
    """Return nodes and shares with each node that has a blend m or a skip beta replaced by a plain node.

    The plain node takes m of the mixture and 1 - m + m beta of the state. One more op adds the state, so loops need no
    code for blended nodes. At m = 0 all other ops add zeros, and the output equals the state to the last bit. A gate
    multiplies m, as in `reference.step`.
    """
    made, weights = list(nodes), list(shares)
    for number, (node, own) in enumerate(zip(nodes, shares, strict=True)):
        if not node.is_blended:
            continue
        m = own.new_ones(()) if node.blend is None else node.blend.to(own)
        kept = 1 - m if node.skip is None else 1 - m + m * node.skip.to(own)
        made[number], weights[number] = _with_identity(node, 1.0), torch.cat([m * own, kept.view(1)])
        if node.blend is not None:
            made[number].plan = replace(made[number].plan, apart=True)
    return made, weights


def pack(node: Node, shares: Tensor) -> Packed:
    """Return a node's parameters in the plan's order, differentiably; without a copy if they already are in order."""
    plan = node.plan
    W_x, W_h, b_x, b_h = node.tensors()
    if not plan.is_natural:
        make = _indices.__wrapped__ if is_symbolic((W_x, W_h, b_x, b_h)) else _indices
        order, rows, places = make(plan, W_x.device)
        b_x, b_h, shares = b_x[order], b_h[rows], shares[order]
        # the derivative of index_select takes less than half the time of that of indexing
        W_x, W_h = W_x.index_select(1, places), W_h.index_select(1, places)
    if plan.gate:
        W_x, W_h = _insert(W_x, node.gate_x, plan), _insert(W_h, node.gate_h, plan)
    return Packed(W_x, W_h, b_x, b_h, shares)


@functools.lru_cache
def _indices(plan: Plan, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return, in a plan's order, the numbers of the ops, of the Hadamard ops' rows of b_h, and of the projections."""
    hadamard = plan.order[plan.additive :]
    rows = [sorted(hadamard).index(number) for number in hadamard]
    with torch.inference_mode(False):  # the tensors are cached, and autograd rejects inference tensors
        return (
            torch.tensor(plan.order, device=device),
            torch.tensor(rows, device=device, dtype=torch.long),
            torch.tensor(plan.columns, device=device),
        )


def columns(plans: Sequence[Plan], hidden_size: int) -> list[tuple[slice, slice]]:
    """Return each node's columns of A and of Q."""
    found, a, q = [], 0, 0
    for plan in plans:
        next_a, next_q = a + plan.blocks * hidden_size, q + plan.hadamard_projections * hidden_size
        found.append((slice(a, next_a), slice(q, next_q)))
        a, q = next_a, next_q
    return found


def node_inputs(buffers: Buffers, h_0: Tensor) -> list[Tensor]:
    """Return the state s that each node reads, at all steps, shape `(T, B, H)`."""
    before = torch.cat([h_0.unsqueeze(0), buffers.states[-1][:-1]])
    return [before, *buffers.states[:-1]]


class _Sequence(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: Any, loop: Loop, plans: list[Plan], x: Tensor, h_0: Tensor, *flat: Tensor) -> Tensor:
        buffers = _forward(loop, plans, _grouped(flat), x, h_0, keep=True)
        ctx.loop, ctx.plans = loop, plans
        ctx.save_for_backward(x, h_0, *flat, buffers.A, buffers.Q, *buffers.states, *buffers.mixed)
        return buffers.states[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, h_0, *rest = ctx.saved_tensors
        count = len(ctx.plans) * len(Packed._fields)
        flat, (A, Q, *kept) = rest[:count], rest[count:]
        if is_repeatable():  # otherwise the loop may overwrite the buffers, which saves the memory of a copy
            A, Q = A.clone(), Q.clone()
        buffers = Buffers(A, Q, kept[: len(ctx.plans)], kept[len(ctx.plans) :])
        with torch.no_grad(), full_precision(x.device.type):
            results = _backward(ctx.loop, ctx.plans, _grouped(flat), buffers, x, h_0, grad, ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():  # create_graph
            results = first_only(results, grad, x, h_0, *flat)
        return None, None, *results


def first_only(results: list[Tensor | None], *inputs: Tensor, message: str = NO_SECOND) -> list[Tensor | None]:
    """Return first derivatives as functions of an engine's inputs; their own derivative raises RuntimeError."""
    return list(_First.apply(message, results, *inputs))  # type: ignore[no-untyped-call]


class _First(torch.autograd.Function):
    """The identity of first derivatives, with a graph to the engine's inputs whose backward pass raises RuntimeError.

    `once_differentiable` connects the results to the output's gradient only: a second derivative by another input would
    silently be zero.
    """

    @staticmethod
    def forward(ctx: Any, message: str, results: list[Tensor | None], *inputs: Tensor) -> tuple[Tensor | None, ...]:
        ctx.message = message
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(ctx.message)


def is_repeatable() -> bool:
    """Return whether this backward pass may run again (`retain_graph`), so that it must not change saved tensors.

    A private PyTorch function, made for its compiler, returns this; if the function is missing, return True.
    """
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if keeps is None else bool(keeps())


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast: the backward pass has the dtype of the forward pass, see `chain.run`."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _grouped(flat: Sequence[Tensor]) -> list[Packed]:
    size = len(Packed._fields)
    return [Packed(*flat[i : i + size]) for i in range(0, len(flat), size)]


def _insert(W: Tensor, gate: Tensor, plan: Plan) -> Tensor:
    """Insert the gate's block between the additive and the Hadamard projections."""
    k = plan.additive_projections
    return torch.cat([W[:, :k], gate.unsqueeze(1), W[:, k:]], 1)


def _side_by_side(weights: list[Tensor]) -> Tensor:
    """Return the weights `(I, P, H)` of all nodes as one matrix `(I, sum of P*H)`."""
    return (weights[0] if len(weights) == 1 else torch.cat(weights, 1)).flatten(1)


def widths(plans: Sequence[Plan], H: int) -> tuple[int, int]:
    """Return the number of columns of A and of Q."""
    return sum([plan.blocks for plan in plans]) * H, sum([plan.hadamard_projections for plan in plans]) * H


def _forward(
    loop: Loop,
    plans: list[Plan],
    packed: list[Packed],
    x: Tensor,
    h_0: Tensor,
    *,
    keep: bool,
    memory: Tensor | None = None,
) -> Buffers:
    T, B, _ = x.shape
    H = h_0.shape[1]
    in_A, in_Q = widths(plans, H)
    if memory is None:
        memory = x.new_empty(T * B * (in_A + in_Q * keep))  # one allocation: malloc reuses it more often
    A = (memory[: T * B * in_A] if keep else memory).view(T * B, in_A)
    _read_x(loop, plans, packed, x, A, H)
    buffers = Buffers(
        A.view(T, B, in_A),
        memory[T * B * in_A :].view(T, B, in_Q) if keep else None,
        [x.new_empty(T, B, H) for _ in plans],
        [x.new_empty(T, B, H) if keep and plan.gate else None for plan in plans],
    )
    loop.forward(plans, packed, buffers, h_0)
    return buffers


def _read_x(loop: Loop, plans: list[Plan], packed: list[Packed], x: Tensor, A: Tensor, H: int) -> None:
    """Write x W_x `(T*B, .)` into A: one product for all nodes, and one for each node with `Plan.apart`."""
    flat = x.flatten(0, 1)
    together = [number for number, plan in enumerate(plans) if not plan.apart]
    if len(together) == len(plans):
        loop.multiply(flat, _side_by_side([node.W_x for node in packed]), A)
        return
    places = [in_A for in_A, _ in columns(plans, H)]
    groups = [together, *([number] for number, plan in enumerate(plans) if plan.apart)]
    for group in filter(None, groups):
        W = _side_by_side([packed[number].W_x for number in group])
        product = A.new_empty(len(A), W.shape[1])
        loop.multiply(flat, W, product)
        parts = torch.split(product, [places[number].stop - places[number].start for number in group], 1)
        for number, part in zip(group, parts, strict=True):
            A[:, places[number]] = part


def _backward(
    loop: Loop,
    plans: list[Plan],
    packed: list[Packed],
    buffers: Buffers,
    x: Tensor,
    h_0: Tensor,
    grad: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    H = h_0.shape[1]
    dh_0, sums = loop.backward(plans, packed, buffers, h_0, grad)
    A, Q = buffers.A.flatten(0, 1), buffers.Q
    assert Q is not None
    Q = Q.flatten(0, 1)
    dx = None
    if needed[0]:  # first, before memory for the weights' gradients is allocated
        dx = x.new_empty(x.shape)
        loop.multiply(A, _side_by_side([node.W_x for node in packed]).t(), dx.flatten(0, 1))
    dW_x = A.new_empty(x.shape[2], A.shape[1])
    loop.multiply(x.flatten(0, 1).t(), A, dW_x)
    results: list[Tensor | None] = []
    places = columns(plans, H)
    for plan, s, (in_A, in_Q), own in zip(plans, node_inputs(buffers, h_0), places, sums, strict=True):
        S, split = s.flatten(0, 1).t(), plan.summed * H
        dW_h = s.new_empty(H, plan.blocks * H)
        if split:
            loop.multiply(S, A[:, in_A.start : in_A.start + split], dW_h[:, :split])
        if split < dW_h.shape[1]:
            loop.multiply(S, Q[:, in_Q], dW_h[:, split:])
        results += [dW_x[:, in_A].view(x.shape[2], plan.blocks, H), dW_h.view(H, plan.blocks, H), *own]
    return [dx, dh_0, *results]


# ----------------------------------------------------------------------------------- as an operator, see `operators.py`

LOOPS: dict[str, Loop] = {}  # by name; filled by `backends`


def _read(inputs: Sequence[Tensor], text: str) -> tuple[Loop, list[Plan], list[Packed]]:
    name, *plans = text.split("\n")
    return LOOPS[name], [read_plan(one) for one in plans], _grouped(inputs[2:])


def _operator_forward(inputs: Sequence[Tensor], text: str, keep: bool) -> list[Tensor]:
    loop, plans, packed = _read(inputs, text)
    x, h_0 = inputs[:2]
    in_A, in_Q = widths(plans, h_0.shape[1])
    memory = x.new_empty(x.shape[0] * x.shape[1] * (in_A + in_Q * keep))  # A and Q as one result
    _, _, states, mixed = _forward(loop, plans, packed, x, h_0, keep=keep, memory=memory)
    kept = [memory, *states[:-1], *(one for one in mixed if one is not None)]
    return [states[-1], *(kept if keep else [])]


def _operator_shapes(inputs: Sequence[Tensor], text: str, keep: bool) -> list[tuple[int, ...]]:
    _, plans, _ = _read(inputs, text)
    (T, B, _), H = inputs[0].shape, inputs[1].shape[1]
    kept = [(T * B * sum(widths(plans, H)),), *[(T, B, H)] * (len(plans) - 1 + sum(plan.gate for plan in plans))]
    return [(T, B, H), *(kept if keep else [])]


def _operator_backward(inputs: Sequence[Tensor], text: str, kept: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    loop, plans, packed = _read(inputs, text)
    (out, memory, *rest), J = kept, len(plans)
    (T, B), (in_A, in_Q) = out.shape[:2], widths(plans, out.shape[2])
    A, Q = torch.split(memory, [T * B * in_A, T * B * in_Q])
    gated = iter(rest[J - 1 :])
    mixed = [next(gated) if plan.gate else None for plan in plans]
    buffers = Buffers(A.view(T, B, in_A), Q.view(T, B, in_Q), [*rest[: J - 1], out], mixed)
    with torch.no_grad(), full_precision(grad.device.type):
        needed = [True] * len(inputs)
        return [
            one
            for one in _backward(loop, plans, packed, buffers, inputs[0], inputs[1], grad, needed)
            if one is not None
        ]


_operator = define("chain", Engine(_operator_forward, _operator_shapes, _operator_backward))
