"""The sequence engine for derived DAG cells, forward and backward; `sequence` is the engine for chains.

A layer has one node more than its genotype: the input node, number 0, which reads `x_t` and `h_(t-1)`. Here the 2 H
columns of a node are `[op | gate]`, as in the chain engine. The computation, with node i reading state j:

    before      A_0 = x W_x                   (T*B, 2H)    one product for all steps
    forward     A_i = s_j W_h[i]              (B, 2H)      the loop: one product per node and step; A_0 += h W_h[0]
                y = o_i(A_i[op]), c = sigmoid(A_i[gate]), s_i = s_j + c (y - s_j)       one pass
                h_t = mean of the states in `concat`
    backward    A_i := gradient of A_i        in place, from the gradient of s_i
                gradient of s_j += (1 - c) * gradient of s_i + A_i W_h[i]^T
    after       dW_h[i] = S_j^T A_i,  dW_x = x^T A_0,  dx = A_0 W_x^T        one product each for all steps

A backend for DAGs is a `DagLoop`; a backend for chains is a `sequence.Loop`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells.operators import Engine, define, is_traced
from grownas.cells.sequence import check_alike, first_only, full_precision, is_repeatable
from grownas.genotype import DagGenotype, DagNode

INPUT_OP = "tanh"  # activation of the input node


class DagBuffers(NamedTuple):
    """The tensors that the loops read and write.

    T' is T if a backward pass follows, otherwise 1: each step then overwrites the previous one.

    Attributes:
        A_0: products of the input node, `(T, B, 2H)`; before the forward loop only x W_x.
        A: products of the other nodes, `(N, T', B, 2H)`.
        states: state of every node, `(N + 1, T', B, H)`.
        values: y of every node, same shape; None if the loop does not use it.
        out: `h_t`, `(T, B, H)`.
    """

    A_0: Tensor
    A: Tensor
    states: Tensor
    values: Tensor | None
    out: Tensor


class DagLoop(NamedTuple):
    """A backend: the time loop forward and backward, and the matrix product used outside the loop.

    Attributes:
        name: name of the backend.
        forward: `(genotype, W_h, buffers, h_0)`; fills the buffers.
        backward: `(genotype, W_h, buffers, h_0, grad)`, grad `(T, B, H)` of `out`; replaces A_0 and A by their
            gradients and returns the gradient of h_0.
        multiply: see `sequence.Loop`.
        keeps_values: whether it needs `values`.
    """

    name: str
    forward: Callable[[DagGenotype, Tensor, DagBuffers, Tensor], None]
    backward: Callable[[DagGenotype, Tensor, DagBuffers, Tensor, Tensor], Tensor]
    multiply: Callable[[Tensor, Tensor, Tensor], object]
    keeps_values: bool


def run(loop: DagLoop, genotype: DagGenotype, W_x: Tensor, W_h: Tensor, x: Tensor, h_0: Tensor) -> Tensor:
    """Return a layer's states over a sequence; equals `reference.run_dag`, which documents the arguments.

    Raises:
        RuntimeError: dtypes or devices differ; or a second derivative is computed, which only the reference backend
            supports.
    """
    flat = [x, h_0, swapped(W_x), swapped(W_h)]
    check_alike(flat)
    if is_traced(flat):
        return _operator(flat, "\n".join([loop.name, write_dag(genotype)]))
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in flat)):
        return _forward(loop, genotype, *flat, keep=False).out
    out: Tensor = _DagSequence.apply(loop, genotype, *flat)  # type: ignore[no-untyped-call]
    return out


def swapped(W: Tensor) -> Tensor:
    """Return weights with the two halves of their columns, gate and op, exchanged."""
    return torch.cat([W[..., W.shape[-1] // 2 :], W[..., : W.shape[-1] // 2]], -1)


def inputs(genotype: DagGenotype, buffers: DagBuffers, h_0: Tensor) -> list[Tensor]:
    """Return the state that each node reads at each step, `(T, B, H)`; the input node reads h_(t-1)."""
    before = torch.cat([h_0.unsqueeze(0), buffers.out[:-1]])
    return [before, *(buffers.states[node.reads] for node in genotype.nodes)]


class _DagSequence(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: Any, loop: DagLoop, genotype: DagGenotype, *flat: Tensor) -> Tensor:
        buffers = _forward(loop, genotype, *flat, keep=True)
        ctx.loop, ctx.genotype = loop, genotype
        ctx.save_for_backward(*flat, *buffers)
        return buffers.out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing computes it again
        flat, (A_0, A, *kept) = saved[:4], saved[4:]
        if is_repeatable():  # otherwise the loop may overwrite the buffers, which saves the memory of a copy
            A_0, A = A_0.clone(), A.clone()
        buffers = DagBuffers(A_0, A, *kept)
        with torch.no_grad(), full_precision(grad.device.type):
            results = _backward(ctx.loop, ctx.genotype, buffers, flat, grad, needs_dx=ctx.needs_input_grad[2])
        if torch.is_grad_enabled():  # create_graph
            results = first_only(results, grad, *flat)
        return None, None, *results


def _forward(
    loop: DagLoop, genotype: DagGenotype, x: Tensor, h_0: Tensor, W_x: Tensor, W_h: Tensor, *, keep: bool
) -> DagBuffers:
    (T, B, _), H, N = x.shape, h_0.shape[1], len(genotype.nodes)
    steps = T if keep else 1
    buffers = DagBuffers(
        x.new_empty(T, B, 2 * H),
        x.new_empty(N, steps, B, 2 * H),
        x.new_empty(N + 1, steps, B, H),
        x.new_empty(N + 1, steps, B, H) if loop.keeps_values else None,
        x.new_empty(T, B, H),
    )
    loop.multiply(x.flatten(0, 1), W_x, buffers.A_0.flatten(0, 1))
    loop.forward(genotype, W_h, buffers, h_0)
    return buffers


def _backward(
    loop: DagLoop,
    genotype: DagGenotype,
    buffers: DagBuffers,
    flat: tuple[Tensor, ...],
    grad: Tensor,
    *,
    needs_dx: bool,
) -> list[Tensor | None]:
    x, h_0, W_x, W_h = flat
    dh_0 = loop.backward(genotype, W_h, buffers, h_0, grad)
    A_0 = buffers.A_0.flatten(0, 1)
    dx = None
    if needs_dx:  # first, before memory for the weights' gradients is allocated
        dx = x.new_empty(x.shape)
        loop.multiply(A_0, W_x.t(), dx.flatten(0, 1))
    dW_x, dW_h = torch.empty_like(W_x), torch.empty_like(W_h)
    loop.multiply(x.flatten(0, 1).t(), A_0, dW_x)
    for s, A, to in zip(inputs(genotype, buffers, h_0), [A_0, *buffers.A.flatten(1, 2)], dW_h, strict=True):
        loop.multiply(s.flatten(0, 1).t(), A, to)
    return [dx, dh_0, dW_x, dW_h]


# ----------------------------------------------------------------------------------- as an operator, see `operators.py`

LOOPS: dict[str, DagLoop] = {}  # by name; filled by `backends`


def write_dag(genotype: DagGenotype) -> str:
    """Return a genotype as text: each node's source and activation, then the states whose mean is h_t."""
    nodes = [f"{node.reads} {node.activation}" for node in genotype.nodes]
    return ",".join(nodes) + "|" + ",".join([str(number) for number in genotype.concat])


