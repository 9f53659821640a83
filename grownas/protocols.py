"""Every seam on one page: what a model and a task must offer.

Axes everywhere: `T` time, `B` batch, `I` input, `H` hidden, `O` output, in the order `(T, B, H)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
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
    """A task's whole model around a `Recurrent`, its part `core`: an `nn.Module`. It reads the `x` of a `Window`."""

    core: nn.Module

    def encode(self, x: Tensor) -> Tensor:
        """Map what a window holds to what the core reads, `(T, B, I)` in the weights' dtype."""
        ...

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)`, in training with what regularises it, and the last state."""
        ...

    def __call__(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map what a window holds and a state to predictions `(T, B, O)` and the last state."""
        ...


class Window(NamedTuple):
    """One piece of training data, at most `bptt` steps long.

    Attributes:
        x: inputs, shape `(T, B, I)`, or ids of words, `(T, B)`.
        target: what comes one step later, shape `(T, B, O)`, or ids, `(T, B)`.
        weight: loss weight of each time step and stream, shape `(T, B, 1)`, or None for 1.
        fresh: the state starts at zero before this window.
        burn_in: the window only carries the state forward; nothing is learned from it.
        rate: factor on the learning rates of the step that is made from it.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    fresh: bool = False
    burn_in: bool = False
    rate: float = 1.0

    def to(self, device: torch.device) -> Window:
        """Return the window on a device."""
        weight = None if self.weight is None else self.weight.to(device)
        return self._replace(x=self.x.to(device), target=self.target.to(device), weight=weight)


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
    kind: str  # `series` or `language`: which contest it is for
    metric: str
    loss_name: str
    unit: str | None  # what the speed of training counts, such as `words`; None where nobody asks

    def model(self, core: nn.Module, *, generator: Generator) -> Any:
        """Build the task's `Model` around a core; new parameters are drawn from `generator`.

        A language task takes several cores, too, one layer on another.
        """
        ...

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield one epoch of a part in order; the same seed gives the same windows."""
        ...

    def loss(self, model: Any, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean training loss from the core's output `(T, B, H)`, a scalar."""
        ...

    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, the state carried in from the days before it. No gradient."""
        ...

    def with_device(self, device: str) -> Task:
        """Return the same task, its models built on a device."""
        ...

    def with_loss(self, name: str) -> Task:
        """Return the same task with another training loss."""
        ...

    def with_refit(self) -> Task:
        """Return the same task with the validation part joined to the training part."""
        ...
