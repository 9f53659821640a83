"""FIRs and polynomials of complex samples at given bit widths, as fixed-point hardware computes them; see `quantiser`.

    FIR          y_t = sum_k Q(c_k) Q(x_(t-k))                     one grid for all taps, one for all samples
    polynomial   t_0 = Q(x),  r = Q(|t_0|^2)                       or Q(|t_0|), for all orders
                 t_k = Q(t_(k-1) r),  y = sum_k Q(c_k) t_k         a grid for r, for each t_k and for each c_k

Q puts real and imaginary parts on a grid. Coefficients have the width of the weights; samples, r and t_k that of the
inputs. Each product is exact, and is then put on its grid: multiply, then round. A complex coefficient is the real
matrix [[re, im], [-im, re]], so `Product` does all products with coefficients. An own step size for each c_k costs
nothing: the powers t_k have different ranges, so each term must be scaled anyway.

Multiplications of a sample for K coefficients (`bits` counts them):

    4 K          at bits of the weights * bits of the inputs: complex coefficients
    2 K          at bits of the inputs squared: |t_0|^2, and r times the others; polynomials with K > 1 alone

A polynomial of real numbers is nested instead (`blocks.KINDS`): it needs fewer products, but each of them would have to
be rounded before the next, and x would be multiplied by a rounded gain.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from grownas.cells.quantiser import Grid, Product
from grownas.genotype_bits import Bits

Fit = Callable[[int, Sequence[Tensor]], Grid]  # grids for tensors, at the widths of weights (0) or of inputs (1)


def unfitted(bits: Bits) -> Fit:
    """Return what makes grids of these widths for tensors of any size."""
    return lambda which, values: Grid([bits[which : which + 1]] * len(values))


def as_matrix(coefficients: Tensor) -> Tensor:
    """Return complex coefficients `(K,)` as a real matrix `(1, 2K, 2)`.

    Its rows are those of I of K samples, oldest first, then those of Q; its columns are I and Q of the sum.
    """
    re, im = torch.view_as_real(coefficients).flip(0).unbind(-1)
    return torch.stack([torch.stack([re, im], -1), torch.stack([-im, re], -1)]).flatten(0, 1).unsqueeze(0)


def pairs_of(x: Tensor) -> Tensor:
    """Return complex samples as rows of I and Q, `(N, 2)`."""
    return torch.view_as_real(x).reshape(-1, 2)


def radius_of(pairs: Tensor, root: bool) -> Tensor:
    """Return |x|^2 of pairs `(.., 2)`, or |x|, `(.., 1)`; the gradient of |x| is 0 at 0."""
    return torch.linalg.vector_norm(pairs, dim=-1, keepdim=True) if root else pairs.square().sum(-1, keepdim=True)


class QuantisedFir(nn.Module):
    """A FIR on grids.

    Attributes:
        product: the product of the K samples that an output depends on with the taps, as in `as_matrix`.
        radius: None, there is no r.
    """

    radius: Grid | None = None

    def __init__(self, product: Product) -> None:
        """Take the product."""
        super().__init__()
        self.product = product

    @classmethod
    def of(cls, taps: Tensor, x: Tensor, fit: Fit) -> QuantisedFir:
        """Create it for complex taps `(K,)` and typical samples `(N,)`."""
        return cls(Product(fit(0, [as_matrix(taps)]), fit(1, [pairs_of(x)])))

    def forward(self, x: Tensor, taps: Tensor) -> Tensor:
        """Return the output for complex samples `(K - 1 + T, B)`, `(T, B)`, as `blocks.fir` does."""
        rounded = self.product.inputs.rounding()(pairs_of(x)).view(*x.shape, 2)
        lags = rounded.unfold(0, len(taps), 1)  # (T, B, 2, K)
        y = self.product.multiplier(as_matrix(taps))(lags.flatten(2).flatten(0, 1))
        return torch.view_as_complex(y.view(*lags.shape[:2], 2))

    @property
    def products(self) -> list[Product]:
        """The product, as polynomials have several."""
        return [self.product]

    def chosen(self) -> QuantisedFir:
        """Return the same at the widths of largest share."""
        return QuantisedFir(self.product.chosen())


class QuantisedPolynomial(nn.Module):
    """A polynomial on grids.

    Attributes:
        products: of each t_k with c_k.
        radius: the grid of r; None for a single coefficient, which needs no r.
        root: r is |t_0| instead of |t_0|^2.
    """

    def __init__(self, products: Sequence[Product], radius: Grid | None, *, root: bool) -> None:
        """Take products and grid."""
        super().__init__()
        self.products, self.radius, self.root = nn.ModuleList(products), radius, root

    @classmethod
    def of(cls, coefficients: Tensor, x: Tensor, fit: Fit, *, root: bool) -> QuantisedPolynomial:
        """Create it for complex coefficients `(K,)` and typical samples `(N,)`."""
        pairs = pairs_of(x)
        r = radius_of(pairs, root)
        powers = itertools.accumulate(itertools.repeat(r, len(coefficients) - 1), operator.mul, initial=pairs)
        products = [
            Product(fit(0, [as_matrix(own)]), fit(1, [t]))
            for own, t in zip(torch.split(coefficients, 1), powers, strict=True)
        ]
        return cls(products, fit(1, [r]) if len(products) > 1 else None, root=root)

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Return the output for complex samples `(T, B)`, as many."""
        terms = [
            product.multiplier(as_matrix(own))(t)[0]
            for product, own, t in zip(
                self._products(), torch.split(coefficients, 1), self._powers(pairs_of(x)), strict=True
            )
        ]
        return torch.view_as_complex(functools.reduce(operator.add, terms).view(*x.shape, 2))

    def _powers(self, pairs: Tensor) -> Iterator[Tensor]:
        """Yield each t_k on its grid, `(1, N, 2)`, in its unit."""
        grids = [product.inputs for product in self._products()]
        t, unit, radius = grids[0].rounding()(pairs), grids[0].unit, self.radius
        yield t
        if radius is None:
            return
        scale = unit if self.root else unit * unit
        r = radius.rounding()((scale * radius_of(t.to(unit.dtype), self.root)).to(t.dtype))
        for before, grid in itertools.pairwise(grids):
            scale = before.unit * radius.unit
            t = grid.rounding()((scale * (t.to(scale.dtype) * r)).to(t.dtype))
            yield t

    def _products(self) -> list[Product]:
        return list(self.products)  # type: ignore[arg-type]  # Modules to mypy

    def chosen(self) -> QuantisedPolynomial:
        """Return the same at the widths of largest share."""
        products = [one.chosen() for one in self._products()]
        return QuantisedPolynomial(products, self.radius and self.radius.chosen(), root=self.root)


QUANTISED: dict[str, Callable[[Tensor, Tensor, Fit], nn.Module]] = {  # kind of part -> makes it, see `of`
    "fir": QuantisedFir.of,
    "polynomial": functools.partial(QuantisedPolynomial.of, root=False),
    "polynomial_all": functools.partial(QuantisedPolynomial.of, root=True),
}
