"""The chains and DAGs that are timed, their sizes and their limits."""

from __future__ import annotations

from typing import NamedTuple

from grownas.bench.figures import Must
from grownas.ops import DEFAULT_OPS

EAGER, LSTM, GRU, FLOOR = "reference", "nn.LSTM", "nn.GRU", "floor"
PUBLISHED = "published"  # a DAG supernet as DARTS' code runs it: plain autograd, all edges of a node at a time
Ops = tuple[tuple[tuple[str, str], ...], ...]  # ops of each node
SUPERNET: Ops = (tuple(DEFAULT_OPS),) * 3
DERIVED: Ops = ((("hadamard", "tanh"),), (("add", "sigmoid"),), (("hadamard", "identity"),))


class Setting(NamedTuple):
    """A chain to be timed.

    Attributes:
        kind: `supernet`, with trained shares, or `derived`, a derived cell.
        T: time steps.
        B: batch size.
        I: input size.
        H: hidden size.
        ops: ops of each node.
        musts: limits on the times.
        mode: `gradients`: forward pass and gradients of weights and input; `no_grad` or `inference_mode`: one `step` of
            a stream.
        device: device.
    """

    kind: str
    T: int
    B: int
    I: int  # noqa: E741 - the field's name
    H: int
    ops: Ops
    musts: tuple[Must, ...] = ()
    mode: str = "gradients"
    device: str = "cpu"

    def __str__(self) -> str:
        sizes = f"{self.kind} T{self.T} B{self.B} I{self.I} H{self.H} J{len(self.ops)}"
        words = [sizes, *([] if self.gradients else ["step", self.mode]), *([] if self.device == "cpu" else ["GPU"])]
        return " ".join(words)

    @property
    def gradients(self) -> bool:
        """Whether the backward pass is timed too."""
        return self.mode == "gradients"

    @property
    def operations(self) -> int:
        """Additions and multiplications of the chain's matrix products; the backward pass has twice the forward's."""
        forward = 2 * self.T * self.B * (self.I + self.H) * self.H * sum(map(len, self.ops))
        return 3 * forward if self.gradients else forward

    def doubled(self) -> dict[str, Setting]:
        """Return the settings with one size doubled, by the name of that size."""
        return {
            "2 T": self._replace(T=2 * self.T),
            "2 B": self._replace(B=2 * self.B),
            "2 nodes": self._replace(ops=self.ops * 2),
            "2 ops": self._replace(ops=tuple(node * 2 for node in self.ops)),
        }


class DagSetting(NamedTuple):
    """A DAG supernet that is timed: forward and the gradients of weights, shares and input, on the CPU.

    Attributes:
        T: steps.
        B: batch.
        I: input size.
        H: hidden size.
        N: nodes.
        ops: of each edge.
        norm: of the states; see `dag_plan.DagPlan`.
        musts: what must hold of the times.
    """

    T: int
    B: int
    I: int  # noqa: E741 - the field's name
    H: int
    N: int
    ops: tuple[str, ...]
    norm: str
    musts: tuple[Must, ...] = ()

    def __str__(self) -> str:
        return f"dag supernet T{self.T} B{self.B} I{self.I} H{self.H} N{self.N} K{len(self.ops)} norm {self.norm}"

    @property
    def edges(self) -> int:
        """How many edges there are."""
        return self.N * (self.N + 1) // 2

    @property
    def operations(self) -> int:
        """Additions and multiplications of the matrix products; the backward pass has twice the forward's."""
        return 3 * 2 * self.T * self.B * (self.I + self.H * (1 + self.edges)) * 2 * self.H


SMALL = Setting("supernet", 20, 32, 12, 32, SUPERNET, (Must(EAGER, 1 / 8), Must(FLOOR, 2.0)))
RETURNS = Setting("supernet", 20, 16, 12, 16, SUPERNET, (Must(EAGER, 1 / 10),))  # the size of the task index_returns
LARGE = Setting("supernet", 35, 64, 300, 300, SUPERNET, (Must(FLOOR, 1.25),))
CELL = Setting("derived", 35, 20, 300, 300, DERIVED, (Must(LSTM, 1.05),))
SMALL_CELL = Setting("derived", 20, 32, 32, 32, DERIVED, (Must(LSTM, 1.0),))
STEPS = tuple(
    Setting("derived", 1, 1, 32, 32, DERIVED, (Must(LSTM, 1.0),), mode) for mode in ("inference_mode", "no_grad")
)

DARTS_OPS = ("none", "tanh", "relu", "sigmoid", "identity")
SMALL_DAG = DagSetting(35, 32, 64, 64, 8, DARTS_OPS, "batch", (Must(EAGER, 1 / 6), Must(PUBLISHED, 1 / 5)))
LARGE_DAG = DagSetting(35, 64, 300, 300, 8, DARTS_OPS, "batch", (Must(FLOOR, 1.6),))  # DARTS' search on PTB

SPEED = (SMALL, RETURNS, LARGE, CELL, SMALL_CELL, *STEPS)
DAGS = (SMALL_DAG, SMALL_DAG._replace(norm="none"), LARGE_DAG, LARGE_DAG._replace(norm="none"))
DAGS_QUICK = (SMALL_DAG,)
GROWTH = (SMALL, RETURNS, LARGE, CELL, SMALL_CELL)  # growth of the time when a size doubles
GROWTH_QUICK = (SMALL, CELL)
GROWTH_BAR = 2.1
THREADS = (LARGE, SMALL._replace(I=128, H=128), CELL, SMALL_CELL._replace(I=128, H=128))
THREADS_BAR = 1.03  # two threads must not be slower; times of the same code differ by 3 %
MEMORY = Setting("supernet", 70, 64, 300, 300, SUPERNET)
MEMORY_BAR = 2.0  # times the size of the ops' outputs
FIRST = (SMALL, SMALL_CELL)
FIRST_BAR_MS = 50.0  # a new cell's first call may take this much longer than later calls
GPU = (
    Setting("derived", 35, 64, 850, 850, DERIVED, (Must(LSTM, 1.2),), device="cuda"),
    Setting("supernet", 35, 64, 300, 300, SUPERNET, (Must(FLOOR, 1.5),), device="cuda"),
)
