"""The DAG supernet, the search cell of DARTS, on any backend: each edge mixes its ops by learned shares.

At a step t, with x_t `(B, I)` and h the previous step's states `(B, H)`:

    [gate, z] = x_t W_x + h W_h[0]
    s_0 = norm(h + sigmoid(gate) (tanh(z) - h))
    [gate_ij, z_ij] = s_j W_h[i]                                                             j < i
    s_i = norm(sum_j (sum_k share_ijk (s_j + sigmoid(gate_ij) (o_k(z_ij) - s_j)) + skip s_j))
    h_t = sum_i mean_i s_i

`none` adds nothing. This is the arithmetic of DARTS' `model_search.py` for recurrent cells (Liu et al. 2019), but that
moments are kept for each state, where the published code has all states share one module of batch norm.
"""

from __future__ import annotations

from torch import Tensor

from grownas.cells import reference
from grownas.cells.dag_plan import DagPlan as DagPlan
from grownas.cells.dag_plan import DagTensors as DagTensors


def run_on(backend: str, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states over a sequence, computed by a backend; see `reference.run_dag_supernet`."""
    return reference.run_dag_supernet(plan, tensors, x, h_0)
