"""A chain with bit widths over all time steps, forward and backward, without autograd in the time loop.

`reference` rounds and multiplies under autograd, step by step. Here everything that does not depend on the state is
computed for all steps at once: autograd follows the rounding of the weights and the shares of the widths, and
`quantised_product` multiplies x. The loop has its own derivative; its U products u of the state s, and their
derivatives, are those of `quantised_product`:

    forward     u = r(s) W                                   (U, B, H)
                z = p + u, or p * (u + b_h)                  (K, B, H)       p = x W_x + b_x
                s' = sum_k w_k phi_k(z_k)                    highway: s + sigmoid(gate) (s' - s)
    backward    D = g * du, E = D W^T                        (U, B, H)       du from all states of a block of steps
                g = sum_u E * dr/ds                          the only work from step to step
    after       gradients of p, W, d, c, b_h and w           for all steps of a block

At one width the states have the bits of the reference: sums of whole numbers are exact in any order, and all else acts
on single numbers in the order of `reference.step`. Activations act on arrays of the reference's layout, since a
vectorised function may round the last numbers of an array in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells import quantised_product, reference
from grownas.cells.node import Node
from grownas.cells.operators import is_traced
from grownas.cells.quantised_product import gradients, multiplier, product, straight
from grownas.cells.quantiser import Operands
from grownas.cells.sequence import first_only, full_precision
from grownas.ops import ACTIVATION


class Layout(NamedTuple):
    """What a node has beside its tensors. Its ops are in the order of the engine's plan, additive ops first.

    Attributes:
        activations: of each op.
        additive: number of additive ops.
        places: number of each op's product among the U products, `(K,)`.
        order: positions of the ops in the order of their sum.
        constants: limit, whole and scale of `quantiser.Operands`.
    """

    activations: tuple[str, ...]
    additive: int
    places: Tensor
    order: tuple[int, ...]
    constants: tuple[Any, ...]


class Tensors(NamedTuple):
    """A node's tensors that have gradients; or their gradients."""

    p: Tensor  # (K, T, B, H), x W_x + b_x of each op
    gate: Tensor | None  # (T, B, H), the gate's product of x; the last of the U products is that of s
    b_h: Tensor  # (Kh, H)
    shares: Tensor  # (K,)
    matrix: Tensor  # (U, H, H); this and the next two: see `quantiser.Operands`
    step: Tensor  # (U, n)
    factor: Tensor  # (U, n)

    def operands(self, layout: Layout) -> Operands:
        """Return the products of the state."""
        return Operands(self.matrix, self.step, self.factor, *layout.constants)


