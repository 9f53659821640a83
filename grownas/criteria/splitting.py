"""Which ops to split: the lowest eigenpairs of their splitting matrices, found without the matrices (ALGORITHMS 4).

Splitting a unit's op into two halves at theta +- eps v changes the loss by eps^2 / 2 v^T S v, where

    S = mean over batches of sum_{t, b} g_{t, b} Hessian_theta(o(x_{t, b}, s_{t, b}))

and g is the loss's gradient in the op's output o: total, through all later steps and nodes, times the op's share and,
under `highway`, times the gate. The Hessian has two parts, [x; 1] and s (Hadamard: [s; 1]), so that a product with a
vector for each unit takes two matrix products over a batch's steps.

Batches come by again for each round of products: g is computed anew, once for all ops that are judged, by one pass of
the engine forward and backward. Keeping g, or each step's coefficients, would need memory that grows with the data; the
S of all units would not, but are larger than the weights by a factor D. What a pass costs is repaid by blocks:
each takes `lanczos.BLOCK` products with every S, so that four to six passes are enough as a rule.

Under `share_projection` an op's theta is its own view of the projection that it shares: S is that of the op alone
moving away from it, with the others staying. So the two halves must have projections of their own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.backbone import Backbone, MixedNode
from grownas.cells.backends import BACKENDS, Backend, Multiply, choose
from grownas.cells.node import Trace
from grownas.criteria.lanczos import BLOCK, LowestEigenpairs
from grownas.errors import TrainingError
from grownas.genotype import Op
from grownas.ops import ACTIVATION

Place = tuple[int, int]  # node and op
Batch = tuple[Tensor, Any, Tensor | None]  # x, target, h_0
LossFn = Callable[[Tensor, Any], Tensor]
Product = Callable[[Tensor], Tensor]
Slope = Callable[[Tensor], Tensor]


def softplus_curvature(z: Tensor) -> Tensor:
    """Return the second derivative of log(1 + exp(z))."""
    y = torch.sigmoid(z)
    return y * (1 - y)


CURVATURE: dict[str, dict[str, Slope]] = {  # activation -> second derivative, from z, that replaces its own
    "exact": {},
    "softplus": {"relu": softplus_curvature},  # as Liu, Wu & Wang (2019) do
}


EXACT, ENOUGH_TO_RANK = 1e-7, 1e-3  # tolerances
VECTORS = 12  # multiplied for all ops together in a pass, at least `BLOCK` for each
TOGETHER = 2**16  # numbers that are multiplied at once: they stay in a cache, and memory is that of a batch


class Splitting(NamedTuple):
    """An op's lowest eigenpairs, float64: eigenvalues `(H,)` and vectors of length 1 `(H, D)`, one for each unit.

    A vector's entries are the unit's own parameters: additive `W_x[:, i], b_x[i], W_h[:, i]`, and `b_h[i]` after them
    in a Hadamard op.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor


def lowest_eigenpairs(
    backbone: Backbone,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    node: int,
    op: int,
    *,
    curvature: str = "exact",
    tolerance: float = EXACT,
) -> Splitting:
    """Return the lowest eigenpair of every unit's splitting matrix of one op; see `judge_ops`."""
    place = node, op
    return judge_ops(backbone, loss_fn, batches, [place], curvature=curvature, tolerance=tolerance)[place]


