"""Products of splitting matrices with vectors, batch by batch, for all units of ops of a node with the same combine.

For one unit with parameters theta, over a batch of N = T * B samples, with the loss's gradient g by the unit's output:

    linear:    z = U theta, U = [x | 1 | s]                   S v = U^T (g phi'' * (U v))
    bilinear:  z of p = X a and q = S c, theta = [a; c],      with dp = X v_a, dq = S v_c, r = g phi'', and z's slopes
               X = [x | 1], S = [s | 1]                       z_p and z_q and mixed derivative m:
                                                              S v = [X^T (r z_p^2 * dp + (r z_p z_q + g phi' m) * dq);
                                                                     S^T (r z_q^2 * dq + (r z_p z_q + g phi' m) * dp)]

Columns are (vector, unit): each of these products is a single matrix product for all vectors and units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grownas.backbones.chain import MixedNode
from grownas.cells.backends import Multiply
from grownas.criteria.lanczos import LowestEigenpairs
from grownas.genotype import Op
from grownas.ops import ACTIVATION, COMBINE

TOGETHER = 2**16  # most numbers multiplied at once: they fit in a cache, and memory does not grow with the vectors
Product = Callable[[Tensor], Tensor]  # maps (D, b, units) to the same shape


def softplus_curvature(z: Tensor) -> Tensor:
    """Return the second derivative of log(1 + exp(z))."""
    y = torch.sigmoid(z)
    return y * (1 - y)


CURVATURE: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {  # activation -> function used as second derivative
    "exact": {},
    "softplus": {"relu": softplus_curvature},  # as Liu, Wu & Wang (2019) do
}


def has_curvature(op: Op, curvature: str = "exact") -> bool:
    """Return whether an op's splitting matrix can differ from zero.

    A Hadamard op always has curvature, from the product of its two projections. The curvature of an additive op is that
    of its activation; homogeneous activations are linear on either side of zero.
    """
    activation = ACTIVATION[op.activation]
    return bool(COMBINE[op.combine].mixed) or not activation.homogeneous or op.activation in CURVATURE[curvature]


def unit_parameters(node: MixedNode, op: int) -> Tensor:
    """Return the parameters of each unit of an op, float64, `(D, H)`: W_x, b_x, W_h and, if Hadamard, b_h."""
    own = node.op_parameters(op)
    names = COMBINE[node.ops[op].combine].parameters
    return torch.cat([own[name].detach().double().reshape(-1, node.hidden_size) for name in names])


class UnitSearch:
    """Searches the lowest eigenpairs of all units of K ops of a node; the ops have the same combine.

    Attributes:
        node: number of the node.
        eigenpairs: the eigenvalue search, with K * H problems in the order (op, unit).
    """

    def __init__(
        self, node: MixedNode, number: int, ops: Sequence[int], *, curvature: str, multiply: Multiply, **limits: Any
    ) -> None:
        """Start the search.

        Args:
            node: the node, in float64.
            number: number of the node.
            ops: numbers of the ops.
            curvature: a name of `CURVATURE`.
            multiply: the matrix product, see `sequence.Loop`.
            limits: options of `LowestEigenpairs`.
        """
        self.node, self.ops, self.units, self.inputs = number, ops, node.hidden_size, node.input_size + 1
        self.combine = COMBINE[node.ops[ops[0]].combine]
        self.product = _bilinear if self.combine.mixed else _linear
        self.activations = [node.ops[op].activation for op in ops]
        self.replaced, self.multiply = CURVATURE[curvature], multiply
        self.theta = torch.cat([unit_parameters(node, op) for op in ops], 1)  # (D, K*H)
        self.shares = node.shares[list(ops)].repeat_interleave(self.units)  # (K*H,)
        size, problems = self.theta.shape
        self.eigenpairs = LowestEigenpairs(problems, size, device=self.theta.device, **limits)
        self.sum = torch.zeros_like(self.eigenpairs.block)

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add a batch's product of the splitting matrices and the search's block of vectors.

        Args:
            inputs: inputs of the units, `[x | 1 | s | 1]`, shape `(N, I + 1 + H + 1)`.
            gradient: gradient of the loss by the node's mixture, shape `(N, H)`.
        """
        units = self.eigenpairs.open
        gradient = gradient[:, units % self.units] * self.shares[units]
        product = self.product(self, inputs, self.theta[:, units], gradient)
        vectors = self.eigenpairs.block.permute(1, 2, 0)  # (D, b, units)
        together = max(1, TOGETHER // gradient.numel())
        parts = [product(vectors[:, i : i + together]) for i in range(0, vectors.shape[1], together)]
        self.sum += torch.cat(parts, 1).permute(2, 0, 1)

    def take_mean(self, count: int) -> None:
        """Pass the mean product over `count` batches to the eigenvalue search."""
        self.eigenpairs.take(self.sum / count)
        self.sum = torch.zeros_like(self.eigenpairs.block)

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the activations' first and second derivatives at z of the open units."""
        first, second = torch.empty_like(z), torch.empty_like(z)
        ends = self.units * torch.arange(1, 1 + len(self.ops), device=z.device)
        start = 0
        for name, end in zip(self.activations, torch.searchsorted(self.eigenpairs.open, ends).tolist(), strict=True):
            part, activation = z[:, start:end], ACTIVATION[name]
            y = activation.f(part)
            first[:, start:end] = activation.df(y, part)
            second[:, start:end] = self.replaced[name](part) if name in self.replaced else activation.d2f(y, part)
            start = end
        return first, second

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a matrix `(n, m)` times `(m, ..)`."""
        out = b.new_empty(a.shape[0], *b.shape[1:])
        self.multiply(a, b.reshape(b.shape[0], -1), out.view(a.shape[0], -1))
        return out


def _linear(search: UnitSearch, inputs: Tensor, theta: Tensor, gradient: Tensor) -> Product:
    U = inputs[:, :-1]
    d = (gradient * search.slopes(search.times(U, theta))[1]).unsqueeze(1)
    return lambda v: search.times(U.T, search.times(U, v).mul_(d))


def _bilinear(search: UnitSearch, inputs: Tensor, theta: Tensor, gradient: Tensor) -> Product:
    times, X, S = search.times, inputs[:, : search.inputs], inputs[:, search.inputs :]
    p, q = times(X, theta[: search.inputs]), times(S, theta[search.inputs :])
    first, second = search.slopes(search.combine.value(p, q))
    r, (z_p, z_q), m = gradient * second, search.combine.slopes(p, q), search.combine.mixed
    parts = r * z_p * z_p, r * z_q * z_p + gradient * first * m, r * z_q * z_q
    xx, xs, ss = (one.unsqueeze(1) for one in parts)

    def product(v: Tensor) -> Tensor:
        dp, dq = times(X, v[: search.inputs]), times(S, v[search.inputs :])
        return torch.cat([times(X.T, (xx * dp).addcmul_(xs, dq)), times(S.T, (xs * dp).addcmul_(ss, dq))])

    return product
