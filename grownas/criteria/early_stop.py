"""Early stopping: `Patience` ends a training, the rules of `ACCEPT` accept or reject a candidate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from grownas.evaluation.statistics import newey_west_t
from grownas.protocols import AcceptanceCriterion, Verdict

LARGEST = 1e6  # largest figure in the logs: JSON has no infinity


class Patience:
    """Stop after `patience` epochs without a lower validation loss; None: never stop, the last epoch is best."""

    def __init__(self, patience: int | None) -> None:
        """Start before the first epoch."""
        self.patience, self.best, self.waited = patience, math.inf, 0

    def step(self, value: float) -> bool:
        """Record an epoch's validation loss; return whether it is the lowest so far."""
        better = self.patience is None or value < self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.best, self.waited = state["best"], state["waited"]


def logged(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as logged: the figure is clipped to +-1e6, since the t of a constant gain is infinite."""
    figure = max(min(verdict.figure, LARGEST), -LARGEST)
    return {"rule": verdict.rule, "figure": figure, "threshold": verdict.threshold}


def better(best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
    """Accept a lower mean validation loss, as in Jie & Gao (2021), algorithm 2. `threshold` is ignored."""
    gain = float(best.mean() - candidate.mean())
    return Verdict(gain > 0, gain, "better", 0.0)


def significant(best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
    """Accept if the mean gain in loss is significantly above zero: a one-sided t-test with a Newey-West error.

    Args:
        best: validation losses of the best model so far, one per time step, shape `(n,)`.
        candidate: validation losses of the candidate, same shape.
        threshold: accept if t is above it; 1.645 is the 5 % level.
    """
    t = float(newey_west_t(best - candidate)[2])
    return Verdict(t > threshold, t, "significant", threshold)


ACCEPT: dict[str, AcceptanceCriterion] = {"better": better, "significant": significant}