def run(nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence; equals `reference.run`, which documents the arguments.

    The reference itself runs what this module cannot: traced programs, transforms of `torch.func`, forward-mode
    derivatives, blended nodes, and tensors of several dtypes.

    Raises:
        RuntimeError: a second derivative is computed, which only the reference backend supports.
    """
    parameters = [own for node in nodes for own in node.parameters()]
    if (
        is_traced([x, h_0, *parameters])
        or any(node.is_blended for node in nodes)
        or {own.dtype for own in (x, h_0, *shares, *parameters)} != {x.dtype}
    ):
        return reference.run(nodes, shares, x, h_0)
    layouts, tensors = zip(*(_prepare(node, own, x) for node, own in zip(nodes, shares, strict=True)), strict=True)
    states: Tensor = _Sequence.apply(layouts, h_0, *(one for own in tensors for one in own))  # type: ignore[no-untyped-call]
    return states


def _prepare(node: Node, shares: Tensor, x: Tensor) -> tuple[Layout, Tensors]:
    """Return a node's layout and tensors, with the products of x at all steps."""
    plan, units = node.plan, node.quantised
    assert units is not None
    assert units.x is not None  # a chain's ops read x
    of_x, of_h = (torch.stack(own) for own in node.matrices())
    projected = product(units.x.operands(of_x), x.flatten(0, 1)).view(len(of_x), *x.shape[:2], node.hidden_size)
    operands, order = units.h.operands(of_h), list(plan.order)
    places = torch.tensor([node.projection[number] for number in order], device=x.device)
    sums = tuple(order.index(number) for number in range(len(order)))
    return Layout(plan.activations, plan.additive, places, sums, operands[3:]), Tensors(
        projected.index_select(0, places) + node.b_x[order, None, None],
        projected[-1] if node.highway else None,
        node.b_h[[node.bias[number] for number in order[plan.additive :]]],
        shares[order],
        *operands[:3],
    )


class _Sequence(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(ctx: Any, layouts: Sequence[Layout], h_0: Tensor, *flat: Tensor | None) -> Tensor:
        tensors = _grouped(flat)
        T = tensors[0].p.shape[1]
        states = [h_0.new_empty(T, *h_0.shape) for _ in layouts]
        products = [h_0.new_empty(T, len(own.matrix), *h_0.shape) for own in tensors]
        steps = [_stepper(*own) for own in zip(layouts, tensors, states, products, strict=True)]
        s = h_0
        for t in range(T):
            for step in steps:
                s = step(t, s)
        ctx.layouts = layouts
        ctx.save_for_backward(h_0, *flat, *states, *products)
        return states[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        h_0, *rest = ctx.saved_tensors
        N = len(ctx.layouts)
        flat, states, products = rest[: -2 * N], rest[-2 * N : -N], rest[-N:]
        with torch.no_grad(), full_precision(h_0.device.type):
            results = _backward(ctx.layouts, _grouped(flat), h_0, states, products, grad)
        if torch.is_grad_enabled():  # create_graph
            results = first_only(results, grad, h_0, *(one for one in flat if one is not None))
        return None, *results


def _grouped(flat: Sequence[Any]) -> list[Tensors]:
    size = len(Tensors._fields)
    return [Tensors(*flat[i : i + size]) for i in range(0, len(flat), size)]


def _stepper(layout: Layout, node: Tensors, states: Tensor, products: Tensor) -> Callable[[int, Tensor], Tensor]:
    """Return the function that computes a node's output at step t from its input s, both `(B, H)`."""
    a, K = layout.additive, len(layout.activations)
    multiply = multiplier(node.operands(layout), products[0])
    u, z = (states.new_empty(K, *states.shape[1:]) for _ in range(2))  # one memory for all steps
    p_add, p_times = node.p[:a].unbind(1), node.p[a:].unbind(1)
    u_add, u_times, z_add, z_times = u[:a], u[a:], z[:a], z[a:]
    b_h = node.b_h.unsqueeze(1)
    terms = [(node.shares[k], ACTIVATION[layout.activations[k]].f, z[k]) for k in layout.order]

    def step(t: int, s: Tensor) -> Tensor:
        multiply(s, products[t])
        torch.index_select(products[t], 0, layout.places, out=u)
        torch.add(p_add[t], u_add, out=z_add)
        torch.mul(p_times[t], u_times.add_(b_h), out=z_times)
        mixed = torch.zeros_like(s)
        for share, f, own in terms:
            mixed += share * f(own)
        if node.gate is not None:
            mixed = s + torch.sigmoid(node.gate[t] + products[t, -1]) * (mixed - s)
        states[t] = mixed
        return mixed

    return step


class _Slopes(NamedTuple):
    """Factors of the gradient of a node's output, at the steps of a block."""

    to_p: Tensor  # (K, T, B, H)
    to_u: Tensor  # (K, T, B, H)
    to_products: Tensor  # (T, U, B, H)
    to_shares: Tensor  # (K, T, B, H)
    through: Tensor | None  # 1 - gate, (T, B, H)
    straight: Tensor  # dr/ds, (U, T, B, H)


def _slopes(layout: Layout, node: Tensors, s: Tensor, products: Tensor) -> _Slopes:
    a = layout.additive
    u = products.index_select(1, layout.places).transpose(0, 1)
    p, q = node.p[a:], u[a:] + node.b_h[:, None, None]
    z = torch.cat([node.p[:a] + u[:a], p * q])
    y = torch.stack([ACTIVATION[name].f(own) for name, own in zip(layout.activations, z, strict=True)])
    slopes = [ACTIVATION[name].df(*own) for name, *own in zip(layout.activations, y, z, strict=True)]
    shares = node.shares.view(-1, 1, 1, 1)
    slope, through = torch.stack(slopes).mul_(shares), None
    to_products = torch.zeros_like(products)
    if node.gate is not None:
        gate = torch.sigmoid(node.gate + products[:, -1])
        to_products[:, -1] = ((shares * y).sum(0) - s) * gate * (1 - gate)
        slope, y, through = slope.mul_(gate), y.mul_(gate), 1 - gate
    to_u = torch.cat([slope[:a], slope[a:] * p])
    to_products.index_add_(1, layout.places, to_u.transpose(0, 1))
    own = straight(node.operands(layout), s.flatten(0, 1)).view(len(node.matrix), *s.shape)
    return _Slopes(torch.cat([slope[:a], slope[a:] * q]), to_u, to_products, y, through, own)


def _backward(
    layouts: Sequence[Layout],
    tensors: Sequence[Tensors],
    h_0: Tensor,
    states: Sequence[Tensor],
    products: Sequence[Tensor],
    grad: Tensor,
) -> list[Tensor | None]:
    """Return the gradients of h_0 and of each node's tensors."""
    inputs = [torch.cat([h_0.unsqueeze(0), states[-1][:-1]]), *states[:-1]]
    size = min(
        quantised_product.rows(own.operands(layout), h_0.numel()) for layout, own in zip(layouts, tensors, strict=True)
    )
    g, parts = torch.zeros_like(h_0), []
    for start in reversed(range(0, len(grad), size)):
        block = slice(start, start + size)
        of_block = [
            node._replace(p=node.p[:, block], gate=None if node.gate is None else node.gate[block]) for node in tensors
        ]
        read, made = ([one[block] for one in own] for own in (inputs, products))
        g, found = _block(layouts, of_block, read, made, grad[block], g)
        parts.append(found)
    return [g, *(one for own in zip(*parts, strict=True) for one in _joined(own))]


def _block(
    layouts: Sequence[Layout],
    tensors: Sequence[Tensors],
    inputs: Sequence[Tensor],
    products: Sequence[Tensor],
    grad: Tensor,
    g: Tensor,
) -> tuple[Tensor, list[Tensors]]:
    """Return the loss's gradient by the state before a block of steps, and the block's parts of the nodes' gradients.

    Args:
        layouts: of each node.
        tensors: of each node, at the steps of the block.
        inputs: s that each node reads, `(T, B, H)`.
        products: u of each node, `(T, U, B, H)`.
        grad: gradient of the chain's states, `(T, B, H)`.
        g: gradient of the last state through later blocks, `(B, H)`.
    """
    slopes = [_slopes(*own) for own in zip(layouts, tensors, inputs, products, strict=True)]
    outputs = [torch.empty_like(grad) for _ in layouts]  # gradient of each node's output
    rounded = [torch.empty_like(own) for own in products]  # E
    transposed = [own.matrix.transpose(1, 2) for own in tensors]
    for t in reversed(range(len(grad))):
        g = g + grad[t]
        for j in reversed(range(len(layouts))):
            outputs[j][t] = g
            own, E = slopes[j], rounded[j][t]
            torch.bmm(own.to_products[t].mul_(g), transposed[j], out=E)
            carried = (E * own.straight[:, t]).sum(0)
            g = carried if own.through is None else torch.addcmul(carried, g, own.through[t])
    return g, [_finish(*own) for own in zip(layouts, tensors, inputs, slopes, outputs, rounded, strict=True)]


def _finish(layout: Layout, node: Tensors, s: Tensor, slopes: _Slopes, G: Tensor, E: Tensor) -> Tensors:
    """Return the parts of a node's gradients, from those of its outputs, `(T, B, H)`, and E of a block."""
    by_product, by_r = (own.transpose(0, 1).flatten(1, 2) for own in (slopes.to_products, E))
    return Tensors(
        slopes.to_p.mul_(G),
        None if node.gate is None else slopes.to_products[:, -1],
        slopes.to_u[layout.additive :].mul_(G).sum((1, 2)),
        slopes.to_shares.mul_(G).sum((1, 2, 3)),
        *gradients(node.operands(layout), s.flatten(0, 1), by_r, by_product),
    )


def _joined(parts: Sequence[Tensors]) -> list[Tensor | None]:
    """Return a node's gradients from those of the blocks, last block first."""
    p, gate, *sums = zip(*reversed(parts), strict=True)
    return [torch.cat(p, 1), None if gate[0] is None else torch.cat(gate), *(torch.stack(own).sum(0) for own in sums)]
