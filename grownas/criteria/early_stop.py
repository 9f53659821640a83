"""Early stopping: the inner level over epochs, and the judges of the outer level over stages (ALGORITHMS 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from grownas.evaluation.statistics import newey_west_t

LARGEST = 1e6  # figure in the logs: JSON has no infinity


class Patience:
    """The inner level: stop after `patience` epochs without a lower value; with None never, and the last is best."""

    def __init__(self, patience: int | None) -> None:
        """Start with nothing seen."""
        self.patience, self.best, self.waited = patience, math.inf, 0

    def step(self, value: float) -> bool:
        """Take an epoch's value; say whether it is the lowest so far."""
        better = self.patience is None or value < self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """Write the state down."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a written state."""
        self.best, self.waited = state["best"], state["waited"]


class Verdict(NamedTuple):
    """A judge's answer: the rule accepts if its figure is above the threshold."""

    accepted: bool
    figure: float
    rule: str
    threshold: float

    def line(self) -> dict[str, Any]:
        """Return what the logs keep: the figure clipped to +-1e6, for the t of a constant gain is infinite."""
        figure = max(min(self.figure, LARGEST), -LARGEST)
        return {"rule": self.rule, "figure": figure, "threshold": self.threshold}


def better(best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
    """Accept a lower mean validation loss: the rule of Jie & Gao (2021), algorithm 2. `threshold` is not used."""
    gain = float(best.mean() - candidate.mean())
    return Verdict(gain > 0, gain, "better", 0.0)


def significant(best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
    """Accept if the mean gain in loss is significantly above zero, one-sided, with a Newey-West error.

    Args:
        best: validation losses of the best so far, one per time step, shape `(n,)`.
        candidate: the candidate's, same shape.
        threshold: least t; 1.645 is the 5 % level.
    """
    t = float(newey_west_t(best - candidate)[2])
    return Verdict(t > threshold, t, "significant", threshold)


JUDGES: dict[str, Callable[..., Verdict]] = {"better": better, "significant": significant}