@functools.lru_cache
def _read(text: str) -> tuple[DagLoop, DagGenotype]:
    name, rest = text.split("\n")
    nodes, concat = rest.split("|")
    pairs = [node.split(" ", 1) for node in nodes.split(",")]
    made = tuple(DagNode(int(reads), activation) for reads, activation in pairs)
    return LOOPS[name], DagGenotype(made, tuple(int(number) for number in concat.split(",")))


def _operator_forward(inputs: Sequence[Tensor], text: str, keep: bool) -> list[Tensor]:
    loop, genotype = _read(text)
    buffers = _forward(loop, genotype, *inputs, keep=keep)
    kept = [one for one in buffers[:-1] if one is not None] if keep else []
    return [buffers.out, *kept]


def _operator_shapes(inputs: Sequence[Tensor], text: str, keep: bool) -> list[tuple[int, ...]]:
    loop, genotype = _read(text)
    (T, B, _), H, N = inputs[0].shape, inputs[1].shape[1], len(genotype.nodes)
    kept = [(T, B, 2 * H), (N, T, B, 2 * H), *[(N + 1, T, B, H)] * (1 + loop.keeps_values)]
    return [(T, B, H), *(kept if keep else [])]


def _operator_backward(inputs: Sequence[Tensor], text: str, kept: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    loop, genotype = _read(text)
    out, A_0, A, states, *values = kept
    buffers = DagBuffers(A_0, A, states, values[0] if values else None, out)
    with torch.no_grad(), full_precision(grad.device.type):
        results = _backward(loop, genotype, buffers, tuple(inputs), grad, needs_dx=True)
    return [one for one in results if one is not None]


_operator = define("dag", Engine(_operator_forward, _operator_shapes, _operator_backward))
