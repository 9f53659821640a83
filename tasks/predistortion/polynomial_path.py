"""A fitted polynomial as a PyTorch module: the residual path of a model that starts at it, or a frozen amplifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grownas.tasks.predistortion.polynomial import Polynomial, Term, basis, multiplications_of

Array = np.ndarray[Any, np.dtype[Any]]


class PolynomialPath(nn.Module):
    """The sum of `c x(t - delay) |x(t - envelope)|^power` over K terms, see `polynomial`.

    The coefficients are those of a fit plus a trained change, zero at first. The change is measured along `directions`,
    on which the terms have equal power and do not correlate in the training part. Gradient steps on the coefficients
    themselves would diverge, because terms of neighbouring delays and powers are nearly collinear.

    Attributes:
        terms: delay, envelope and power of each term, shape `(K, 3)`.
        fitted: coefficients of the fit, real and imaginary part, shape `(K, 2)`.
        directions: coefficients of each direction, real and imaginary part, shape `(K, K, 2)`: a direction a column.
        change: shape `(K, 2)`.
    """

    terms: Tensor
    fitted: Tensor
    directions: Tensor

    def __init__(self, terms: Tensor, fitted: Tensor, directions: Tensor) -> None:
        """Store the fit; see the class for the shapes."""
        super().__init__()
        for name, one in (("terms", terms), ("fitted", fitted), ("directions", directions)):
            self.register_buffer(name, one.clone())
        self.change = nn.Parameter(torch.zeros_like(fitted))

    @property
    def coefficients(self) -> Tensor:
        """The present coefficients, real and imaginary part, shape `(K, 2)`."""
        return self.fitted + complex_product(self.directions, self.change)

    @property
    def multiplications(self) -> int:
        """Real multiplications per sample, see `polynomial.multiplications_of`."""
        return multiplications_of([Term(*term) for term in self.terms.long().tolist()])

    def forward(self, x: Tensor) -> Tensor:
        """Map `(T, B, 2 * L)`, see `model.delayed`, to `(T, B, 2)`; L is above every delay.

        It computes in float64: large terms nearly cancel, and float32 would add errors of -60 dB.
        """
        samples = x.double().reshape(*x.shape[:-1], -1, 2)  # (T, B, L, 2)
        delay, envelope, power = self.terms.long().unbind(-1)
        size = torch.linalg.vector_norm(samples, dim=-1)
        powers = [torch.ones_like(size)]
        for _ in range(int(power.max())):
            powers.append(powers[-1] * size)
        factor = torch.stack(powers, dim=-1)[..., envelope, power]  # (T, B, K)
        terms = samples[..., delay, :] * factor.unsqueeze(-1)
        return complex_product(terms, self.coefficients.double()).to(self.fitted)


def complex_product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply complex numbers that are given as pairs: `(.., K, 2)` by `(K, 2)`, summed over K, is `(.., 2)`."""
    (a, b), (c, d) = matrix.unbind(-1), vector.unbind(-1)
    return torch.stack([a @ c - b @ d, a @ d + b @ c], dim=-1)


def path_of(polynomial: Polynomial, x: Array, y: Array, used: Array | None = None) -> tuple[PolynomialPath, float]:
    """Return a fitted polynomial as a module in float64, and the root mean square of what it leaves of y.

    The power of a direction on the training part is that of what the polynomial leaves; less where its ridge counts.

    Args:
        polynomial: fitted to x and y.
        x: input of the training part, complex, shape `(n,)`.
        y: output, shape `(n,)`.
        used: which samples of the output were compared, bool, shape `(n,)`; None: all whose terms x holds.
    """
    terms, first = polynomial.shape.terms, polynomial.context
    rows = slice(first, None) if used is None else used & (np.arange(len(x)) >= first)
    left = float(np.sqrt(np.mean(np.abs(y - polynomial.predict(x))[rows] ** 2)))
    columns = basis(x, terms)[rows]
    power = np.sqrt(np.mean(np.abs(columns) ** 2, axis=0))
    gram = (columns.conj().T @ columns) / len(columns) / np.multiply.outer(power, power)
    lower = np.linalg.cholesky(gram + polynomial.ridge * np.eye(len(terms)))  # the ridge bounds the weakest directions
    directions = left * np.linalg.inv(lower).conj().T / power[:, None]
    return PolynomialPath(_tensor(np.array(terms, float)), _pairs(polynomial.coefficients), _pairs(directions)), left


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _pairs(values: Array) -> Tensor:
    return _tensor(np.stack([values.real, values.imag], axis=-1))
