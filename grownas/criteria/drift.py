"""Drift detectors: they say when a model's losses have risen, from one standardised loss per row.

A loss is standardised by the mean and the standard deviation that the model's losses had before. All sizes below are in
units of this standard deviation. The defaults give less than one false alarm per 1,000 rows of white noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np


class Detector(Protocol):
    """Reads losses one by one and says when they have risen. It does not restart by itself after an alarm."""

    def step(self, loss: float) -> bool:
        """Read the next standardised loss; return whether there is an alarm."""
        ...


class PageHinkley:
    """Sums how far losses are above their running mean; alarms if the sum rises too far above its minimum.

    Reference:
        Page (1954), Continuous Inspection Schemes; the form with a running mean as in Gama et al. (2014), A Survey on
        Concept Drift Adaptation, section 3.2.2.
    """

    def __init__(self, *, threshold: float = 20.0, tolerance: float = 0.25, least: int = 30) -> None:
        """Start before the first loss.

        Args:
            threshold: largest rise of the sum, in standard deviations.
            tolerance: a rise of the mean by less than this is ignored, in standard deviations.
            least: number of losses before the first alarm, so that the running mean is known.
        """
        self.threshold, self.tolerance, self.least = threshold, tolerance, least
        self.count, self.mean, self.total, self.lowest = 0, 0.0, 0.0, math.inf

    def step(self, loss: float) -> bool:
        """Read the next standardised loss; return whether there is an alarm."""
        self.count += 1
        self.mean += (loss - self.mean) / self.count
        self.total += loss - self.mean - self.tolerance
        self.lowest = min(self.lowest, self.total)
        return self.count >= self.least and self.total - self.lowest > self.threshold


class Adwin:
    """Keeps a window of losses as long as no split of it has two significantly different means; alarms at a rise.

    While some split differs, the oldest loss is dropped. Two means differ if their distance exceeds

        sqrt(2 / m * variance * ln(2 / d)) + 2 / (3 m) * ln(2 / d),   1 / m = 1 / n_0 + 1 / n_1,   d = delta / ln(n)

    for the n_0 older and n_1 newer losses of n. We differ: each side has `least` losses or more, because single losses
    have heavy tails, and the bound for losses in [0, 1] is used for losses in standard deviations.

    Reference:
        Bifet & Gavalda (2007), Learning from Time-Changing Data with Adaptive Windowing, their first version: all
        splits of the window are compared, so a step takes time in proportion to the window.
    """

    def __init__(self, *, delta: float = 0.002, least: int = 10) -> None:
        """Start with an empty window.

        Args:
            delta: bound on the probability of a false alarm at a row.
            least: fewest losses on each side of a split.
        """
        self.delta, self.least = delta, least
        self.window: list[float] = []

    def step(self, loss: float) -> bool:
        """Read the next standardised loss; return whether the window was cut and the newer losses are higher."""
        self.window.append(loss)
        has_risen = False
        while (rise := self._cut()) != 0:
            has_risen |= rise > 0
            del self.window[0]
        return has_risen

    def _cut(self) -> float:
        """Return the difference of means, newer minus older, at the split that differs most; 0 if no split differs."""
        losses = np.array(self.window)
        older = np.arange(self.least, len(losses) - self.least + 1)
        if not len(older):
            return 0.0
        newer, sums = len(losses) - older, np.cumsum(losses)
        rises = (sums[-1] - sums[older - 1]) / newer - sums[older - 1] / older
        parts, confidence = 1 / older + 1 / newer, math.log(2 * math.log(len(losses)) / self.delta)
        bounds = np.sqrt(2 * parts * losses.var() * confidence) + 2 / 3 * parts * confidence
        most = int(np.argmax(np.abs(rises) - bounds))
        return float(rises[most]) if abs(rises[most]) > bounds[most] else 0.0


DETECTORS: dict[str, Callable[[], Detector]] = {"page_hinkley": PageHinkley, "adwin": Adwin}


def first_alarm(detector: Detector, losses: Iterable[float]) -> int | None:
    """Return the index of the first loss at which a detector alarms; None if there is no alarm."""
    return next((number for number, loss in enumerate(losses) if detector.step(loss)), None)
