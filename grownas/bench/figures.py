"""The results of a benchmark: figures of peers that were measured together, and limits on their ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CHOSEN = "ours"  # as a peer in a `Must`: the backend that `auto` chooses


class Figure(NamedTuple):
    """A peer's figure: median and quartiles of its samples."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Figure:
        """Return the figure of some samples; a single sample is also both quartiles."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, len(samples))

    def plus(self, more: float) -> Figure:
        """Return the figure with `more` added to every sample."""
        return Figure(self.median + more, self.low + more, self.high + more, self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range divided by the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


class Must(NamedTuple):
    """A limit: the median of the peer `of` must be at most `bar` times the median of the peer `against`."""

    against: str
    bar: float
    of: str = CHOSEN


class Check(NamedTuple):
    """A limit and the measured ratio."""

    must: Must
    ratio: float

    @property
    def holds(self) -> bool:
        """Whether the ratio meets the limit; False for nan."""
        return self.ratio <= self.must.bar


class Row(NamedTuple):
    """Figures that were measured together.

    Attributes:
        name: name of the measurement; the same in every run, since runs are compared by it.
        unit: unit of the figures.
        figures: figures by peer.
        base: the peer in the denominator of ratios, in comparisons of runs and in the picture; empty for no ratios.
        musts: limits; `of` names a peer of this row.
        operations: floating-point operations of the matrix products of a call of a backend or of the floor; None if the
            row does not time such calls.
        skipped: why the row was not measured; None if it was.
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
        """Return the limits with their ratios; empty for a skipped row."""
        return [] if self.skipped else [Check(must, self.ratio(must.of, must.against)) for must in self.musts]