def judge_ops(
    backbone: Backbone,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    places: Sequence[Place] | None = None,
    *,
    curvature: str = "exact",
    tolerance: float = ENOUGH_TO_RANK,
) -> dict[Place, Splitting]:
    """Return the lowest eigenpair of every unit's splitting matrix of some ops, for little more than those of one.

    An op that is linear wherever it is differentiable (additive identity and relu) has S = 0 and costs nothing.

    Args:
        backbone: left untouched. Everything is computed in float64, from its weights as they are.
        loss_fn: `(out, target)` to the mean loss, a scalar; out `(T, B, H)` in the backbone's dtype.
        batches: of `(x, target, h_0)`, x `(T, B, I)`, h_0 `(1, B, H)` or None for zeros. Gone through several times; an
            iterator, which can be read but once, is gathered first. Else memory does not grow with their number.
        places: `(node, op)` of the ops; all if None.
        curvature: a name of `CURVATURE`; "softplus" lets relu be judged as if it were softplus in the second order.
        tolerance: of the eigenvalues, relative. Each is v^T S v of its vector v whatever the tolerance, so that what it
            predicts of a split along v is exact to rounding; what a large one costs is that v could be better.

    Raises:
        ValueError: there is no such op, no such curvature, or no batch.
        TrainingError: a gradient is not finite.

    Reference:
        Liu, Wu & Wang (2019), Splitting Steepest Descent; products in place of matrices as in Wang et al. (2019), there
        with gradient descent. Recurrence, Hadamard ops and block Lanczos are ours.
    """
    if curvature not in CURVATURE:
        raise ValueError(f"unknown curvature {curvature!r}; choose {', '.join(CURVATURE)}")
    exact = copy.deepcopy(backbone).double().requires_grad_(False)
    nodes = exact.mixed_nodes()
    places = [(j, k) for j, node in enumerate(nodes) for k in range(len(node.ops))] if places is None else places
    for place in places:
        _check(nodes, *place)
    backend = BACKENDS[choose(exact.backend, nodes)]
    curved = [(j, k) for j, k in places if has_curvature(nodes[j].ops[k], curvature)]
    block = max(BLOCK, VECTORS // max(1, len(curved)))
    judged = {
        (j, k): _Judged(nodes[j], k, curvature, backend.multiply, tolerance=tolerance, block=block) for j, k in places
    }
    for place in set(places) - set(curved):
        judged[place].take_zero()
    if isinstance(batches, Iterator):
        batches = list(batches)
    while going := {place: one for place, one in judged.items() if not one.search.is_done}:
        count = 0
        for trace, x in _traces(backend, nodes, loss_fn, batches, backbone.alpha[0].dtype):
            _add_products(going, trace, x)
            count += 1
        if not count:
            raise ValueError("batches is empty; splitting matrices are means over at least one batch")
        for one in going.values():
            one.take_mean(count)
    return {place: Splitting(one.search.eigenvalues, one.search.eigenvectors) for place, one in judged.items()}


def _check(nodes: Sequence[MixedNode], node: int, op: int) -> None:
    if not 0 <= node < len(nodes):
        raise ValueError(f"the backbone has nodes 0..{len(nodes) - 1}, got {node}")
    if not 0 <= op < len(nodes[node].ops):
        raise ValueError(f"node {node} has ops 0..{len(nodes[node].ops) - 1}, got {op}")


def has_curvature(op: Op, curvature: str = "exact") -> bool:
    """Say whether an op's splitting matrix can differ from zero.

    A product of two projections is curved whatever its activation. An additive op is curved by its activation alone;
    a homogeneous one is linear on either side of zero.
    """
    return op.combine != "add" or not ACTIVATION[op.activation].homogeneous or op.activation in CURVATURE[curvature]


def _traces(
    backend: Backend, nodes: Sequence[MixedNode], loss_fn: LossFn, batches: Iterable[Batch], dtype: torch.dtype
) -> Iterator[tuple[Trace, Tensor]]:
    """Yield each batch's trace and its x, float64; the loss is given outputs of a dtype."""
    shares = [node.shares for node in nodes]
    trace = backend.tracer(nodes, shares)
    for number, (x, target, h_0) in enumerate(batches):
        x = x.to(shares[0])
        h_0 = x.new_zeros(1, x.shape[1], nodes[0].hidden_size) if h_0 is None else h_0.to(shares[0])
        yield trace(x, h_0[0], functools.partial(_pull, loss_fn, target, dtype, number)), x


def _pull(loss_fn: LossFn, target: Any, dtype: torch.dtype, number: int, out: Tensor) -> Tensor:
    """Return a batch's gradient of the loss in the outputs."""
    leaf = out.detach().to(dtype).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss_fn(leaf, target), leaf)
    if not gradient.isfinite().all():
        raise TrainingError(f"batch {number}: the loss's gradient is not finite, so no op can be judged")
    return gradient.to(out)


def _add_products(judged: Mapping[Place, _Judged], trace: Trace, x: Tensor) -> None:
    """Add a batch's part to the products of all ops."""
    ones = x.new_ones(len(x) * x.shape[1], 1)
    for number in sorted({node for node, _ in judged}):
        inputs = torch.cat([x.flatten(0, 1), ones, trace.inputs[number].flatten(0, 1), ones], 1)  # (T*B, I+1+H+1)
        gradient = trace.gradients[number].flatten(0, 1)
        for (node, _), one in judged.items():
            if node == number:
                one.add(inputs, gradient)


