"""The sequence engine for the DAG supernet, forward and backward; `dag_sequence` is that of derived cells.

Node i of 1..N has i edges, one from each earlier state; node 0 is the input node, which reads `x_t` and `h_(t-1)`.
The states of one step lie side by side, so that a node's products over all its edges are one matrix product. Its 2 H
columns are `[gate | op]`. The data's way, for node i:

    before      A_0 = x W_x                       (T*B, 2H)    one product for all steps
    forward     A_i = [s_0 .. s_(i-1)] W_h[i]     (i*B, 2H)    one product a node and step: the loop; A_0 += h W_h[0]
                M = sum_k p_k o_k(A_i[op]), c = sigmoid(A_i[gate]), P = sum_k p_k           for each edge, one pass
                s_i = norm(sum_j (c M + (P (1 - c) + skip) s_j)), with running moments cut to +-limit
                h_t = sum_i mean_i s_i
    backward    G = gradient of s_i before norm
                A_i := [G c (1 - c) (M - P s_j) | G c sum_k p_k o_k']      in place; M and c are computed again
                gradient of s_j += G (P (1 - c) + skip) + A_i W_h[i]^T
                gradient of p_k += sum of G (c o_k + (1 - c) s_j)
    after       dW_h[i] = S_i^T A_i,  dW_x = x^T A_0,  dx = A_0 W_x^T      one product each for all steps

What is kept between forward and backward is A and the states: 2 numbers an edge, unit and step, whatever the number of
ops. A backend is a `SupernetLoop`, as it is a `sequence.Loop` for chains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells.dag_plan import DagPlan, DagTensors, check
from grownas.cells.operators import Engine, define, is_traced
from grownas.cells.sequence import check_alike, first_only, full_precision, is_repeatable


class SupernetBuffers(NamedTuple):
    """The tensors that the loops read and write.

    T' is T if a backward pass follows, otherwise 1: each step overwrites the one before.

    Attributes:
        A_0: the input node's products, `(T, B, 2H)`; before the forward loop the input's part.
        A: the other nodes' products, node after node each `(T', i, B, 2H)`, as one memory; see `products`.
        states: every node's state, `(T', N + 1, B, H)`.
        out: `h_t`, `(T, B, H)`.
        moments: mean and variance of each state, `(T, 2, N + 1, H)`; None but for the norm "batch".
    """

    A_0: Tensor
    A: Tensor
    states: Tensor
    out: Tensor
    moments: Tensor | None

    def products(self) -> list[Tensor]:
        """Return each node's part of A, `(T', i, B, 2H)`."""
        steps, states, B, H = self.states.shape
        parts = torch.split(self.A, [steps * i * B * 2 * H for i in range(1, states)])
        return [part.view(steps, i, B, 2 * H) for i, part in enumerate(parts, 1)]


class SupernetLoop(NamedTuple):
    """A backend: the time loop forward and backward, and the products outside it.

    Attributes:
        name: of the backend.
        forward: `(plan, tensors, buffers, h_0)`; fills the buffers.
        backward: `(plan, tensors, buffers, h_0, grad)`, grad `(T, B, H)` of `out`; turns A_0 and A into their
            gradients; returns the gradients of h_0 and of the shares.
        multiply: see `sequence.Loop`.
    """

    name: str
    forward: Callable[[DagPlan, DagTensors, SupernetBuffers, Tensor], None]
    backward: Callable[[DagPlan, DagTensors, SupernetBuffers, Tensor, Tensor], tuple[Tensor, Tensor]]
    multiply: Callable[[Tensor, Tensor, Tensor], object]


def run(loop: SupernetLoop, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states over a sequence; equals `reference.run_dag_supernet`, which documents arguments and results.

    Raises:
        ValueError: plan, tensors and batch do not fit together; see `dag_plan.check`.
        RuntimeError: dtypes or devices differ; or, when it is asked for, that only the reference backend has a second
            derivative.
    """
    check(plan, tensors, x)
    check_alike([x, h_0, *(one for one in tensors if one is not None)])
    constants = [one.detach() for one in tensors[3:] if one is not None]
    flat = [x, h_0, *tensors[:3], *constants]
    if is_traced(flat):
        return _apart(plan, tensors, _operator(flat, "\n".join([loop.name, write_plan(plan)])), x)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in flat)):
        buffers = _forward(loop, plan, flat, keep=False)
        return buffers.out, buffers.moments
    out, *moments = _Supernet.apply(loop, plan, *flat)  # type: ignore[no-untyped-call]
    return out, moments[0] if moments else None


def _grouped(flat: Sequence[Tensor]) -> DagTensors:
    """Return an engine's inputs behind x and h_0 by name; a limit never comes without moments, see `dag_plan.check`."""
    return DagTensors(*flat[2:])


class _Supernet(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: Any, loop: SupernetLoop, plan: DagPlan, *flat: Tensor) -> tuple[Tensor, ...]:
        buffers = _forward(loop, plan, flat, keep=True)
        ctx.loop, ctx.plan, ctx.count = loop, plan, len(flat)
        ctx.save_for_backward(*flat, *buffers)
        if buffers.moments is None:
            return (buffers.out,)
        ctx.mark_non_differentiable(buffers.moments)
        return buffers.out, buffers.moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing computes it again
        flat, (A_0, A, *kept) = saved[: ctx.count], saved[ctx.count :]
        if is_repeatable():  # else the loop may take over the buffers themselves, which spares their copy's memory
            A_0, A = A_0.clone(), A.clone()
        needed = ctx.needs_input_grad[2:]
        with torch.no_grad(), full_precision(grad.device.type):
            results = _backward(ctx.loop, ctx.plan, SupernetBuffers(A_0, A, *kept), flat, grad, needed)
        if torch.is_grad_enabled():  # create_graph
            results = first_only(results, grad, *flat)
        return None, None, *results, *[None] * (ctx.count - len(results))


def _forward(loop: SupernetLoop, plan: DagPlan, flat: Sequence[Tensor], *, keep: bool) -> SupernetBuffers:
    x, h_0 = flat[:2]
    tensors = _grouped(flat)
    (T, B, _), H, N = x.shape, h_0.shape[1], plan.nodes
    steps = T if keep else 1
    buffers = SupernetBuffers(
        x.new_empty(T, B, 2 * H),
        x.new_empty(steps * len(plan.ops) * B * 2 * H),
        x.new_empty(steps, N + 1, B, H),
        x.new_empty(T, B, H),
        x.new_empty(T, 2, N + 1, H) if plan.norm == "batch" else None,
    )
    loop.multiply(x.flatten(0, 1), tensors.W_x, buffers.A_0.flatten(0, 1))
    loop.forward(plan, tensors, buffers, h_0)
    return buffers


def _backward(
    loop: SupernetLoop,
    plan: DagPlan,
    buffers: SupernetBuffers,
    flat: Sequence[Tensor],
    grad: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of x, h_0, W_x, W_h and the shares; None for what is not needed."""
    x, h_0, W_x, W_h, *_ = flat
    dh_0, dshares = loop.backward(plan, _grouped(flat), buffers, h_0, grad)
    A_0 = buffers.A_0.flatten(0, 1)
    dx = dW_x = dW_h = None
    if needed[0]:
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        loop.multiply(A_0, W_x.t(), dx.flatten(0, 1))
    if needed[2]:
        dW_x = torch.empty_like(W_x, memory_format=torch.contiguous_format)
        loop.multiply(x.flatten(0, 1).t(), A_0, dW_x)
    if needed[3]:
        dW_h = torch.empty_like(W_h, memory_format=torch.contiguous_format)
        before = torch.cat([h_0.unsqueeze(0), buffers.out[:-1]])
        loop.multiply(before.flatten(0, 1).t(), A_0, dW_h[0])
        for i, A in enumerate(buffers.products(), 1):
            read = buffers.states[:, :i].flatten(0, 2)  # a copy
            loop.multiply(read.t(), A.flatten(0, 2), dW_h[i])
    return [dx, dh_0, dW_x, dW_h, dshares]


# ------------------------------------------------------------------------------------------- as an operator, see there

LOOPS: dict[str, SupernetLoop] = {}  # by name; `backends` puts them here


def write_plan(plan: DagPlan) -> str:
    """Return a plan as a text: each edge's ops, and a comma behind each edge; then the norm."""
    return "".join([" ".join(ops) + "," for ops in plan.ops]) + plan.norm


@functools.lru_cache
def _read(text: str) -> tuple[SupernetLoop, DagPlan]:
    name, plan = text.split("\n")
    *edges, norm = plan.split(",")
    return LOOPS[name], DagPlan(tuple(tuple(ops.split()) for ops in edges), norm)


def _together(buffers: SupernetBuffers) -> Tensor:
    """Return out and moments as one tensor: only one result of an operator has a gradient."""
    return buffers.out if buffers.moments is None else torch.cat([buffers.out.flatten(), buffers.moments.flatten()])


def _apart(plan: DagPlan, tensors: DagTensors, together: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return out and moments of what `_together` made of them."""
    if plan.norm != "batch":
        return together, None
    (T, B), (states, H) = x.shape[:2], tensors.W_h.shape[:2]
    out, moments = together[: T * B * H], together[T * B * H :]
    return out.view(T, B, H), moments.view(T, 2, states, H).detach()


def _operator_forward(inputs: Sequence[Tensor], text: str, keep: bool) -> list[Tensor]:
    loop, plan = _read(text)
    buffers = _forward(loop, plan, inputs, keep=keep)
    out = _together(buffers)
    return [out, *buffers[:3]] if keep else [out]


def _operator_shapes(inputs: Sequence[Tensor], text: str, keep: bool) -> list[tuple[int, ...]]:
    _, plan = _read(text)
    (T, B, _), H, N = inputs[0].shape, inputs[1].shape[1], plan.nodes
    out = (T * B * H + T * 2 * (N + 1) * H,) if plan.norm == "batch" else (T, B, H)
    kept = [(T, B, 2 * H), (T * len(plan.ops) * B * 2 * H,), (T, N + 1, B, H)]
    return [out, *(kept if keep else [])]


def _operator_backward(inputs: Sequence[Tensor], text: str, kept: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    loop, plan = _read(text)
    together, A_0, A, states = kept
    tensors = _grouped(inputs)
    out, moments = _apart(plan, tensors, together, inputs[0])
    buffers = SupernetBuffers(A_0, A, states, out, moments)
    grad = _apart(plan, tensors, grad, inputs[0])[0]
    with torch.no_grad(), full_precision(grad.device.type):
        results = _backward(loop, plan, buffers, inputs, grad, [True] * len(inputs))
    constants = [torch.zeros_like(one) for one in inputs[5:]]
    return [*(one for one in results if one is not None), *constants]


_operator = define("dag_supernet", Engine(_operator_forward, _operator_shapes, _operator_backward))
