"""The time loop of a DAG in C, see `native/kernels.h`. `dag_sequence` explains the data."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from grownas.cells import native_loop
from grownas.cells.dag_sequence import INPUT_OP, DagBuffers, DagLoop
from grownas.genotype import DagGenotype
from grownas.ops import kernel_codes


def forward(genotype: DagGenotype, W_h: Tensor, buffers: DagBuffers, h_0: Tensor) -> None:
    """Run the loop forward; see `DagLoop`."""
    _run(genotype, W_h, buffers, h_0)


def backward(genotype: DagGenotype, W_h: Tensor, buffers: DagBuffers, h_0: Tensor, grad: Tensor) -> Tensor:
    """Run the loop backward; see `DagLoop`."""
    dh_0 = h_0.new_empty(h_0.shape)
    _run(genotype, W_h, buffers, h_0, grad.contiguous(), dh_0)
    return dh_0


LOOP = DagLoop("native", forward, backward, native_loop.multiply, keeps_values=True)


def _run(
    genotype: DagGenotype,
    W_h: Tensor,
    buffers: DagBuffers,
    h_0: Tensor,
    grad: Tensor | None = None,
    dh_0: Tensor | None = None,
) -> None:
    """Pass addresses to C. The contiguous copies made here must stay alive until the call returns."""
    (T, B, H), N = buffers.out.shape, len(genotype.nodes)
    W_h, h_0 = W_h.contiguous(), h_0.contiguous()
    names = (INPUT_OP, *(node.activation for node in genotype.nodes))
    addresses = [0 if one is None else one.data_ptr() for one in (*buffers, W_h, h_0, grad, dh_0)]
    native_loop._native.dag(  # type: ignore[attr-defined]  # `native_loop` handles a missing extension
        grad is not None,
        W_h.dtype == torch.float64,
        T,
        buffers.states.shape[1],
        B,
        H,
        len(genotype.concat),
        array("i", [node.reads for node in genotype.nodes]).tobytes(),
        kernel_codes(names),
        bytes(i in genotype.concat for i in range(N + 1)),
        *addresses,
    )
