"""The DAG supernet, the search cell of DARTS, on any backend: each edge mixes its ops with learned shares.

At a step t, with x_t `(B, I)` and h the previous step's states `(B, H)`:

    [gate, z] = x_t W_x + h W_h[0]
    s_0 = norm(h + sigmoid(gate) (tanh(z) - h))
    [gate_ij, z_ij] = s_j W_h[i]                                                             j < i
    s_i = norm(sum_j (sum_k share_ijk (s_j + sigmoid(gate_ij) (o_k(z_ij) - s_j)) + skip s_j))
    h_t = sum_i mean_i s_i

The op `none` adds nothing. These are the formulas of `model_search.py` of DARTS for recurrent cells (Liu et al. 2019),
with one difference: each state has its own moments; in the published code all states share one batch norm module.
"""

from __future__ import annotations

from torch import Tensor

from grownas.cells import reference
from grownas.cells.dag_plan import DagPlan as DagPlan
from grownas.cells.dag_plan import DagTensors as DagTensors


def run_on(backend: str, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states over a sequence, computed by a backend; see `reference.run_dag_supernet`."""
    return reference.run_dag_supernet(plan, tensors, x, h_0)
