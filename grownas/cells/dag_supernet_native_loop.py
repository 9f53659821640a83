"""The time loop of the DAG supernet in C, see `native/dag_supernet.h`. See `dag_supernet_sequence`."""

from __future__ import annotations

import functools
import itertools
from array import array

import torch
from torch import Tensor

from grownas.cells import native_loop
from grownas.cells.dag_plan import NONE, NORMS, DagPlan, DagTensors
from grownas.cells.dag_supernet_sequence import SupernetBuffers, SupernetLoop
from grownas.ops import kernel_codes


def forward(plan: DagPlan, tensors: DagTensors, buffers: SupernetBuffers, h_0: Tensor) -> None:
    """Run the loop forward; see `SupernetLoop`."""
    _run(plan, tensors, buffers, h_0)


def backward(
    plan: DagPlan, tensors: DagTensors, buffers: SupernetBuffers, h_0: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the loop backward; see `SupernetLoop`."""
    dh_0, dshares = h_0.new_empty(h_0.shape), tensors.shares.new_zeros(tensors.shares.shape)
    _run(plan, tensors, buffers, h_0, grad.contiguous(), dh_0, dshares)
    return dh_0, dshares


LOOP = SupernetLoop("native", forward, backward, native_loop.multiply)


@functools.lru_cache
def _layout(plan: DagPlan) -> tuple[bytes, bytes, bytes]:
    """Return where each edge's ops begin, where the shares of all ops are, and the ops' codes; "none" is left out."""
    edges = [[name for name in ops if name != NONE] for ops in plan.ops]
    first = array("i", [0, *itertools.accumulate(map(len, edges))])
    names = list(itertools.chain(*plan.ops))
    share = array("i", [place for place, name in enumerate(names) if name != NONE])
    return first.tobytes(), share.tobytes(), kernel_codes([name for name in names if name != NONE])


def _run(
    plan: DagPlan,
    tensors: DagTensors,
    buffers: SupernetBuffers,
    h_0: Tensor,
    grad: Tensor | None = None,
    dh_0: Tensor | None = None,
    dshares: Tensor | None = None,
) -> None:
    """Pass addresses to C. The contiguous copies must stay alive until the call returns."""
    T, B, H = buffers.out.shape
    moments = buffers.moments if plan.norm == "batch" else tensors.moments
    constants = (moments, tensors.limit, *tensors[1:5], h_0)
    inputs = [one if one is None else one.contiguous() for one in constants]
    addressed = (*buffers[:4], *inputs, grad, dh_0, dshares)
    native_loop._native.supernet(  # type: ignore[attr-defined]  # `native_loop` handles its absence
        grad is not None,
        buffers.out.dtype == torch.float64,
        T,
        len(buffers.states),
        B,
        H,
        plan.nodes + 1,
        NORMS.index(plan.norm),
        *_layout(plan),
        *(0 if one is None else one.data_ptr() for one in addressed),
    )
