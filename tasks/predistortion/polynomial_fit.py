"""Fits polynomials by complex least squares; folds within the training part choose ridge and shape.

The training part is cut into contiguous folds. Each fold's normal equations are computed once per pair of terms; a
shape then needs only rows and columns of them. The ridge penalises coefficients of columns scaled to unit power:

    w = argmin  mean |y - B w|² + ridge |w|²

A signal that is oversampled is nearly zero in most of the band, so neighbouring delays are nearly collinear, and the
best ridge may be tiny. With a ridge below 1e-12, rounding errors of the normal equations in float64 would matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np

from grownas.errors import DataError
from grownas.tasks.predistortion.polynomial import Polynomial, Shape, Term, basis, context_of

FOLDS = 5
RIDGES = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
TAPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40)
ORDERS = (1, 2, 3, 5, 7, 9, 11)
GRIDS: dict[str, dict[str, Sequence[int]]] = {  # family -> values of each field of a shape
    "fir": {"order": (1,), "taps": TAPS},
    "mp": {"order": ORDERS, "taps": TAPS},
    "gmp": {
        "order": ORDERS,
        "taps": TAPS,
        "cross_order": (1, 2, 3, 4, 5, 7),
        "cross_taps": (1, 2, 3, 5, 7, 10, 15, 20),
        "lags": (1, 2, 3, 4, 6, 8),
    },
}
PROGRESS = 1e-3  # a larger shape must lower the error on the folds by this share, 0.004 dB
EPSILON = float(np.finfo(float).eps)  # smaller errors are rounding errors of the normal equations, and may be negative
ROWS = 4096  # of the basis at a time, to save memory


class _Choice(NamedTuple):
    """A shape and a ridge."""

    shape: Shape
    ridge: float


def choose(
    x: np.ndarray,
    y: np.ndarray,
    family: str,
    *,
    used: np.ndarray | None = None,
    most: int | None = None,
    ridges: Sequence[float] = RIDGES,
) -> Polynomial:
    """Choose shape and ridge of a polynomial on folds, and fit it.

    The search climbs from the smallest shape and the largest ridge. A step changes one field of the shape, or the
    ridge, to the next or the previous value of its grid. If no such step lowers the error on the folds, a step changes
    two fields, one up and one down. The search takes the best step until none lowers the error by a share of
    `PROGRESS`. It draws no random numbers.

    Args:
        x: input of the training part, complex, shape `(n,)`.
        y: output, shape `(n,)`.
        family: a key of `GRIDS`.
        used: which samples of the output are compared, bool, shape `(n,)`; None: all whose terms x holds.
        most: largest number of real parameters; None: no limit.
        ridges: the ridges to choose from, the largest first.

    Raises:
        DataError: the training part is too short for the largest shape of the family.
    """
    grid: dict[str, Sequence[float]] = {**GRIDS[family], "ridge": ridges}
    largest = Shape(**{field: values[-1] for field, values in GRIDS[family].items()})
    equations = _Equations(x, y, context_of(largest.terms), used)
    here = dict.fromkeys(grid, 0)
    lowest = equations.error(_at(grid, here))
    while True:
        for steps in (_single(here), _exchanges(here)):
            found = [place for place in steps if _fits(grid, place, most)]
            best = min(found, key=lambda place: equations.error(_at(grid, place)), default=here)
            error = equations.error(_at(grid, best))
            if error < (1 - PROGRESS) * lowest:
                here, lowest = best, error
                break
        else:
            return equations.solve(_at(grid, here))


def _single(here: Mapping[str, int]) -> Iterator[dict[str, int]]:
    for field, place in here.items():
        yield {**here, field: place + 1}
        yield {**here, field: place - 1}


def _exchanges(here: Mapping[str, int]) -> Iterator[dict[str, int]]:
    for up, down in permutations(here, 2):
        yield {**here, up: here[up] + 1, down: here[down] - 1}


def _fits(grid: Mapping[str, Sequence[float]], places: Mapping[str, int], most: int | None) -> bool:
    """Return whether the places lie in the grid and the shape has few enough parameters."""
    inside = all(0 <= place < len(grid[field]) for field, place in places.items())
    return inside and (most is None or 2 * len(_at(grid, places).shape.terms) <= most)


def _at(grid: Mapping[str, Sequence[float]], places: Mapping[str, int]) -> _Choice:
    values = {field: grid[field][place] for field, place in places.items()}
    ridge = values.pop("ridge")
    return _Choice(Shape(**{field: int(value) for field, value in values.items()}), ridge)


class _Equations:
    """The normal equations of each fold, for all terms that were asked for so far.

    Attributes:
        gram: products of columns with columns, complex128, shape `(folds, K, K)`.
        moment: products of columns with the output, shape `(folds, K)`.
        energy: sum of the squares of the output, shape `(folds,)`.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, skipped: int, used: np.ndarray | None = None) -> None:
        self.x, self.y = x, y
        self.used = used
        if len(x) - skipped < 2 * FOLDS:
            raise DataError(
                f"the training part has {len(x)} samples; a polynomial that reads {skipped} earlier samples needs at "
                f"least {skipped + 2 * FOLDS}"
            )
        edges = np.linspace(skipped, len(x), FOLDS + 1).astype(int)
        self.folds = [slice(*ends) for ends in pairwise(edges)]
        self.count = sum(len(self._kept(y, fold)) for fold in self.folds)
        self.energy = np.array([np.sum(np.abs(self._kept(y, fold)) ** 2) for fold in self.folds])
        self.places: dict[Term, int] = {}
        self.gram, self.moment = np.zeros((FOLDS, 0, 0), complex), np.zeros((FOLDS, 0), complex)
        self.errors: dict[_Choice, float] = {}

    def _kept(self, signal: np.ndarray, rows: slice) -> np.ndarray:
        """Return the samples in some rows that are compared."""
        return signal[rows] if self.used is None else signal[rows][self.used[rows]]

    def error(self, choice: _Choice) -> float:
        """Return the squared error on left-out folds over the energy of the output."""
        if choice not in self.errors:
            gram, moment, _ = self._scaled(choice.shape)
            rest, others = gram.sum(0) - gram, moment.sum(0) - moment
            total = 0.0
            for fold in range(FOLDS):
                w = self._ridge(rest[fold], others[fold], choice.ridge)
                total += self.energy[fold] + float(np.real(w.conj() @ (gram[fold] @ w - 2 * moment[fold])))
            self.errors[choice] = max(total / float(self.energy.sum()), EPSILON)
        return self.errors[choice]

    def solve(self, choice: _Choice) -> Polynomial:
        """Fit on all folds."""
        gram, moment, scale = self._scaled(choice.shape)
        w = self._ridge(gram.sum(0), moment.sum(0), choice.ridge) / scale
        return Polynomial(choice.shape, w, choice.ridge, float(10 * np.log10(self.error(choice))))

    def _ridge(self, gram: np.ndarray, moment: np.ndarray, ridge: float) -> np.ndarray:
        return np.linalg.solve(gram + ridge * self.count * np.eye(len(gram)), moment)

    def _scaled(self, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a shape's normal equations with columns of unit power, and the root mean power of each column."""
        self._extend(shape.terms)
        places = [self.places[term] for term in shape.terms]
        gram, moment = self.gram[:, places][:, :, places], self.moment[:, places]
        scale = np.sqrt(np.einsum("fkk->k", gram).real / self.count)
        return gram / np.multiply.outer(scale, scale), moment / scale, scale

    def _extend(self, terms: Sequence[Term]) -> None:
        """Add the terms that are not there yet."""
        new = [term for term in terms if term not in self.places]
        if not new:
            return
        old = len(self.places)
        self.places.update({term: old + number for number, term in enumerate(new)})
        every = list(self.places)
        self.gram = np.pad(self.gram, ((0, 0), (0, len(new)), (0, len(new))))
        self.moment = np.pad(self.moment, ((0, 0), (0, len(new))))
        for fold, rows in enumerate(self.folds):
            for begin in range(rows.start, rows.stop, ROWS):
                end = min(begin + ROWS, rows.stop)
                columns = basis(self.x[begin:end], every, self.x[:begin])
                columns = columns if self.used is None else columns[self.used[begin:end]]
                right = columns[:, old:]
                self.gram[fold, :, old:] += columns.conj().T @ right
                self.moment[fold, old:] += right.conj().T @ self._kept(self.y, slice(begin, end))
            self.gram[fold, old:, :old] = self.gram[fold, :old, old:].conj().T
