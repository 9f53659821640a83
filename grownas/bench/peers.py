"""The peers timed in a setting: all backends, nn.LSTM, nn.GRU and the floor, as functions without arguments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from grownas.backbones.chain import Backbone
from grownas.bench.settings import FLOOR, GRU, LSTM, Ops, Setting
from grownas.cells.backends import BACKENDS, choose
from grownas.cells.cell import GrownRNN
from grownas.cells.node import Node as CellNode
from grownas.genotype import Genotype, Node, Op

Call = Callable[[], object]


def make_peers(setting: Setting) -> dict[str, Call]:
    """Return the peers timed in a setting, by name."""
    sizes = setting.I, setting.H
    models: dict[str, nn.Module] = {name: make_chain(setting, name) for name in usable(setting)}
    models |= {LSTM: nn.LSTM(*sizes).to(setting.device), GRU: nn.GRU(*sizes).to(setting.device)}
    calls = {name: make_call(model, setting) for name, model in models.items()} | {FLOOR: make_floor(setting)}
    if setting.device == "cuda":
        calls |= {name: in_float32(calls[name]) for name in (LSTM, GRU)} | {FLOOR: captured(calls[FLOOR])}
    return calls


def make_chain(setting: Setting, backend: str = "auto") -> Backbone | GrownRNN:
    """Return a setting's supernet or derived cell with a backend."""
    return CHAINS[setting.kind](setting.I, setting.H, setting.ops, backend).to(setting.device)


def _supernet(input_size: int, hidden_size: int, ops: Ops, backend: str) -> Backbone:
    return Backbone.from_ops(input_size, hidden_size, ops, backend=backend)


def _derived(input_size: int, hidden_size: int, ops: Ops, backend: str) -> GrownRNN:
    nodes = tuple(Node(tuple(Op(*op, 1 / len(node)) for op in node)) for node in ops)
    return GrownRNN(Genotype(nodes), input_size, hidden_size, backend=backend)


CHAINS: dict[str, Callable[[int, int, Ops, str], Backbone | GrownRNN]] = {"supernet": _supernet, "derived": _derived}


def usable(setting: Setting) -> list[str]:
    """Return the backends that can run a setting on this machine."""
    return [name for name, reason in reasons(setting).items() if reason is None]


def reasons(setting: Setting) -> dict[str, str | None]:
    """Return for each backend why it cannot run a setting on this machine; None if it can."""
    device, activations = torch.device(setting.device), {activation for node in setting.ops for _, activation in node}
    return {name: backend.unsupported(device, torch.float32, activations) for name, backend in BACKENDS.items()}


def ours(setting: Setting) -> str:
    """Return the backend that `auto` chooses in a setting."""
    return choose("auto", [module for module in make_chain(setting).modules() if isinstance(module, CellNode)])


def make_call(model: nn.Module, setting: Setting) -> Call:
    """Return a model's call in a setting's mode."""
    if not setting.gradients:
        return _step(model, setting, getattr(torch, setting.mode))
    x = torch.randn(setting.T, setting.B, setting.I, device=setting.device, requires_grad=True)
    grad = torch.randn(setting.T, setting.B, setting.H, device=setting.device)
    wanted = [x, *model.parameters()]
    # a node without Hadamard ops has an empty b_h, which plain autograd does not reach
    return lambda: torch.autograd.grad(model(x)[0], wanted, grad, allow_unused=True)


def _step(model: nn.Module, setting: Setting, mode: Callable[[], AbstractContextManager[object]]) -> Call:
    """Return a function that does one step of a stream and keeps the state for the next call."""
    x = torch.randn(setting.B, setting.I, device=setting.device)
    take = model.step if isinstance(model, GrownRNN) else model
    x = x if isinstance(model, GrownRNN) else x.unsqueeze(0)  # nn.LSTM and nn.GRU need the time axis
    state: Any = None

    def step() -> Tensor:
        nonlocal state
        with mode():
            out, state = cast("Any", take)(x, state)
        return cast("Tensor", out)

    return step


def make_floor(setting: Setting) -> Call:
    """Return a function that does only the unavoidable matrix products of a chain.

    Forward: one product x W_x for all steps and nodes, and one product per step and node. Backward: one product per
    step and node, one per W_h, one for all W_x and one for the input's gradient. All write to allocated memory.
    """
    T, B, I, H = setting.T, setting.B, setting.I, setting.H  # noqa: E741

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=setting.device)

    widths = [len(ops) * H for ops in setting.ops]
    x, W_x, to_x = draw(T * B, I), draw(I, sum(widths)), draw(T * B, sum(widths))
    W_h, to_h, dW_h = ([draw(rows, width) for width in widths] for rows in (H, T * B, H))
    states, carried, dW_x, dx = draw(T * B, H), draw(B, H), draw(I, sum(widths)), draw(T * B, I)
    steps = [[(one.view(T, B, -1)[t], weights) for one, weights in zip(to_h, W_h, strict=True)] for t in range(T)]
    s = states.view(T, B, H)

    def floor() -> None:
        torch.mm(x, W_x, out=to_x)
        for t, nodes in enumerate(steps):
            for u, weights in nodes:
                torch.mm(s[t], weights, out=u)
        if not setting.gradients:
            return
        for nodes in reversed(steps):
            for delta, weights in reversed(nodes):
                torch.mm(delta, weights.t(), out=carried)
        for delta, weight_gradient in zip(to_h, dW_h, strict=True):
            torch.mm(states.t(), delta, out=weight_gradient)
        torch.mm(x.t(), to_x, out=dW_x)
        torch.mm(to_x, W_x.t(), out=dx)

    return torch.no_grad()(floor)


def in_float32(call: Call) -> Call:
    """Return a cuDNN call in full float32 as for the other peers; by default PyTorch lets only cuDNN use TF32."""

    def exact() -> object:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return call()

    return exact


def captured(call: Call) -> Call:
    """Return a GPU call as a CUDA graph, so that its time does not include the launches."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # libraries allocate their workspace on their first call, which a capture forbids
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
