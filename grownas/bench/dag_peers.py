"""What is timed of a DAG supernet: every backend, the published code's way and the floor; see `peers`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from grownas.bench.settings import FLOOR, PUBLISHED, DagSetting
from grownas.cells import dag_supernet
from grownas.cells.backends import BACKENDS, choose_dag_supernet
from grownas.cells.dag_plan import DagPlan, DagTensors
from grownas.ops import ACTIVATION

SHARE = 0.05  # of each op: at a fifth the states of a DAG without norms grow beyond all bounds within 35 steps


def make_dag_peers(setting: DagSetting) -> dict[str, Callable[[], object]]:
    """Return what is timed in a setting, by name."""
    plan = _plan(setting)
    runs: dict[str, Callable[[DagTensors, Tensor, Tensor], Tensor]] = {
        name: functools.partial(_run, name, plan)
        for name, backend in BACKENDS.items()
        if backend.run_dag_supernet is not None
        and backend.unsupported(torch.device("cpu"), torch.float32, set(setting.ops) - {"none"}) is None
    }
    runs[PUBLISHED] = functools.partial(_published, setting)
    return {name: _call(setting, run) for name, run in runs.items()} | {FLOOR: _floor(setting)}


def our_dag(setting: DagSetting) -> str:
    """Return the backend that `auto` chooses in a setting."""
    return choose_dag_supernet("auto", _plan(setting), torch.empty(0))


def _plan(setting: DagSetting) -> DagPlan:
    return DagPlan((setting.ops,) * setting.edges, setting.norm)


def _run(backend: str, plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> Tensor:
    return dag_supernet.run_on(backend, plan, tensors, x, h_0)[0]


def _call(setting: DagSetting, run: Callable[[DagTensors, Tensor, Tensor], Tensor]) -> Callable[[], object]:
    T, B, I, H, N = setting[:5]  # noqa: E741 - the field's name
    bound = H**-0.5
    W_x, W_h = (torch.empty(*shape, 2 * H).uniform_(-bound, bound) for shape in ((I,), (N + 1, H)))
    shares = torch.full((setting.edges * len(setting.ops),), SHARE)
    mean = torch.tensor([0.0] + [1 / N] * N)
    x, h_0, grad = torch.randn(T, B, I), torch.zeros(B, H), torch.randn(T, B, H)
    wanted = [one.requires_grad_() for one in (x, W_x, W_h, shares)]
    tensors = DagTensors(W_x, W_h, shares, mean, torch.tensor(0.0), None)
    return lambda: torch.autograd.grad(run(tensors, x, h_0), wanted, grad)


def _published(setting: DagSetting, tensors: DagTensors, x: Tensor, h: Tensor) -> Tensor:
    """Run it as DARTS' code does: plain autograd, but all edges of a node at a time, for all have the same ops."""
    shares, out = tensors.shares.view(setting.edges, len(setting.ops), 1, 1), []

    def normalise(s: Tensor) -> Tensor:
        return s if setting.norm == "none" else functional.batch_norm(s, None, None, training=True)

    for x_t in x:
        gate, z = (x_t @ tensors.W_x + h @ tensors.W_h[0]).chunk(2, -1)
        states = normalise(h + gate.sigmoid() * (z.tanh() - h)).unsqueeze(0)
        for i, weights in enumerate(tensors.W_h[1:], 1):
            gate, z = (states @ weights).chunk(2, -1)
            gate, own = gate.sigmoid(), shares[i * (i - 1) // 2 : i * (i + 1) // 2]
            s = torch.zeros_like(h)
            for k, name in enumerate(setting.ops):
                if name != "none":
                    s = s + (own[:, k] * (states + gate * (ACTIVATION[name].f(z) - states))).sum(0)
            states = torch.cat([states, normalise(s).unsqueeze(0)])
        h = states[1:].mean(0)
        out.append(h)
    return torch.stack(out)


def _floor(setting: DagSetting) -> Callable[[], object]:
    """Return a function that does the supernet's unavoidable matrix products and nothing else.

    Forward: the hoisted input product, and one a step and node over all its edges. Backward: one a step and node, one
    for each node's weights, one for W_x and one for the input's gradient. All write to memory that is there.
    """
    T, B, I, H, N = setting[:5]  # noqa: E741 - the field's name
    rows = [B, *(i * B for i in range(1, N + 1))]  # of each node's products
    x, W_x, dW_x, dx = torch.randn(T * B, I), torch.randn(I, 2 * H), torch.randn(I, 2 * H), torch.randn(T * B, I)
    W_h, dW_h = torch.randn(N + 1, H, 2 * H), torch.randn(N + 1, H, 2 * H)
    states, carried = torch.randn(T, N * B, H), torch.randn(N * B, H)
    A = [torch.randn(T, count, 2 * H) for count in rows]
    read = [torch.randn(T * count, H).t() for count in rows]

    def floor() -> None:
        torch.mm(x, W_x, out=A[0].view(T * B, 2 * H))
        for t in range(T):
            for count, weights, to in zip(rows, W_h, A, strict=True):
                torch.mm(states[t, :count], weights, out=to[t])
        for t in reversed(range(T)):
            for count, weights, grad in zip(rows, W_h, A, strict=True):
                torch.mm(grad[t], weights.t(), out=carried[:count])
        for s, grad, weight_gradient in zip(read, A, dW_h, strict=True):
            torch.mm(s, grad.flatten(0, 1), out=weight_gradient)
        torch.mm(x.t(), A[0].view(T * B, 2 * H), out=dW_x)
        torch.mm(A[0].view(T * B, 2 * H), W_x.t(), out=dx)

    return torch.no_grad()(floor)
