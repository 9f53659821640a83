"""Chooses the ops to split by the lowest eigenpairs of their splitting matrices, without the matrices.

Splitting a unit of an op into two halves at theta +- eps v changes the loss by eps^2 / 2 v^T S v, where

    S = mean over batches of sum_{t, b} g_{t, b} Hessian_theta(o(x_{t, b}, s_{t, b}))

and g is the loss's total gradient, through all later steps and nodes, by the op's output o, times the op's share and,
under `highway`, times the gate. `curvature` multiplies vectors by S; `lanczos` finds eigenpairs from such products.

Each round of products reads all batches again and computes g again, by one forward and backward pass of the engine for
all ops together. Storing g at each step needs memory that grows with the data; storing S of all units needs H D^2 / 2
numbers, D / 2 times the size of the op's weights. Each pass multiplies every S by a block of vectors, so that three or
four passes are usually enough.

Under `share_projection` an op's theta is its view of the shared projection. S describes a change of this op only; the
other ops that share the projection stay the same. The two halves must therefore have their own projections.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grownas.backbones.chain import Backbone, MixedNode
from grownas.cells.backends import BACKENDS, Backend, choose
from grownas.cells.node import Trace
from grownas.criteria.curvature import CURVATURE, UnitSearch, has_curvature, unit_parameters
from grownas.errors import TrainingError

Place = tuple[int, int]  # node and op
Batch = tuple[Tensor, Any, Tensor | None]  # x, target, h_0
LossFn = Callable[[Tensor, Any], Tensor]

TOLERANCE, PASSES = 1e-7, 200
TOLERANCE_TO_RANK, PASSES_TO_RANK = 1e-2, 4
VECTORS = 12  # least number of vectors per pass, over all ops
BLOCK = 4  # least number of vectors per op; both minimise the time: fewer vectors need more passes
SHORTEST = 2**-7  # shortest step of a split: about the change of a unit's parameters in one Adam step at rate 1e-3


class Splitting(NamedTuple):
    """Low eigenpairs of an op, one per unit, float64: eigenvalues `(H,)` and eigenvectors of length 1 `(H, D)`.

    The entries of a vector belong to the unit's parameters `W_x[:, i], b_x[i], W_h[:, i]`, and `b_h[i]` if Hadamard.
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
    tolerance: float = TOLERANCE,
) -> Splitting:
    """Return the lowest eigenpair of the splitting matrix of each unit of an op.

    An op that is linear wherever it is differentiable (additive identity and relu) has S = 0 and needs no computation.

    Args:
        backbone: left untouched. Everything is computed in float64 from its present weights.
        loss_fn: maps `(out, target)` to the mean loss, a scalar; out `(T, B, H)` in the backbone's dtype.
        batches: batches `(x, target, h_0)`, x `(T, B, I)`, h_0 `(1, B, H)` or None for zeros. Read several times; an
            iterator is first copied into a list. Otherwise memory does not grow with the number of batches.
        node: number of the op's node.
        op: number of the op in its node.
        curvature: a name of `CURVATURE`; "softplus" uses the second derivative of softplus for relu.
        tolerance: relative tolerance of an eigenvalue. For eigenvalues below 1/1000 of the matrix's largest eigenvalue
            it is relative to that limit.

    Raises:
        ValueError: there is no such op, no such curvature, or no batch.
        TrainingError: a gradient is not finite.

    Warns:
        RuntimeWarning: an eigenvalue has not reached the tolerance after 200 passes.

    Reference:
        Liu, Wu & Wang (2019), Splitting Steepest Descent. Matrix-vector products as in Wang et al. (2019), who use
        gradient descent. Recurrence, Hadamard ops and block Lanczos are ours.
    """
    place, limits = (node, op), {"tolerance": tolerance, "most": PASSES}
    searches = _search(backbone, loss_fn, batches, [place], curvature, limits)
    given_up = sum(search.eigenpairs.given_up for search in searches)
    if given_up:
        warnings.warn(
            f"{given_up} lowest eigenvalues of node {node}, op {op} have not reached the tolerance {tolerance:g} after "
            f"{PASSES} passes: they are upper bounds",
            RuntimeWarning,
            stacklevel=2,
        )
    return _results(backbone, searches, [place])[place]


