"""Scores of finished models, trained or fitted, in a common form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from grownas.protocols import Evaluation, Model, Module, Task

DIVERGED = 100.0  # standard deviations of the training part


@dataclass(frozen=True)
class Score:
    """One model's score: the data for its entry in `summary.json`.

    Attributes:
        model: the model's name in tables.
        params: number of trained parameters.
        val, test: evaluations on the two parts.
        seconds: wall time of all fits of the model, including those that were not chosen.
        settings: number of settings tried.
        chosen: the settings chosen on validation data or by blocked folds.
        speed: training speed in the task's unit per second; None if the task has no unit or nothing was trained.
        steps: weight steps of all fits; None if nothing was trained.
        cpu_seconds: processor time of all fits; None if it was not measured.
        gradients: forward and backward passes on a window in all work; None if they were not counted.
        capped: whether the chosen fit reached the epoch limit before patience ran out, so that it might have improved
            with more epochs.
    """

    model: str
    params: int
    val: Evaluation
    test: Evaluation
    seconds: float
    settings: int = 1
    chosen: dict[str, Any] = field(default_factory=dict)
    speed: float | None = None
    steps: int | None = None
    cpu_seconds: float | None = None
    gradients: int | None = None
    capped: bool = False

    def entry(self, task: Task) -> dict[str, Any]:
        """Return the entry for `summary.json`."""
        return {
            "model": self.model,
            "params": self.params,
            "val": self.val.metric,
            "test": self.test.metric,
            "seconds": round(self.seconds, 3),
            "settings": self.settings,
            "chosen": self.chosen,
            **({} if self.steps is None else {"steps": self.steps, "capped": self.capped}),
            **({} if self.cpu_seconds is None else {"cpu_seconds": round(self.cpu_seconds, 3)}),
            **({} if self.gradients is None else {"gradients": self.gradients}),
            **({} if self.speed is None else {f"{task.unit}_per_s": round(self.speed, 1)}),
            "detail": {part: task.score(getattr(self, part), part) for part in ("val", "test")},
        }

    def forecasts(self) -> np.ndarray:
        """Return the forecasts of validation and test part in one array, float64, shape `(n, O)`."""
        assert self.val.forecasts is not None
        assert self.test.forecasts is not None
        return np.concatenate([self.val.forecasts, self.test.forecasts])


@contextmanager
def evaluating(*models: Module) -> Iterator[None]:
    """Put models into evaluation mode; at the end restore the previous mode of each module."""
    training = [vars(part) for model in models for part in model.modules() if part.training]
    for attributes in training:  # `nn.Module.__setattr__` takes a microsecond, as long as a time step of a small cell
        attributes["training"] = False
    try:
        yield
    finally:
        for attributes in training:
            attributes["training"] = True


@torch.no_grad()
def free_running(model: Model, first: torch.Tensor, *, steps: int = 1000) -> dict[str, Any]:
    """Feed a model its own forecasts and report whether they stay bounded.

    Args:
        model: a task's model whose outputs can be its inputs.
        first: inputs before the free run, standardised, shape `(T, 1, I)`.
        steps: number of steps of the free run.

    Returns:
        `steps`: number of steps done; `largest`: largest forecast, in standard deviations; `diverged`.
    """
    with evaluating(model):
        output, hidden = model(first)
        x, largest = output[-1:], 0.0
        for step in range(steps + 1):  # one more: also check the output of the last step
            size = float(x.abs().max())
            if not size <= DIVERGED:  # also true for nan
                return {"steps": step, "largest": size if np.isfinite(size) else None, "diverged": True}
            largest, before = max(largest, size), (x, hidden)
            if step < steps:
                x, hidden = model(x, hidden)
                if _is_equal(x, before[0]) and _is_equal(hidden, before[1]):
                    break  # a fixed point: all further steps are the same
    return {"steps": steps, "largest": largest, "diverged": False}


def _is_equal(one: Any, other: Any) -> bool:
    """Return whether both are tensors with the same numbers."""
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