class _Judged:
    """An op that is judged: its search, and the product that the search waits for."""

    def __init__(
        self, node: MixedNode, op: int, curvature: str, multiply: Multiply, *, tolerance: float, block: int
    ) -> None:
        parameters = node.op_parameters(op)
        rows = [parameters["W_x"], parameters["b_x"].unsqueeze(0), parameters["W_h"]]
        rows += [parameters["b_h"].unsqueeze(0)] if "b_h" in parameters else []
        self.theta = torch.cat(rows)  # (D, H)
        self.op, self.share, self.split, self.multiply = node.ops[op], node.shares[op], node.input_size + 1, multiply
        self.second = CURVATURE[curvature].get(self.op.activation)
        size, units = self.theta.shape
        self.search = LowestEigenpairs(units, size, block=block, tolerance=tolerance, device=self.theta.device)
        self.sum: Tensor | None = None

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add a batch's part of S times the search's block; inputs `[x | 1 | s | 1]` and gradient of the mixture."""
        units = self.search.open
        gradient = self.share * gradient[:, units]
        product = PRODUCTS[self.op.combine](self, inputs, self.theta[:, units], gradient)
        columns = self.search.block.permute(1, 2, 0)  # (D, b, O)
        together = max(1, TOGETHER // max(1, gradient.numel()))
        products = [product(columns[:, i : i + together]) for i in range(0, columns.shape[1], together)]
        found = torch.cat(products, 1).permute(2, 0, 1)  # as the block: (O, D, b)
        self.sum = found if self.sum is None else self.sum + found

    def take_mean(self, count: int) -> None:
        """Hand the mean over the batches to the search."""
        assert self.sum is not None
        self.search.take(self.sum / count)
        self.sum = None

    def take_zero(self) -> None:
        """Hand the product of an op without curvature to the search, which ends it."""
        self.search.take(torch.zeros_like(self.search.block))

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the activation's first and second derivative."""
        activation = ACTIVATION[self.op.activation]
        y = activation.f(z)
        return activation.df(y), activation.d2f(y) if self.second is None else self.second(z)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a matrix times some columns for each unit, `(n, m)` and `(m, ..)`."""
        out = b.new_empty(a.shape[0], *b.shape[1:])
        self.multiply(a, b.reshape(b.shape[0], -1), out.view(a.shape[0], -1))
        return out


def _additive(judged: _Judged, inputs: Tensor, theta: Tensor, gradient: Tensor) -> Product:
    """Return what multiplies `(D, b, O)` by S of z = U theta: U^T (g phi'' * (U v))."""
    U = inputs[:, :-1]
    d = (gradient * judged.slopes(judged.times(U, theta))[1]).unsqueeze(1)
    return lambda v: judged.times(U.T, judged.times(U, v).mul_(d))


def _hadamard(judged: _Judged, inputs: Tensor, theta: Tensor, gradient: Tensor) -> Product:
    """Return what multiplies `(D, b, O)` by S of z = p q, p = X a, q = S c."""
    times, X, S = judged.times, inputs[:, : judged.split], inputs[:, judged.split :]
    parts = theta[: judged.split], theta[judged.split :]
    p, q = times(X, parts[0]), times(S, parts[1])
    first, second = judged.slopes(p * q)
    second = gradient * second
    xx, xs, ss = (one.unsqueeze(1) for one in (second * q * q, second * p * q + gradient * first, second * p * p))

    def product(v: Tensor) -> Tensor:
        dp, dq = times(X, v[: judged.split]), times(S, v[judged.split :])
        return torch.cat([times(X.T, (xx * dp).addcmul_(xs, dq)), times(S.T, (xs * dp).addcmul_(ss, dq))])

    return product


PRODUCTS: dict[str, Callable[[_Judged, Tensor, Tensor, Tensor], Product]] = {"add": _additive, "hadamard": _hadamard}


def predicted_change(eigenvalues: Tensor, step: float) -> float:
    """Return how a split of all units with a negative eigenvalue changes the loss: step^2 / 2 times their sum."""
    return step * step / 2 * neg_sum(eigenvalues)


def neg_count(eigenvalues: Tensor) -> int:
    """Return how many units gain by a split."""
    return int((eigenvalues < 0).sum())


def neg_sum(eigenvalues: Tensor) -> float:
    """Return the sum of the negative eigenvalues."""
    return float(eigenvalues.double().clamp_max(0).sum())


RULES: dict[str, Callable[[Tensor], tuple[float, ...]]] = {  # what ranks ops, the highest first
    "neg_count": lambda eigenvalues: (neg_count(eigenvalues), -neg_sum(eigenvalues)),  # counts are often equal: all H
    "neg_sum": lambda eigenvalues: (-neg_sum(eigenvalues),),
}


def choose_ops(splittings: Mapping[Place, Splitting], rule: str = "neg_sum", count: int = 1) -> list[Place]:
    """Return the ops that it is best to split by a rule, at most `count`, the best first; none that gains nothing.

    Equal ones come in the order of their places. Splits of several ops at once add up to the order of the prediction.

    Raises:
        ValueError: there is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose {', '.join(RULES)}")
    able = sorted(place for place, one in splittings.items() if neg_count(one.eigenvalues))
    return sorted(able, key=lambda place: RULES[rule](splittings[place].eigenvalues), reverse=True)[:count]


class Step(NamedTuple):
    """A step, what it was predicted to change the loss by, and what it did."""

    step: float
    predicted: float
    measured: float


def find_step(
    loss_at: Callable[[float], float],
    predicted: Callable[[float], float],
    first: float = 1.0,
    *,
    least: float = 0.5,
    halvings: int = 12,
) -> Step | None:
    """Return the first of the steps first, first / 2, first / 4, .. that brings enough of what is predicted.

    The prediction is exact for small steps alone.

    Args:
        loss_at: the loss after a split with a step; at 0, where the split changes nothing, too.
        predicted: the change that is predicted for a step, such as the sum of `predicted_change` of the ops.
        first: the largest step.
        least: share of the predicted change that is enough.
        halvings: most of them.

    Returns:
        None if no step does.
    """
    before = loss_at(0.0)
    for number in range(halvings + 1):
        step = first / 2**number
        found = Step(step, predicted(step), loss_at(step) - before)
        if found.predicted < 0 and found.measured <= least * found.predicted:
            return found
    return None