def judge_ops(
    backbone: Backbone,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    places: Sequence[Place] | None = None,
    *,
    curvature: str = "exact",
    tolerance: float = TOLERANCE_TO_RANK,
    passes: int = PASSES_TO_RANK,
) -> dict[Place, Splitting]:
    """Return low eigenpairs of the splitting matrices of some ops, precise enough to rank the ops.

    Each eigenvalue is v^T S v of its vector v. Its prediction for a split along v is therefore exact to second order,
    whatever the tolerance. More digits would cost more time than they are worth.

    Args:
        backbone: left untouched; see `lowest_eigenpairs` for this and the other arguments.
        loss_fn: maps `(out, target)` to the mean loss.
        batches: batches `(x, target, h_0)`; read at most `passes` times.
        places: `(node, op)` of the ops; all if None.
        curvature: a name of `CURVATURE`.
        tolerance: relative tolerance of an eigenvalue; relative to the op's mean absolute eigenvalue if that is larger.
        passes: most passes; the eigenpairs are then returned whatever their errors.

    Raises:
        ValueError, TrainingError: see `lowest_eigenpairs`.
    """
    if places is None:
        places = [(node, op) for node, alpha in enumerate(backbone.alpha) for op in range(len(alpha))]
    if passes < 1:
        raise ValueError(f"passes must be at least 1, got {passes}")
    limits = {"tolerance": tolerance, "most": passes, "summed": backbone.hidden_size}
    return _results(backbone, _search(backbone, loss_fn, batches, places, curvature, limits), places)


def _search(
    backbone: Backbone,
    loss_fn: LossFn,
    batches: Iterable[Batch],
    places: Sequence[Place],
    curvature: str,
    limits: Mapping[str, Any],
) -> list[UnitSearch]:
    """Return the finished searches of all ops with curvature."""
    if curvature not in CURVATURE:
        raise ValueError(f"unknown curvature {curvature!r}; choose {', '.join(CURVATURE)}")
    exact = copy.deepcopy(backbone).double().requires_grad_(False)
    nodes = exact.mixed_nodes()
    alike: dict[tuple[int, str], list[int]] = {}  # node, combine -> ops
    for node, op in dict.fromkeys(places):
        exact.check_place(node, op)
        if has_curvature(nodes[node].ops[op], curvature):
            alike.setdefault((node, nodes[node].ops[op].combine), []).append(op)
    block = max(BLOCK, VECTORS // max(1, sum(map(len, alike.values()))))
    backend = BACKENDS[choose(exact.backend, nodes)]
    searches = [
        UnitSearch(nodes[node], node, ops, curvature=curvature, multiply=backend.multiply, block=block, **limits)
        for (node, _), ops in alike.items()
    ]
    if isinstance(batches, Iterator):
        batches = list(batches)
    while going := [search for search in searches if not search.eigenpairs.is_done]:
        count = 0
        for trace, x in _traces(backend, nodes, loss_fn, batches, backbone.alpha[0].dtype):
            _add_products(going, trace, x)
            count += 1
        if not count:
            raise ValueError("batches is empty; splitting matrices are means over at least one batch")
        for search in going:
            search.take_mean(count)
    return searches


def _traces(
    backend: Backend, nodes: Sequence[MixedNode], loss_fn: LossFn, batches: Iterable[Batch], dtype: torch.dtype
) -> Iterator[tuple[Trace, Tensor]]:
    """Yield each batch's trace and its x, float64; the outputs are cast to `dtype` for the loss."""
    shares = [node.shares for node in nodes]
    trace = backend.tracer(nodes, shares)
    for number, (x, target, h_0) in enumerate(batches):
        x = x.to(shares[0])
        h_0 = x.new_zeros(1, x.shape[1], nodes[0].hidden_size) if h_0 is None else h_0.to(shares[0])
        yield trace(x, h_0[0], functools.partial(_pull, loss_fn, target, dtype, number)), x


def _pull(loss_fn: LossFn, target: Any, dtype: torch.dtype, number: int, out: Tensor) -> Tensor:
    """Return the gradient of a batch's loss by the outputs."""
    leaf = out.detach().to(dtype).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss_fn(leaf, target), leaf)
    if not gradient.isfinite().all():
        raise TrainingError(f"batch {number}: the loss's gradient is not finite, so no op can be split")
    return gradient.to(out)


