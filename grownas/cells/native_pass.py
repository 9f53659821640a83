"""A chain's passes over windows of one shape in C: buffers, arguments and gradients are prepared once.

On small chains it takes several times longer to allocate tensors and to collect their addresses than to compute. A
`Pass` does both when it is made, so that a window costs little more than the calls of C. Its results have the bits of
`sequence.vjp`, which explains the computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grownas.cells.native_loop import (  # type: ignore[attr-defined]  # `_native`: it may be missing, see there
    _native,
    loop_arguments,
    product,
)
from grownas.cells.node import Node
from grownas.cells.sequence import Buffers, NodeGradients, Packed, columns, widths

MOST_THREADS = 2  # with more threads PyTorch computes the matrix products, see `native_loop.multiply`


def prepare(nodes: Sequence[Node], T: int, B: int) -> Pass | None:
    """Return the pass of a chain over windows of T steps and B streams; None if PyTorch computes the products."""
    return Pass(nodes, T, B) if torch.get_num_threads() <= MOST_THREADS else None


class Pass:
    """The forward and the backward pass of a plain chain (`sequence.is_plain`) over windows of one shape.

    The parameters must stay at their addresses: training changes them in place. Each pass overwrites all tensors below.
    Call the methods without autograd.

    Attributes:
        shares: mixture weights of each node, `(K,)`; the caller sets them before `forward`.
        shares_gradients: their gradients, set by `backward`.
        last: the last state, `(1, B, H)`, set by `forward`.
    """

    def __init__(self, nodes: Sequence[Node], T: int, B: int) -> None:
        """Allocate all buffers and collect the arguments of all calls."""
        plans, empty = [node.plan for node in nodes], nodes[0].W_x.new_empty
        inputs, H = nodes[0].input_size, nodes[0].hidden_size
        (in_A, in_Q), dh_0 = widths(plans, H), empty(B, H)
        self.x, self.before, self.out, self.grad = (empty(T, B, size) for size in (inputs, H, H, H))
        self.h_0, self.last = self.before[:1], self.out[-1:]  # before: the last node's states before each step
        self._later, self._earlier = self.before[1:], self.out[:-1]
        self.shares = [empty(len(node.ops)) for node in nodes]
        gradients, self.memory = _gradients(nodes)
        self.shares_gradients = [node.shares for node in gradients]
        self.gradients = [pair for node, own in zip(nodes, gradients, strict=True) for pair in _pairs(node, own)]
        packed = [Packed(n.W_x, n.W_h, n.b_x, n.b_h, own) for n, own in zip(nodes, self.shares, strict=True)]
        rest = [node[1:] for node in packed]
        inner = [empty(T, B, H) for _ in nodes[1:]]  # states of all nodes but the last
        A, Q = empty(T, B, in_A), empty(T, B, in_Q)
        buffers = Buffers(A, Q, [*inner, self.out], [None for _ in nodes])
        sums = [NodeGradients(node.b_x, node.b_h, node.shares) for node in gradients]
        self._forward = loop_arguments(plans, rest, buffers, self.h_0)
        self._backward = loop_arguments(plans, rest, buffers, self.h_0, self.grad, dh_0, sums)
        self._products = list[tuple[Any, ...]](), list[tuple[Any, ...]]()  # before the loop forward, after it backward
        x, read = self.x.flatten(0, 1), [self.before, *inner]
        for node, own, s, places in zip(packed, gradients, read, columns(plans, H), strict=True):
            from_A, from_Q = A[..., places[0]].flatten(0, 1), Q[..., places[1]].flatten(0, 1)
            self._products[0].append(product(x, node.W_x.flatten(1), from_A))
            self._products[1].extend(_weight_products(x, s.flatten(0, 1), from_A, from_Q, own))
        self._kept = packed, buffers, dh_0  # whose addresses are among the arguments

    def forward(self, x: Tensor, h_0: Tensor | None) -> Tensor:
        """Return the states `(T, B, H)` for x `(T, B, I)` and the first state `(1, B, H)`, zeros if None."""
        self.x.copy_(x)
        self.h_0.zero_() if h_0 is None else self.h_0.copy_(h_0)
        for arguments in self._products[0]:
            _native.multiply(*arguments)
        _native.loop(*self._forward)
        self._later.copy_(self._earlier)
        return self.out

    def backward(self, grad: Tensor) -> Tensor:
        """Set the gradients of the parameters from that of the states, `(T, B, H)`, once after each `forward`.

        Returns:
            The memory of all gradients, those of the shares included.
        """
        self.grad.copy_(grad)
        self.memory.zero_()  # the loop adds to some of the gradients
        _native.loop(*self._backward)
        for arguments in self._products[1]:
            _native.multiply(*arguments)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.memory


def _gradients(nodes: Sequence[Node]) -> tuple[list[Packed], Tensor]:
    """Return tensors for the gradients of each node, which lie side by side, and the whole memory."""
    shapes = [
        [*(one.shape for one in (node.W_x, node.W_h, node.b_x, node.b_h)), torch.Size([len(node.ops)])]
        for node in nodes
    ]
    sizes = [shape.numel() for node in shapes for shape in node]
    memory = nodes[0].W_x.new_empty(sum(sizes))
    parts = iter(torch.split(memory, sizes))
    return [Packed(*(next(parts).view(shape) for shape in node)) for node in shapes], memory


def _pairs(node: Node, gradients: Packed) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters of a node, each with its gradient."""
    return list(zip((node.W_x, node.W_h, node.b_x, node.b_h), gradients[:4], strict=True))


def _weight_products(x: Tensor, s: Tensor, A: Tensor, Q: Tensor, gradients: Packed) -> list[tuple[Any, ...]]:
    """Return the products for a node's dW_x and dW_h, as in `sequence`."""
    dW_x, dW_h = gradients.W_x.flatten(1), gradients.W_h.flatten(1)
    additive = A.shape[1] - Q.shape[1]  # columns of W_h whose gradient is in A; that of the others is in Q
    parts = [(x, A, dW_x), (s, A[:, :additive], dW_h[:, :additive]), (s, Q, dW_h[:, additive:])]
    return [product(a.t(), b, out) for a, b, out in parts if out.shape[1]]
