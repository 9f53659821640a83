"""Products of many inputs with quantised matrices, with a hand-written derivative; see `quantiser` for the symbols.

    forward     q_b = round(clamp(v / d_b, -L_b, L_b))       for each of n widths b
                r = sum_b c_b q_b,  out = r W                c_b: share times d_b; at one width d_v d_W (q_v q_W)
    backward    E = D W^T                                    D: gradient of out
                dv = sum_u E sum_b [|v / d_b| <= L_b] c_b / d_b                  straight-through
                dW = r^T D,  dc_b = sum E q_b,  dd_b = -c_b / d_b sum E v / d_b inside the range

At one width c = d, and the sum of dc and dd is the gradient of LSQ. The forward pass at one width has the bits of
`Product.times`, since sums of whole numbers are exact in any order.

All work is done in blocks of rows, so that temporaries stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.cells.quantiser import Operands
from grownas.cells.sequence import first_only, full_precision

BLOCK = 1 << 18  # numbers of a temporary: 1 MiB in float32


class Gradients(NamedTuple):
    """The gradients of `Operands.matrix`, `step` and `factor`."""

    matrix: Tensor
    step: Tensor
    factor: Tensor


def rows(operands: Operands, width: int) -> int:
    """Return the number of rows of a block of inputs, each `width` numbers wide."""
    return max(1, BLOCK // max(1, width * operands.step.numel()))


def product(operands: Operands, v: Tensor) -> Tensor:
    """Return the products of inputs `(R, I)` with each matrix, `(U, R, H)`, differentiably."""
    constants = operands[3:]
    out: Tensor = _Product.apply(constants, v, *operands[:3])  # type: ignore[no-untyped-call]
    return out


def multiplier(operands: Operands, like: Tensor) -> Callable[[Tensor, Tensor], object]:
    """Return the function that writes the products of inputs `(B, I)` into its second argument, like `(U, B, H)`."""
    matrix, whole, scale = operands.matrix, operands.whole, operands.scale
    step, factor, limit = (own.t()[..., None, None] for own in operands[1:4])
    numbers, lowest = like.new_empty(len(step), *like.shape[:2], matrix.shape[1]), -limit  # (n, U, B, I)

    def to_whole(v: Tensor) -> Tensor:
        torch.div(v, step, out=numbers)
        torch.maximum(numbers, lowest, out=numbers)  # faster than clamp, if limits are tensors
        torch.minimum(numbers, limit, out=numbers)
        return numbers.round_()

    def mixed(v: Tensor, out: Tensor) -> None:
        torch.bmm(to_whole(v).mul_(factor).sum(0), matrix, out=out)

    if whole is None or scale is None:
        return mixed
    sums = torch.empty_like(like, dtype=whole.dtype, memory_format=torch.contiguous_format)

    def exact(v: Tensor, out: Tensor) -> None:
        torch.bmm(to_whole(v)[0].to(whole.dtype), whole, out=sums)
        torch.mul(sums, scale, out=out)  # in float64, then rounded once

    return exact


def straight(operands: Operands, v: Tensor) -> Tensor:
    """Return the derivative of each r by its input, `(U, R, I)`, for inputs `(R, I)`."""
    inside = _scaled(operands, v)[1]
    return torch.bmm((operands.factor / operands.step).unsqueeze(1), inside).view(len(operands.step), *v.shape)


def gradients(operands: Operands, v: Tensor, E: Tensor, D: Tensor) -> Gradients:
    """Return gradients of the operands, from inputs `(R, I)`, gradients of r `(U, R, I)` and of out `(U, R, H)`."""
    scaled, inside = _scaled(operands, v)
    limit, by_r = operands.limit.unsqueeze(-1), E.reshape(len(E), 1, v.numel())
    whole = torch.minimum(torch.maximum(scaled, -limit), limit).round_()
    r = torch.bmm(operands.factor.unsqueeze(1), whole).view(len(E), *v.shape)
    return Gradients(
        torch.bmm(r.transpose(1, 2), D),
        inside.mul_(scaled).mul_(by_r).sum(-1).mul_(-operands.factor / operands.step),
        whole.mul_(by_r).sum(-1),
    )


def _scaled(operands: Operands, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return v / d, and 1 where it lies in the range, otherwise 0; both `(U, n, R*I)`."""
    scaled = v.reshape(1, 1, v.numel()) / operands.step.unsqueeze(-1)
    return scaled, scaled.abs().le_(operands.limit.unsqueeze(-1))  # comparisons in place are the fastest


class _Product(torch.autograd.Function):
    """See `product`."""

    @staticmethod
    def forward(
        ctx: Any, constants: tuple[Any, ...], v: Tensor, matrix: Tensor, step: Tensor, factor: Tensor
    ) -> Tensor:
        operands = Operands(matrix, step, factor, *constants)
        out = v.new_empty(len(matrix), len(v), matrix.shape[2])
        size = rows(operands, v.shape[1])
        for own, place in zip(torch.split(v, size), torch.split(out, size, 1), strict=True):
            multiplier(operands, place)(own, place)
        ctx.constants = constants
        ctx.save_for_backward(v, matrix, step, factor)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        v, *tensors = ctx.saved_tensors
        operands = Operands(*tensors, *ctx.constants)
        with torch.no_grad(), full_precision(v.device.type):
            results = _backward(operands, v, grad, ctx.needs_input_grad[1])
        if torch.is_grad_enabled():  # create_graph
            results = first_only(results, grad, v, *tensors)
        return None, *results


def _backward(operands: Operands, v: Tensor, grad: Tensor, needs_v: bool) -> list[Tensor | None]:
    """Return the gradients of v, if needed, and of the operands."""
    by_v, parts = list[Tensor](), list[Gradients]()
    size, transposed = rows(operands, v.shape[1]), operands.matrix.transpose(1, 2)
    for own, D in zip(torch.split(v, size), torch.split(grad, size, 1), strict=True):
        E = torch.bmm(D, transposed)
        if needs_v:
            by_v.append((E * straight(operands, own)).sum(0))
        parts.append(gradients(operands, own, E, D))
    return [torch.cat(by_v) if needs_v else None, *(torch.stack(own).sum(0) for own in zip(*parts, strict=True))]
