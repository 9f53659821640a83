"""Distillation: a task whose loss also draws a model's predictions to those of another model, its teacher."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grownas.protocols import Evaluation, Task, Window
from grownas.training.recipe import device_of


def squared_difference(predictions: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the mean squared difference over the outputs, `(T, B, 1)`; there is no temperature."""
    return (predictions - taught).square().mean(-1, keepdim=True)


def divergence(predictions: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return temperature^2 KL(teacher || model) in nats, of words whose logits are divided by it, `(T, B, 1)`.

    Reference:
        Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network; the factor keeps the size of the
        gradient when the temperature changes.
    """
    own, theirs = (nn.functional.log_softmax(one / temperature, -1) for one in (predictions, taught))
    each = nn.functional.kl_div(own, theirs, log_target=True, reduction="none")
    return temperature**2 * each.sum(-1, keepdim=True)


DISTANCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {  # by the kind of task
    "plain": squared_difference,
    "series": squared_difference,
    "language": divergence,
}


AT_ONCE = 1 << 18  # predictions of a teacher that are computed at once, if its windows are smaller


class MeanOf(nn.Module):
    """Several models of a task as one teacher: it predicts the mean of their predictions, of texts of their logits."""

    def __init__(self, models: Sequence[Any]) -> None:
        """Wrap the models, at least one."""
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor, hidden: Sequence[Any] | None = None) -> tuple[Tensor, Sequence[Any]]:
        """Map a window's `x` and a state to predictions `(T, B, O)` and the last state, one state per model."""
        states = hidden or [None] * len(self.models)
        found = [model(x, state) for model, state in zip(self.models, states, strict=True)]
        return torch.stack([predictions for predictions, _ in found]).mean(0), [state for _, state in found]


class Distilled:
    """A task for `training.loop` whose loss on one part of the data has a further term.

        loss = the task's loss + weight * mean distance of the model's predictions from its teacher's

    The teacher reads the part's windows in order, in evaluation mode and without gradient. Its state is carried from
    window to window; it is zero at the start of each epoch and before a fresh window. Small windows are read several at
    once. Everything else is the task's. If the task gives the slope of its loss, so does this one, for training
    without autograd.

    Attributes:
        task: the task.
        part: of the data, on which there is a teacher.
        weight: of the further term.
        temperature: of `divergence`.
        teacher: a model of the task that predicts; None: the loss is the task's. It may be replaced between two fits.
    """

    def __init__(self, task: Task, part: str, *, weight: float, temperature: float, teacher: Any = None) -> None:
        """Take a copy of the teacher."""
        self.task, self.part, self.weight, self.temperature = task, part, weight, temperature
        self.metric, self.unit = task.metric, task.unit
        self.teacher: Any = None
        self.learn_from(teacher)
        if hasattr(task, "loss_and_slope") and DISTANCES[task.kind] is squared_difference:
            self.loss_and_slope = self._loss_and_slope

    def learn_from(self, teacher: Any) -> None:
        """Take a copy of another teacher."""
        self.teacher = copy.deepcopy(teacher).eval() if teacher is not None else None

    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield an epoch of a part, with the teacher's predictions where it has one.

        Raises:
            DataError: the part is too short.
        """
        windows = self.task.windows(part, seed=seed)
        return windows if self.teacher is None or part != self.part else self._taught(windows)

    def _taught(self, windows: Iterator[Window]) -> Iterator[Window]:
        hidden, most, group = None, 1, list[Window]()  # windows that are read at once: at first one
        for window in itertools.chain(windows, [None]):
            if group and (window is None or window.fresh or _shape(window) != _shape(group[0]) or len(group) == most):
                predictions, hidden = self._read(group, hidden)
                most = max(1, AT_ONCE * len(group) // predictions.numel())
                lengths = [len(one.x) for one in group]
                for one, taught in zip(group, torch.split(predictions, lengths), strict=True):
                    yield one if one.burn_in else one._replace(taught=taught)
                group = []
            if window is not None:
                group.append(window)

    @torch.no_grad()
    def _read(self, group: Sequence[Window], hidden: Any) -> tuple[Tensor, Any]:
        x = torch.cat([window.x for window in group]).to(device_of(self.teacher))
        predictions, hidden = self.teacher(x, None if group[0].fresh else hidden)
        return predictions, hidden

    def _loss_and_slope(self, window: Window, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of predictions `(T, B, O)` and its gradient by them, without autograd."""
        loss, slope = self.task.loss_and_slope(window, predictions)  # type: ignore[attr-defined]
        if window.taught is None:
            return loss, slope
        apart = predictions - window.taught
        weighted = apart if window.weight is None else apart * window.weight
        distance = (weighted * apart).mean()
        return loss + self.weight * distance, slope + (2 * self.weight / apart.numel()) * weighted

    def loss(self, model: Any, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean loss from the core's output `(T, B, H)`, a scalar."""
        own = self.task.loss(model, out, window)
        return own if window.taught is None else own + self.weight * self.distance(model, out, window)

    def distance(self, model: Any, out: Tensor, window: Window) -> Tensor:
        """Return the mean distance of a model's predictions from `window.taught`, weighted as the window is."""
        assert window.taught is not None
        each = DISTANCES[self.task.kind](model.predictions(out, window.x), window.taught, self.temperature)
        return (each if window.weight is None else each * window.weight).mean()

    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, as the task does."""
        return self.task.evaluate(model, part)


def _shape(window: Window) -> torch.Size:
    """Return the shape of a window's time step."""
    return window.x.shape[1:]
