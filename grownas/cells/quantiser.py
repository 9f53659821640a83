"""Fake quantisation of matrix products: at one width, exact in integers, or at a learnt mixture of widths.

A tensor v at width b with step size d becomes d q, with the whole number

    q = round(clamp(v / d, -L, L)),  L = 2^(b-1) - 1        rounding half to even, symmetric about 0

The gradient passes the rounding unchanged (straight-through). With it autograd's gradients are those of LSQ:

    d(d q)/dv = 1 inside the range, 0 outside;   d(d q)/dd = q - v/d inside, -L or L outside

The step size is stored as its logarithm, as in TQT (Jain et al. 2019), so that it stays above 0 and one learning rate
fits all widths.

At one width a product is d_v d_W (q_v q_W): the sum of products of whole numbers is done in float64, where it is exact
and independent of the order of summation while n L_v L_W < 2^53, that is, for sums of up to 8 million terms at 16 bits.
So `cells.integer` computes the same number in 64-bit integers.

These modules multiply step by step under autograd, as `reference` does. `quantised_sequence` runs chains several times
as fast from the same tensors (`Product.operands`), with the same bits at one width; DAGs have `reference` only.

A mixture over widths is the product of the two mixed tensors, sum_b p_b d_b q_b each, as in EdMIPS: one product for all
pairs of widths.

Reference:
    Esser et al. (2020), Learned Step Size Quantization; Cai & Vasconcelos (2020), Rethinking Differentiable Search for
    Mixed-Precision Neural Networks (EdMIPS); Gao et al. (2022), QuantNAS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grownas.genotype_bits import Bits

Times = Callable[[Tensor], Sequence[Tensor]]  # multiplies inputs (B, I) by the matrix of each unit; (B, H) each
Rounding = Callable[[Tensor], Tensor]  # rounds values (U, .., ..), or (.., ..) that all U grids read; (U, .., ..)
INPUT_RANGE = 4.0  # largest input of a new grid: of standardised inputs and of states


def times(weights: Sequence[Tensor]) -> Times:
    """Return the function that multiplies by matrices of real numbers."""
    return lambda x: [x @ weight for weight in weights]


def largest(bits: int) -> int:
    """Return L, the largest whole number of a width."""
    return (1 << (bits - 1)) - 1


def to_whole(values: Tensor, step: Tensor, limit: Tensor) -> Tensor:
    """Return values on a grid in units of its step: whole numbers in [-limit, limit], in the values' dtype."""
    scaled = torch.clamp(values / step, -limit, limit)
    return scaled + (scaled.round() - scaled).detach()  # the sum is exact


class Mixture(nn.Module):
    """Shares of widths, the softmax of an own architecture parameter."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Begin with equal shares of some widths."""
        super().__init__()
        self.widths = tuple(widths)
        self.alpha = nn.Parameter(torch.zeros(len(widths)))

    @property
    def shares(self) -> Tensor:
        """Share of each width, `(n,)`."""
        return torch.softmax(self.alpha, 0)

    @property
    def chosen(self) -> int:
        """Number of the width with the largest share; of equal shares the first."""
        return int(self.alpha.detach().argmax())


class Grid(nn.Module):
    """The grids of U tensors, each at one width, or at each of n widths that are mixed.

    Attributes:
        bits: the widths of each tensor, n of them.
        log_step: logarithm of the step size, base 2, `(U, n)`.
        mixtures: the shares of each tensor's widths, which other grids may use too; empty for one width. In a tuple,
            `nn.Module` does not register them as the grid's own.
    """

    limit: Tensor

    def __init__(self, bits: Sequence[Sequence[int]], mixtures: Sequence[Mixture] = ()) -> None:
        """Create the grids with a largest value of 1."""
        super().__init__()
        self.bits, self.mixtures = tuple(map(tuple, bits)), tuple(mixtures)
        limits = torch.tensor([[float(largest(one)) for one in own] for own in bits])
        self.register_buffer("limit", limits, persistent=False)
        self.log_step = nn.Parameter(-limits.log2())

    @torch.no_grad()
    def set_largest(self, value: float) -> None:
        """Set the same largest value for all tensors and widths."""
        self.log_step.copy_(math.log2(value) - self.limit.log2())

    @property
    def step(self) -> Tensor:
        """Step sizes, `(U, n)`."""
        return torch.exp2(self.log_step)

    @property
    def shares(self) -> Tensor:
        """Share of each width, `(U, n)`."""
        return torch.stack([mixture.shares for mixture in self.mixtures])

    def whole(self) -> Rounding:
        """Return the function that maps values to units of their steps, for one width; see `Rounding`."""
        step, limit = self.step.unsqueeze(-1), self.limit.unsqueeze(-1)
        return lambda values: to_whole(values, step, limit)

    def mixed(self) -> Rounding:
        """Return the function that maps values to the mean of the quantised values, weighted by the widths' shares."""
        step, limit, shares = (one.t()[..., None, None] for one in (self.step, self.limit, self.shares))
        scale = shares * step
        return lambda values: (scale * to_whole(values, step, limit)).sum(0)

    def rounding(self) -> Rounding:
        """Return the function that puts values on the grids: `whole` for one width, `mixed` for several."""
        return self.mixed() if self.mixtures else self.whole()

    @property
    def unit(self) -> Tensor:
        """What a 1 that `rounding` returns is worth, `(U, 1, 1)`: for one width the step size, float64; otherwise 1."""
        step = self.step[:, :1].unsqueeze(-1)
        return torch.ones_like(step) if self.mixtures else step.double()

    def chosen(self) -> Grid:
        """Return the grids of the widths with the largest shares, with their step sizes."""
        places = [mixture.chosen for mixture in self.mixtures]
        made = Grid([own[place : place + 1] for own, place in zip(self.bits, places, strict=True)])
        made.log_step.data = self.log_step.detach()[range(len(places)), places].unsqueeze(1).clone()
        return made


