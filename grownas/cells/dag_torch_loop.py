"""The time loop of a DAG in PyTorch calls, for any device and activation. `dag_sequence` explains the data.

As in `torch_loop`, the backward pass first computes its factors for all steps at once:

    before    M = [c o'(y) | (y - s_j) c (1 - c)]     replaces A; pointwise
    loop      A_t := g M_t                            with g the gradient of s_i
              gradient of s_j += (1 - c) g + A_t W_h^T  two calls per node
"""

from __future__ import annotations

import torch
from torch import Tensor

from grownas.cells import torch_loop
from grownas.cells.dag_sequence import INPUT_OP, DagBuffers, DagLoop, inputs
from grownas.genotype import DagGenotype
from grownas.ops import ACTIVATION


def forward(genotype: DagGenotype, W_h: Tensor, buffers: DagBuffers, h_0: Tensor) -> None:
    """Run the loop forward; see `DagLoop`."""
    T, _, H = buffers.out.shape
    kept = buffers.states.shape[1]
    functions = [ACTIVATION[name].f for name in (INPUT_OP, *(node.activation for node in genotype.nodes))]
    sources = [
        (i, node.reads, *rows)
        for i, (node, *rows) in enumerate(zip(genotype.nodes, W_h[1:], buffers.A, strict=True), 1)
    ]
    picked = torch.tensor(genotype.concat, device=h_0.device)
    h = h_0
    for t in range(T):
        k = t if kept == T else 0
        a = buffers.A_0[t].addmm_(h, W_h[0])
        states = buffers.states[:, k].unbind()
        torch.lerp(h, functions[0](a[:, :H]), torch.sigmoid(a[:, H:]), out=states[0])
        for i, j, weights, rows in sources:
            s, a = states[j], torch.mm(states[j], weights, out=rows[k])
            torch.lerp(s, functions[i](a[:, :H]), torch.sigmoid(a[:, H:]), out=states[i])
        h = torch.mean(buffers.states[:, k].index_select(0, picked), 0, out=buffers.out[t])


def backward(genotype: DagGenotype, W_h: Tensor, buffers: DagBuffers, h_0: Tensor, grad: Tensor) -> Tensor:
    """Run the loop backward; see `DagLoop`."""
    T, B, H = buffers.out.shape
    N = len(genotype.nodes)
    names = [INPUT_OP, *(node.activation for node in genotype.nodes)]
    A = [buffers.A_0, *buffers.A]
    through = [_prepare(name, rows, s) for name, rows, s in zip(names, A, inputs(genotype, buffers, h_0), strict=True)]
    transposed = W_h.transpose(1, 2).unbind()
    nothing, carried = torch.zeros_like(h_0), torch.zeros_like(h_0)
    for t in range(T - 1, -1, -1):
        share = (carried + grad[t]) / len(genotype.concat)
        g = [share if i in genotype.concat else nothing for i in range(N + 1)]  # gradient of each state
        for i in range(N, -1, -1):
            a = A[i][t]
            a.view(B, 2, H).mul_(g[i].unsqueeze(1))
            passed = torch.addmm(g[i] * through[i][t], a, transposed[i])
            if i:
                j = genotype.nodes[i - 1].reads
                g[j] = g[j] + passed
            else:
                carried = passed
    return carried


def _prepare(name: str, A: Tensor, s: Tensor) -> Tensor:
    """Replace a node's A, at all steps, by the factors M of its state's gradient; return 1 - c."""
    H = s.shape[-1]
    z, gate = A[..., :H], torch.sigmoid(A[..., H:])
    y = ACTIVATION[name].f(z)
    through = 1 - gate
    torch.mul((y - s).mul_(gate), through, out=A[..., H:])
    torch.mul(gate, ACTIVATION[name].df(y, z), out=z)  # last, since y may be a view of z
    return through


LOOP = DagLoop("torch", forward, backward, torch_loop.multiply, keeps_values=False)
