"""The windows of a part of the data, as the batches that criteria read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from grownas.backbones.chain import Backbone
from grownas.protocols import Model, Task, Window
from grownas.training.recipe import device_of


class Batches:
    """The windows of a part with their first states, as batches for criteria; can be iterated several times.

    Attributes:
        gradients: batches yielded so far; a criterion computes a forward and a backward pass on each, as a step does.
    """

    def __init__(self, model: Model, task: Task, part: str) -> None:
        """Copy the model in evaluation mode, without dropout; nothing is computed yet."""
        self.model, self.task, self.part = copy.deepcopy(model).eval(), task, part
        self.gradients = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Window, Tensor | None]]:
        """Yield `(x, window, h_0)`."""
        hidden = None
        for x, window in self._windows():
            if window.fresh:
                hidden = None
            if not window.burn_in:
                self.gradients += 1
                yield x, window, hidden
            with torch.no_grad():
                _, hidden = self.model.core(x, hidden)

    def _windows(self) -> Iterator[tuple[Tensor, Window]]:
        for window in (each.to(device_of(self.model)) for each in self.task.windows(self.part, seed=0)):
            with torch.no_grad():
                x = self.model.encode(window.x)
            yield x, window

    def loss(self, out: Tensor, window: Window) -> Tensor:
        """Return the mean loss of a window from the core's output `(T, B, H)`."""
        return self.task.loss(self.model, out, window)

    @torch.no_grad()
    def mean_loss(self, core: Backbone) -> float:
        """Return the mean loss over the windows with another core, in float64, since the predicted changes are small.

        The first states of the windows are those of the original core, as the prediction assumes.
        """
        core, (exact, states) = copy.deepcopy(core).double(), self._exact
        read = ((x, window) for x, window in exact._windows() if not window.burn_in)
        losses = [exact.loss(core(x, h_0)[0], window) for (x, window), h_0 in zip(read, states, strict=True)]
        return float(torch.stack(losses).mean())

    @cached_property
    def _exact(self) -> tuple[Batches, list[Tensor | None]]:
        """The same batches in float64, and the first state of each window; computed once for all other cores."""
        exact = Batches(copy.deepcopy(self.model).double(), self.task, self.part)
        return exact, [h_0 for _, _, h_0 in exact]
