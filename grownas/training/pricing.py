"""A task whose loss also prices what a mixture over bit widths is expected to cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from grownas.protocols import Evaluation, Task, Window


class Priced:
    """A task for `training.loop`, for a model whose core is a `cells.widths.MixedCell`.

        loss = the task's loss + eta * expected cost + mu * done * entropy of the shares

    The cost is a fraction of that at the largest width. `done` rises from 0 to 1 over the search, so that the shares
    first spread and then settle on one width each. Everything else is the task's.

    Reference:
        Cai & Vasconcelos (2020), EdMIPS, eq. 9, for the cost; Gao et al. (2022), QuantNAS, for the entropy.

    Attributes:
        task: the task.
        eta: price of the cost.
        mu: price of the entropy at the end.
    """

    def __init__(self, task: Task, *, eta: float, mu: float) -> None:
        """Wrap a task."""
        self.task, self.eta, self.mu = task, eta, mu
        self.metric, self.unit = task.metric, task.unit

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield the task's windows."""
        return self.task.windows(part, seed=seed)

    def loss(self, model: Any, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean loss from the core's output `(T, B, H)`, a scalar."""
        core, own = model.core, self.task.loss(model, out, window)
        loss: Tensor = own + self.eta * core.expected_cost() + self.mu * core.done * core.entropy()
        return loss

    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, as the task does: without the price."""
        return self.task.evaluate(model, part)
