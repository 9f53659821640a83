"""What a benchmark yields: figures of peers that were measured together, and what must hold of their ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CHOSEN = "ours"  # in a must: the backend that `auto` chooses


class Figure(NamedTuple):
    """One peer's figure: median and quartiles over its samples."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Figure:
        """Return the figure of some samples; one alone is its own quartiles."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, len(samples))

    def plus(self, more: float) -> Figure:
        """Return the figure with so much added to every sample."""
        return Figure(self.median + more, self.low + more, self.high + more, self.samples)

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


class Must(NamedTuple):
    """A peer's median must be at most `bar` times that of another."""

    against: str
    bar: float
    of: str = CHOSEN


class Check(NamedTuple):
    """A must and what was measured of it."""

    must: Must
    ratio: float

    @property
    def holds(self) -> bool:
        """Whether it holds; what is not a number does not."""
        return self.ratio <= self.must.bar


class Row(NamedTuple):
    """What was measured together.

    Attributes:
        name: what was measured; the same in every run, since runs are compared by it.
        unit: of the figures.
        figures: each peer's.
        base: the peer that ratios are taken to where runs are compared and drawn; empty if they cannot be.
        musts: what must hold; `of` names peers of this row.
        operations: of the matrix products of a backend's or the floor's call; None where they are not what is timed.
        skipped: why nothing was measured; None if it was.
    """

    name: str
    unit: str
    figures: Mapping[str, Figure]
    base: str
    musts: tuple[Must, ...] = ()
    operations: int | None = None
    skipped: str | None = None

    def ratio(self, of: str, against: str) -> float:
        """Return the ratio of two peers' medians."""
        return self.figures[of].median / self.figures[against].median

    def checks(self) -> list[Check]:
        """Return the musts with their ratios; none for a row that was skipped."""
        return [] if self.skipped else [Check(must, self.ratio(must.of, must.against)) for must in self.musts]
