"""The time loop of a chain in C, see `native/kernels.h`: float32, float64 on the CPU. `sequence` explains the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grownas.cells.plan import Plan
from grownas.cells.sequence import Buffers, Loop, NodeGradients, Packed
from grownas.ops import without_kernel

try:
    from grownas.cells import _native
except ImportError as error:  # an optional extension: its installation needs a C compiler
    _native = None  # type: ignore[assignment]
    MISSING: str | None = f"the C extension was not built or cannot be loaded ({error})"
else:
    MISSING = None

DTYPES = (torch.float32, torch.float64)


def unsupported(device: torch.device, dtype: torch.dtype, activations: set[str]) -> str | None:
    """Return why this backend cannot run a chain; None if it can."""
    if MISSING is not None:
        return MISSING
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device.type}"
    if dtype not in DTYPES:
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    unknown = without_kernel(activations, _native.CODES)
    return f"it has no kernel for {', '.join(unknown)}" if unknown else None


def forward(plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor) -> None:
    """Run the loop forward; see `Loop`."""
    _run(plans, packed, buffers, h_0)


def backward(
    plans: Sequence[Plan], packed: Sequence[Packed], buffers: Buffers, h_0: Tensor, grad: Tensor
) -> tuple[Tensor, list[NodeGradients]]:
    """Run the loop backward; see `Loop`."""
    zeros = [(node.b_x.new_zeros(node.b_x.shape), node.b_h.new_zeros(node.b_h.shape)) for node in packed]
    sums = [
        NodeGradients(*two, node.shares.new_empty(node.shares.shape)) for two, node in zip(zeros, packed, strict=True)
    ]
    dh_0 = h_0.new_empty(h_0.shape)
    _run(plans, packed, buffers, h_0, grad.contiguous(), dh_0, sums)
    return dh_0, sums


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a matrix product; see `Loop`. Our one thread is as fast as two of PyTorch, which computes it with three."""
    if torch.get_num_threads() > 2:
        torch.mm(a, b, out=out)
        return
    _native.multiply(*product(a, b, out))


LOOP = Loop("native", forward, backward, multiply)


def product(a: Tensor, b: Tensor, out: Tensor) -> tuple[Any, ...]:
    """Return the arguments of `_native.multiply`."""
    (rows, _), (inner, columns) = a.shape, b.shape
    matrices = a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride()
    return a.dtype == torch.float64, rows, columns, inner, *matrices, out.data_ptr(), out.stride(0)


def _run(
    plans: Sequence[Plan],
    packed: Sequence[Packed],
    buffers: Buffers,
    h_0: Tensor,
    grad: Tensor | None = None,
    dh_0: Tensor | None = None,
    sums: Sequence[NodeGradients] | None = None,
) -> None:
    """Call C. The contiguous copies made here must stay alive until the call returns."""
    own, h_0 = [[tensor.contiguous() for tensor in node[1:]] for node in packed], h_0.contiguous()
    _native.loop(*loop_arguments(plans, own, buffers, h_0, grad, dh_0, sums))


def loop_arguments(
    plans: Sequence[Plan],
    own: Sequence[Sequence[Tensor]],
    buffers: Buffers,
    h_0: Tensor,
    grad: Tensor | None = None,
    dh_0: Tensor | None = None,
    sums: Sequence[NodeGradients] | None = None,
) -> tuple[Any, ...]:
    """Return the arguments of `_native.loop`: sizes and addresses of contiguous tensors; `grad`: backward.

    `own` has each node's `Packed` without W_x.
    """
    (T, B, H), (A, Q) = buffers.states[-1].shape, buffers[:2]
    nodes = []
    for j, plan in enumerate(plans):
        addresses = [tensor.data_ptr() for tensor in (*own[j], buffers.states[j])]
        gradients = (0, 0, 0) if sums is None else [tensor.data_ptr() for tensor in sums[j]]
        nodes.append((*plan.kernel_layout, *addresses, address(buffers.mixed[j]), *gradients))
    rows = A.data_ptr(), A.shape[2], address(Q), 0 if Q is None else Q.shape[2]
    states = h_0.data_ptr(), address(grad), address(dh_0)
    return grad is not None, A.dtype == torch.float64, T, B, H, *rows, *states, tuple(nodes)


def address(tensor: Tensor | None) -> int:
    """Return the address of a tensor's first number; 0 if there is no tensor."""
    return 0 if tensor is None else tensor.data_ptr()
