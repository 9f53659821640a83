"""Scores of finished models, trained or fitted, in one form."""

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
    """One model's entry in `summary.json`, with what stands behind it.

    Attributes:
        model: its name in tables.
        params: numbers learned.
        val, test: evaluations on the two parts.
        seconds: time for all its fits, those that were not chosen included.
        settings: how many settings were tried.
        chosen: the settings chosen on validation data or blocked folds.
        speed: positions learned from in a second of training; None where the task does not ask, or nothing was trained.
        steps: weight steps of all its fits; None where nothing was trained.
        cpu_seconds: processor time of all its fits; None where that was not measured.
        capped: the chosen fit ended at the most epochs allowed, before patience ran out: it may have gone on improving.
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
    """Put models into evaluation mode for a while; afterwards each part of them is in the mode that it was in."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def free_running(model: Model, first: torch.Tensor, *, steps: int = 1000) -> dict[str, Any]:
    """Feed a model its own forecasts and say whether they stay bounded.

    Args:
        model: a task's model whose outputs can be its inputs.
        first: what it reads before it runs freely, shape `(T, 1, I)`, standardised.
        steps: length of the free run.

    Returns:
        `steps` done, `largest` forecast in standard deviations, `diverged`.
    """
    with evaluating(model):
        output, hidden = model(first)
        x, largest = output[-1:], 0.0
        for step in range(steps + 1):  # what the last step gives is looked at, too
            size = float(x.abs().max())
            if not size <= DIVERGED:  # also true for nan
                return {"steps": step, "largest": size if np.isfinite(size) else None, "diverged": True}
            largest = max(largest, size)
            if step < steps:
                x, hidden = model(x, hidden)
    return {"steps": steps, "largest": largest, "diverged": False}