def _add_products(searches: Sequence[UnitSearch], trace: Trace, x: Tensor) -> None:
    """Add a batch's products to all searches."""
    ones = x.new_ones(x.shape[0] * x.shape[1], 1)
    for node in sorted({search.node for search in searches}):
        inputs = torch.cat([x.flatten(0, 1), ones, trace.inputs[node].flatten(0, 1), ones], 1)
        gradient = trace.gradients[node].flatten(0, 1)
        for search in searches:
            if search.node == node:
                search.add(inputs, gradient)


def _results(backbone: Backbone, searches: Sequence[UnitSearch], places: Sequence[Place]) -> dict[Place, Splitting]:
    """Return the eigenpairs found; eigenvalue 0 for ops without curvature."""
    nodes, found = backbone.mixed_nodes(), {}
    for node, op in places:
        vectors = torch.zeros_like(unit_parameters(nodes[node], op).T)
        vectors[:, 0] = 1  # any vector is an eigenvector of S = 0
        found[node, op] = Splitting(torch.zeros_like(vectors[:, 0]), vectors)
    H = backbone.hidden_size
    for search in searches:
        values, vectors = search.eigenpairs.eigenvalues.view(-1, H), search.eigenpairs.eigenvectors
        for op, *two in zip(search.ops, values, vectors.view(-1, H, vectors.shape[1]), strict=True):
            found[search.node, op] = Splitting(*two)
    return found


def predicted_change(eigenvalues: Tensor, step: float) -> float:
    """Return the predicted change of the loss by a split: step^2 / 2 times the sum of the negative eigenvalues."""
    return step * step / 2 * neg_sum(eigenvalues)


def neg_count(eigenvalues: Tensor) -> int:
    """Return the number of negative eigenvalues: of units whose split lowers the loss."""
    return int((eigenvalues < 0).sum())


def neg_sum(eigenvalues: Tensor) -> float:
    """Return the sum of the negative eigenvalues."""
    return float(eigenvalues.double().clamp_max(0).sum())


RULES: dict[str, Callable[[Tensor], tuple[float, ...]]] = {  # ranking of ops, highest first
    "neg_count": lambda eigenvalues: (neg_count(eigenvalues), -neg_sum(eigenvalues)),  # often all counts are H
    "neg_sum": lambda eigenvalues: (-neg_sum(eigenvalues),),
}


def choose_ops(splittings: Mapping[Place, Splitting], rule: str = "neg_sum", count: int = 1) -> list[Place]:
    """Return the best ops to split by a rule, at most `count`, best first; only ops with negative eigenvalues.

    Ties keep the order of the places. To second order the predicted changes of simultaneous splits add up.

    Raises:
        ValueError: the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose {', '.join(RULES)}")
    able = sorted(place for place, one in splittings.items() if neg_count(one.eigenvalues))
    return sorted(able, key=lambda place: RULES[rule](splittings[place].eigenvalues), reverse=True)[:count]


class Step(NamedTuple):
    """A step, and the predicted and the measured change of the loss."""

    step: float
    predicted: float
    measured: float


def find_step(
    loss_at: Callable[[float], float],
    predicted: Callable[[float], float],
    first: float = 1.0,
    *,
    least: float = 0.5,
    shortest: float = SHORTEST,
) -> Step | None:
    """Return the first of the steps first, first / 2, first / 4, .. with at least part `least` of the predicted gain.

    The prediction is exact for small steps only. A very short step is useless: the two halves are almost equal, and the
    first weight step moves both farther than their distance. Hadamard relus can have a large predicted gain but,
    because of their kinks, allow very short steps only.

    Args:
        loss_at: returns the loss after a split with a step; step 0 leaves the loss unchanged.
        predicted: returns the predicted change of the loss, such as the sum of `predicted_change` of the ops.
        first: the largest step.
        least: required fraction of the predicted change.
        shortest: the shortest step tried. This limit is a length, since it must not depend on the unit of the loss.

    Returns:
        The step, or None if no step is good enough.
    """
    before, step = loss_at(0.0), first
    while step >= shortest:
        found = Step(step, predicted(step), loss_at(step) - before)
        if found.predicted < 0 and found.measured <= least * found.predicted:
            return found
        step /= 2
    return None
