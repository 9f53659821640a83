"""Every seam on one page: what a model and a task must offer.

Axes everywhere: `T` time, `B` batch, `I` input, `H` hidden, `O` output, in the order `(T, B, H)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn

    Hidden = Tensor | tuple[Tensor, ...]  # one tensor, or h and c of an LSTM


class Recurrent(Protocol):
    """What reads a sequence: supernet, derived cell, `nn.LSTM`, `nn.GRU`. An `nn.Module` with T first."""

    input_size: int
    hidden_size: int

    def __call__(self, x: Tensor, h_0: Any = None) -> tuple[Tensor, Any]:
        """Map `(T, B, I)` and a state to `(T, B, H)` and the last state."""
        ...


class Model(Protocol):
    """A task's whole model around a `Recurrent`: an `nn.Module` with the parts `core` and `readout`."""

    core: nn.Module
    readout: nn.Linear

    def __call__(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map `(T, B, I)` and a state to predictions `(T, B, O)` and the last state."""
        ...


class Window(NamedTuple):
    """One piece of training data, at most `bptt` steps long.

    Attributes:
        x: inputs, shape `(T, B, I)`.
        target: what comes one step later, shape `(T, B, O)`.
        weight: loss weight of each time step and stream, shape `(T, B, 1)`, or None for 1.
        fresh: the state starts at zero before this window.
        warm_up: the window only carries the state forward; nothing is learned from it.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    fresh: bool = False
    warm_up: bool = False


class Evaluation(NamedTuple):
    """A model's result on one part of the data.

    Attributes:
        metric: the task's figure of merit, lower is better (MSE, perplexity).
        losses: the training loss of each evaluated time step in time order, float64, shape `(n,)`.
        forecasts: the predictions, float64, shape `(n, O)`; None where they are too large to keep.
    """

    metric: float
    losses: np.ndarray
    forecasts: np.ndarray | None = None


class Task(Protocol):
    """Data, loss and score. Parts: `train` = `weights` + `architecture`, then `val`, then `test`."""

    name: str
    metric: str
    loss_name: str
    input_size: int

    def model(self, core: nn.Module, *, generator: Generator) -> Any:
        """Build the task's `Model` around a core; new parameters are drawn from `generator`."""
        ...

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield one epoch of a part in order; the same seed gives the same windows."""
        ...

    def loss(self, output: Tensor, window: Window) -> Tensor:
        """Return the mean training loss of a window's predictions `(T, B, O)`, a scalar."""
        ...

    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, the state carried in from the days before it. No gradient."""
        ...

    def with_loss(self, name: str) -> Task:
        """Return the same task with another training loss."""
        ...

    def with_refit(self) -> Task:
        """Return the same task with the validation part joined to the training part."""
        ...
