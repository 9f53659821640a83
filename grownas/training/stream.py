"""The windows of a part of a task's data, as the training loop reads them: in order, from any place on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from grownas.protocols import Model, Task, Window


class Stream:
    """The windows of a part, epoch after epoch, with a position that can be saved and restored."""

    def __init__(self, task: Task, part: str, seed: int, device: torch.device) -> None:
        """Begin with epoch 0; `seed` and the number of the epoch determine the order of its windows."""
        self.task, self.part, self.seed, self.device = task, part, seed, device
        self.epoch, self.index, self.hidden = 0, 0, None
        self.length: int | None = None  # windows of this epoch; counted at first use
        self.windows = self._open()

    def _open(self) -> Iterator[Window]:
        self.length = None
        return itertools.islice(self._epoch(self.task), self.index, None)

    def _epoch(self, task: Any) -> Iterator[Window]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        windows: Iterator[Window] = task.windows(self.part, seed=seed)
        return windows

    @property
    def done(self) -> float:
        """Epochs before the last returned window, with fractions."""
        if self.length is None:
            untaught = getattr(self.task, "task", self.task)  # its windows are as many, without a teacher's pass
            self.length = sum(1 for _ in self._epoch(untaught))
        return self.epoch + max(0, self.index - 1) / self.length

    def next(self) -> Window | None:
        """Return the next window, or None once at the end of each epoch."""
        window = next(self.windows, None)
        self.index += 1
        if window is None:
            self.epoch, self.index = self.epoch + 1, 0
            self.windows = self._open()
        return None if window is None else window.to(self.device)

    def next_learned(self, model: Model) -> Window:
        """Return the next window that is not burn-in, across epochs; burn-in windows update the state."""
        while True:
            window = self.next()
            if window is None:
                continue
            if window.fresh:
                self.hidden = None
            if not window.burn_in:
                return window
            with torch.no_grad():
                _, self.hidden = model.states(window.x, self.hidden)

    def position(self) -> dict[str, Any]:
        """Return the place of the next window, and the state before it."""
        return {"epoch": self.epoch, "index": self.index, "hidden": self.hidden}

    def go_to(self, place: dict[str, Any]) -> None:
        """Go to a place that `position` returned."""
        self.epoch, self.index, self.hidden = place["epoch"], place["index"], to_device(place["hidden"], self.device)
        self.windows = self._open()


def to_device(hidden: Any, device: torch.device) -> Any:
    """Return a state on a device; a state is None, a tensor or a tuple of states."""
    if isinstance(hidden, tuple):
        return tuple(to_device(part, device) for part in hidden)
    return hidden if hidden is None else hidden.to(device)
