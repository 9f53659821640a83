"""Times this machine's backends against plain autograd, nn.LSTM, nn.GRU and the matrix products that none can avoid.

All peers of a setting get the same input and hidden size and are timed in turn, repeat by repeat, so that whatever else
the machine does meets all alike. A time is the median over repeats, on one thread, after a warm-up.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from grownas.backbone import Backbone
from grownas.cells.cell import GrownRNN
from grownas.cells.chain import BACKENDS
from grownas.genotype import Genotype, Node, Op
from grownas.ops import DEFAULT_OPS

EAGER, LSTM, FLOOR = "reference", "nn.LSTM", "floor"
SUPERNET = (tuple(DEFAULT_OPS),) * 3
DERIVED = ((("hadamard", "tanh"),), (("add", "sigmoid"),), (("hadamard", "identity"),))
SAMPLE_S = 0.005  # seconds that one sample takes at least: shorter ones are read off several calls
FULL, QUICK = 25, 5  # repeats


class Setting(NamedTuple):
    """What is timed: a chain, its sizes, and whether the gradients of weights and input are part of it."""

    name: str
    T: int
    B: int
    I: int  # noqa: E741 - the field's name
    H: int
    ops: tuple[tuple[tuple[str, str], ...], ...]  # of each node
    backward: bool = True

    def __str__(self) -> str:
        return f"{self.name} T{self.T} B{self.B} I{self.I} H{self.H} J{len(self.ops)}"


SETTINGS = (
    Setting("supernet", 20, 32, 12, 32, SUPERNET),
    Setting("supernet", 20, 16, 12, 16, SUPERNET),
    Setting("derived", 35, 20, 300, 300, DERIVED),
    Setting("derived", 20, 32, 32, 32, DERIVED),
    Setting("derived, forward", 1, 1, 32, 32, DERIVED, backward=False),  # a stream's single step
)


def make_peers(setting: Setting) -> dict[str, Callable[[], object]]:
    """Return what is timed in a setting by name: every backend, nn.LSTM, nn.GRU and the floor."""
    models: dict[str, nn.Module] = {name: _chain(setting, name) for name in BACKENDS}
    models |= {LSTM: nn.LSTM(setting.I, setting.H), "nn.GRU": nn.GRU(setting.I, setting.H)}
    return {name: _call(model, setting) for name, model in models.items()} | {FLOOR: make_floor(setting)}


def make_floor(setting: Setting) -> Callable[[], object]:
    """Return a function that does the chain's unavoidable matrix products and nothing else.

    Forward: the hoisted input product, and one a step and node. Backward: one a step and node, one for each W_h, one
    for all W_x and one for the input's gradient.
    """
    T, B, I, H = setting.T, setting.B, setting.I, setting.H  # noqa: E741
    widths = [len(ops) * H for ops in setting.ops]
    x, W_x, to_x = torch.randn(T * B, I), torch.randn(I, sum(widths)), torch.randn(T * B, sum(widths))
    W_h, to_h = ([torch.randn(rows, width) for width in widths] for rows in (H, T * B))
    states, carried = torch.randn(T * B, H), torch.empty(B, H)
    steps = [[(one.view(T, B, -1)[t], weights) for one, weights in zip(to_h, W_h, strict=True)] for t in range(T)]
    s = states.view(T, B, H)

    def floor() -> None:
        torch.mm(x, W_x, out=to_x)
        for t, nodes in enumerate(steps):
            for u, weights in nodes:
                torch.mm(s[t], weights, out=u)
        if not setting.backward:
            return
        for nodes in reversed(steps):
            for delta, weights in reversed(nodes):
                torch.mm(delta, weights.t(), out=carried)
        for delta in to_h:
            torch.mm(states.t(), delta)
        torch.mm(x.t(), to_x)
        torch.mm(to_x, W_x.t())

    return torch.no_grad()(floor)


def measure(setting: Setting, *, repeats: int) -> dict[str, float]:
    """Return each peer's milliseconds a call, the median over repeats, with as many threads as torch uses now."""
    peers = make_peers(setting)
    calls = dict.fromkeys(peers, 1)
    for name, peer in peers.items():
        peer()  # warm-up, as is finding how many calls make a sample: first calls allocate and choose kernels
        while calls[name] * _seconds(peer, calls[name]) < SAMPLE_S:
            calls[name] *= 2
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, peer in peers.items():
            samples[name].append(1e3 * _seconds(peer, calls[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def describe_machine() -> str:
    """Return what the times depend on: backends, threads, versions, processor."""
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    threads = f"{torch.get_num_threads()} thread(s)"
    return f"backends {', '.join(BACKENDS)}; float32, {threads}; torch {torch.__version__}; {cpu}"


def rows(setting: Setting, times: dict[str, float]) -> Iterator[str]:
    """Yield a setting's lines of the table: milliseconds, and their ratios to plain autograd, nn.LSTM and the floor."""
    for number, (name, ms) in enumerate(times.items()):
        ratios = "".join(f"{ms / times[other]:10.2f}" for other in (EAGER, LSTM, FLOOR))
        yield f"{'' if number else str(setting):<38}{name:<12}{ms:10.3f}{ratios}"


def run(*, quick: bool = False) -> Iterator[str]:
    """Yield the lines of the table as they are measured, on one thread; `quick` takes few repeats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield describe_machine()
        yield "forward and gradients of weights and input, unless it says forward; ratios below 1 are faster"
        yield f"{'setting':<38}{'peer':<12}{'ms':>10}{'/ eager':>10}{'/ LSTM':>10}{'/ floor':>10}"
        for setting in SETTINGS:
            yield from rows(setting, measure(setting, repeats=QUICK if quick else FULL))
    finally:
        torch.set_num_threads(threads)


def _chain(setting: Setting, backend: str) -> nn.Module:
    if setting.ops == SUPERNET:
        return Backbone(setting.I, setting.H, len(SUPERNET), backend=backend)
    nodes = tuple(Node(tuple(Op(*op, 1 / len(ops)) for op in ops)) for ops in setting.ops)
    return GrownRNN(Genotype(nodes), setting.I, setting.H, backend=backend)


def _call(model: nn.Module, setting: Setting) -> Callable[[], object]:
    x = torch.randn(setting.T, setting.B, setting.I, requires_grad=setting.backward)
    if not setting.backward:
        return torch.no_grad()(lambda: model(x))
    wanted, grad = [x, *model.parameters()], torch.randn(setting.T, setting.B, setting.H)
    # a node without Hadamard ops has an empty b_h, which plain autograd does not reach
    return lambda: torch.autograd.grad(model(x)[0], wanted, grad, allow_unused=True)


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
