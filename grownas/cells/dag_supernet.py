"""The DAG supernet, the search cell of DARTS, on any backend: each edge mixes its ops with learned shares.

At a step t, with x_t `(B, I)` and h the previous step's states `(B, H)`:

    [gate, z] = x_t W_x + h W_h[0]
    s_0 = norm(h + sigmoid(gate) (tanh(z) - h))
    [gate_ij, z_ij] = s_j W_h[i]                                                             j < i
    s_i = norm(sum_j (sum_k share_ijk (s_j + sigmoid(gate_ij) (o_k(z_ij) - s_j)) + skip s_j))
    h_t = sum_i mean_i s_i

The op `none` adds nothing. These are the formulas of `model_search.py` of DARTS for recurrent cells (Liu et al. 2019),
with two differences: each state has its own moments, where all states of the published code share one batch norm
module; and with running moments `norm` cuts its result to +-limit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grownas.cells.backends import BACKENDS, choose_dag_supernet
from grownas.cells.chain import autocast_dtype
from grownas.cells.dag_plan import DagPlan, DagTensors


def run_on(backend: str, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states over a sequence and the moments seen, computed by a backend or by what `auto` finds.

    `reference.run_dag_supernet` documents arguments and results. Under autocast it computes as `chain.run` does.

    Raises:
        BackendError: the named backend cannot run this supernet.
        ValueError: plan, tensors and batch do not fit together.
    """
    dtype = autocast_dtype(x.device.type, tensors.W_x.dtype)
    if dtype is None:
        return _run(backend, plan, tensors, x, h_0)
    with torch.autocast(x.device.type, enabled=False):
        cast = DagTensors._make(None if one is None else one.to(dtype) for one in tensors)
        return _run(backend, plan, cast, x.to(dtype), h_0.to(dtype))


def _run(backend: str, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    chosen = BACKENDS[choose_dag_supernet(backend, plan, tensors.W_x)].run_dag_supernet
    assert chosen is not None  # else it would not have been chosen
    return chosen(plan, tensors, x, h_0)