class Operands(NamedTuple):
    """Products as plain tensors, for code with a derivative of its own: r W with r = sum_b c_b q_b(v), n widths b.

    Attributes:
        matrix: W, the matrices on their grids, `(U, I, H)`.
        step: d of the inputs' grids, `(U, n)`.
        factor: c, the share of each width times d, `(U, n)`.
        limit: L of the inputs' grids, `(U, n)`.
        whole: for one width, q_W in a dtype in which sums of q_v q_W are exact, `(U, I, H)`; None for mixtures.
        scale: for one width, d_v d_W, float64, `(U, 1, 1)`; None for mixtures.
    """

    matrix: Tensor
    step: Tensor
    factor: Tensor
    limit: Tensor
    whole: Tensor | None = None
    scale: Tensor | None = None


class Product(nn.Module):
    """The products of inputs with U matrices, all on grids; every product has its own grid of the inputs."""

    def __init__(self, weights: Grid, inputs: Grid) -> None:
        """Take the grids of the matrices and of the inputs: both of one width, or both mixed."""
        super().__init__()
        self.weights, self.inputs = weights, inputs

    def times(self, weights: Tensor) -> Times:
        """Return the function that multiplies by matrices `(U, I, H)`, which are quantised once."""
        multiply, rounding = self.multiplier(weights), self.inputs.rounding()
        return lambda x: multiply(rounding(x))  # type: ignore[return-value]  # (U, B, H) is a sequence of U

    def multiplier(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function that multiplies inputs on their grids, `(U, B, I)`, by matrices `(U, I, H)`."""
        scale = self.scale
        rounded = self.weights.rounding()(weights).to(scale.dtype)
        return lambda v: (scale * (v.to(scale.dtype) @ rounded)).to(v.dtype)

    def operands(self, weights: Tensor) -> Operands:
        """Return the tensors of the products with matrices `(U, I, H)`, which are quantised once."""
        step, limit = self.inputs.step, self.inputs.limit
        if self.weights.mixtures:
            return Operands(self.weights.mixed()(weights), step, self.inputs.shares * step, limit)
        whole = self.weights.whole()(weights)
        matrix = self.weights.step.unsqueeze(-1) * whole
        exact = whole.detach().to(self._dtype_of_sums(weights.shape[1], weights.device))
        return Operands(matrix, step, step, limit, exact, self.scale.detach())

    def _dtype_of_sums(self, count: int, device: torch.device) -> torch.dtype:
        """Return a dtype in which sums of `count` products of whole numbers are exact: the faster one, if it is."""
        largest_weight, largest_input = (
            largest(max(max(own) for own in grid.bits)) for grid in (self.weights, self.inputs)
        )
        backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        keeps_factors = backend.matmul.fp32_precision in ("none", "ieee")  # PyTorch may be allowed to shorten them
        is_exact = keeps_factors and count * largest_weight * largest_input < 1 << 24
        return torch.float32 if is_exact else torch.float64

    @property
    def scale(self) -> Tensor:
        """The product of the two units, `(U, 1, 1)`: for one width of the step sizes, float64."""
        return self.weights.unit * self.inputs.unit

    def chosen(self) -> Product:
        """Return the products at the widths of largest share."""
        return Product(self.weights.chosen(), self.inputs.chosen())


class Units(nn.Module):
    """The products of U units that read the same inputs: the ops of a chain's node, or one node of a DAG.

    Attributes:
        x: the products x W_x; None for units that do not read x.
        h: the products s W_h.
    """

    x: Product | None
    h: Product

    def __init__(self, x: Product | None, h: Product) -> None:
        """Take the products."""
        super().__init__()
        self.x, self.h = x, h

    @classmethod
    def of(cls, bits: Sequence[Bits], *, reads_x: bool = True) -> Units:
        """Create the products at the fixed widths of each unit."""

        def product() -> Product:
            return Product(*(Grid([own[place : place + 1] for own in bits]) for place in (0, 1)))

        return cls(product() if reads_x else None, product())

    def products(self) -> dict[str, Product]:
        """Return the products by name."""
        return {"h": self.h} if self.x is None else {"x": self.x, "h": self.h}

    def reset_parameters(self, bound: float) -> None:
        """Make room for weights up to a bound, and for inputs of usual size."""
        for product in self.products().values():
            product.weights.set_largest(bound)
            product.inputs.set_largest(INPUT_RANGE)

    def chosen(self) -> Units:
        """Return the products at the widths of largest share."""
        return Units(None if self.x is None else self.x.chosen(), self.h.chosen())
