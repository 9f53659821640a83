"""Polynomials with memory in complex baseband: FIR filter, memory polynomial and generalised memory polynomial.

All three are sums of terms `c x(t - delay) |x(t - envelope)|^power` with complex coefficients c. A memory polynomial
has `envelope = delay` in all terms; a filter has `power = 0` too. No term reads a sample after t: Morgan's leading
terms whose envelope lies after t are left out. `polynomial_fit` fits the coefficients.

Reference:
    Morgan, Ma, Kim, Zierdt & Pastalan (2006), A Generalized Memory Polynomial Model for Digital Predistortion of RF
    Power Amplifiers, eq. 24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

COMPLEX = 4  # real multiplications of two complex numbers


class Term(NamedTuple):
    """The term `x(t - delay) |x(t - envelope)|^power`."""

    delay: int
    envelope: int
    power: int


class Shape(NamedTuple):
    """Which terms a polynomial has.

    Attributes:
        order: the powers of aligned terms, with `envelope = delay`, are 0 to `order` - 1.
        taps: the delays of aligned terms are 0 to `taps` - 1.
        cross_order: the powers of cross terms are 1 to `cross_order` - 1; 1: there are no cross terms.
        cross_taps: the delays of cross terms are 0 to `cross_taps` - 1.
        lags: the envelope of a cross term lies at most so many samples before or after its delay.
    """

    order: int
    taps: int
    cross_order: int = 1
    cross_taps: int = 0
    lags: int = 0

    @property
    def terms(self) -> list[Term]:
        """The terms by delay, envelope and power."""
        aligned = [Term(delay, delay, power) for delay in range(self.taps) for power in range(self.order)]
        cross = [
            Term(delay, envelope, power)
            for delay in range(self.cross_taps)
            for envelope in range(max(0, delay - self.lags), delay + self.lags + 1)
            for power in range(1, self.cross_order)
            if envelope != delay
        ]
        return sorted(aligned + cross)


def context_of(terms: Sequence[Term]) -> int:
    """Return how many samples before t the terms read."""
    return max(max(term.delay, term.envelope) for term in terms)


def multiplications_of(terms: Sequence[Term]) -> int:
    """Return the real multiplications per sample, as `predict` computes; the square root in |x| counts as none.

    `|x|²` takes two, each power from the third on one more, a coefficient with an envelope two, and each delayed sample
    times the sum of its envelopes four. Powers of earlier samples are stored.
    """
    highest = max(term.power for term in terms)
    powers = 2 + max(0, highest - 2) if highest else 0
    scaled = 2 * sum(term.power > 0 for term in terms)
    return powers + scaled + COMPLEX * len({term.delay for term in terms})


def basis(x: np.ndarray, terms: Sequence[Term], history: np.ndarray | None = None) -> np.ndarray:
    """Return the values of the terms.

    Args:
        x: complex signal, shape `(n,)`.
        terms: K terms.
        history: the samples before x, shape `(m,)`; zeros come before them. None: only zeros.

    Returns:
        Complex128, shape `(n, K)`.
    """
    delayed = _Delayed(x, terms, history)
    values = np.empty((len(x), len(terms)), complex, order="F")
    for column, term in enumerate(terms):
        values[:, column] = delayed.signal(term.delay) * delayed.envelope(term)
    return values


@dataclass(frozen=True)
class Polynomial:
    """A fitted polynomial.

    Attributes:
        shape: its shape.
        coefficients: of `shape.terms`, complex128, shape `(K,)`.
        ridge: the ridge with which it was fitted, see `polynomial_fit`.
        fold_nmse: the NMSE in dB on folds of the training part that were left out.
    """

    shape: Shape
    coefficients: np.ndarray
    ridge: float
    fold_nmse: float

    @property
    def context(self) -> int:
        """How many samples before the present one it reads."""
        return context_of(self.shape.terms)

    @property
    def params(self) -> int:
        """Number of real parameters."""
        return 2 * len(self.coefficients)

    @property
    def multiplications(self) -> int:
        """Real multiplications per sample, see `multiplications_of`."""
        return multiplications_of(self.shape.terms)

    def predict(self, x: np.ndarray, history: np.ndarray | None = None) -> np.ndarray:
        """Return the output for an input.

        Args:
            x: complex signal, shape `(n,)`.
            history: the samples before x, as for `basis`.

        Returns:
            Complex128, shape `(n,)`.
        """
        terms = self.shape.terms
        delayed, output = _Delayed(x, terms, history), np.zeros(len(x), complex)
        pairs = zip(terms, self.coefficients, strict=True)
        for delay, group in groupby(pairs, key=lambda pair: pair[0].delay):
            gain = sum(coefficient * delayed.envelope(term) for term, coefficient in group)
            output += delayed.signal(delay) * gain
        return output


class _Delayed:
    """A signal and the powers of its magnitude, at earlier times."""

    def __init__(self, x: np.ndarray, terms: Sequence[Term], history: np.ndarray | None) -> None:
        self.context, self.length = context_of(terms), len(x)
        before = np.zeros(self.context, complex)
        if history is not None and self.context:
            known = history[-self.context :]
            before[self.context - len(known) :] = known
        self.x = np.concatenate([before, x])
        magnitude = np.abs(self.x)
        self.powers: list[np.ndarray] = [magnitude**power for power in range(max(term.power for term in terms) + 1)]

    def signal(self, delay: int) -> np.ndarray:
        """Return x(t - delay), shape `(n,)`."""
        return self.x[self.context - delay :][: self.length]

    def envelope(self, term: Term) -> np.ndarray:
        """Return |x(t - envelope)|^power, shape `(n,)`."""
        return self.powers[term.power][self.context - term.envelope :][: self.length]
