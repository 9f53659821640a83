"""Which ops to split: the lowest eigenpairs of their splitting matrices, found without the matrices (ALGORITHMS 4).

Splitting a unit's op into two halves at theta +- eps v changes the loss by eps^2 / 2 v^T S v, where

    S = mean over batches of sum_{t, b} g_{t, b} Hessian_theta(o(x_{t, b}, s_{t, b}))

and g is the loss's gradient in the op's output o: total, through all later steps and nodes, times the op's share and,
under `highway`, times the gate. `curvature` multiplies vectors by S, `lanczos` finds eigenpairs by such products.

Batches come by again for each round of products, and g is computed anew: by one pass of the engine forward and
backward, once for all ops that are judged. To keep g, or what follows from it at each step, would take memory that
grows with the data; to keep all units' S takes H D^2 / 2 numbers, D / 2 times what an op's weights do. Instead each
pass is made to count: it multiplies a block of vectors by every S, so that three or four are enough as a rule.

Under `share_projection` an op's theta is its own view of the projection that it shares: S is that of the op alone
moving away from it, with the others staying. So the two halves must have projections of their own.
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
VECTORS = 12  # that a pass multiplies for all ops together, at least
BLOCK = 4  # and for each; both chosen by time: fewer take more passes, more are seldom worth theirs
SHORTEST = 2**-7  # step of a split: about what one step of Adam at a rate of 1e-3 moves the parameters of a unit


class Splitting(NamedTuple):
    """An op's low eigenpairs, float64: eigenvalues `(H,)` and vectors of length 1 `(H, D)`, one for each unit.

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
    tolerance: float = TOLERANCE,
) -> Splitting:
    """Return the lowest eigenpair of every unit's splitting matrix of one op.

    An op that is linear wherever it is differentiable (additive identity and relu) has S = 0 and costs nothing.

    Args:
        backbone: left untouched. Everything is computed in float64, from its weights as they are.
        loss_fn: `(out, target)` to the mean loss, a scalar; out `(T, B, H)` in the backbone's dtype.
        batches: of `(x, target, h_0)`, x `(T, B, I)`, h_0 `(1, B, H)` or None for zeros. Gone through several times; an
            iterator, which can be read but once, is gathered first. Else memory does not grow with their number.
        node: number of the op's node.
        op: number of the op in it.
        curvature: a name of `CURVATURE`; "softplus" lets relu be judged as if it were softplus in the second order.
        tolerance: of each eigenvalue, relative; of those below a thousandth of their matrix's largest, as of this.

    Raises:
        ValueError: there is no such op, no such curvature, or no batch.
        TrainingError: a gradient is not finite.

    Warns:
        RuntimeWarning: an eigenvalue is not known to the tolerance after very many passes.

    Reference:
        Liu, Wu & Wang (2019), Splitting Steepest Descent; products in place of matrices as in Wang et al. (2019), there
        with gradient descent. Recurrence, Hadamard ops and block Lanczos are ours.
    """
    place, limits = (node, op), {"tolerance": tolerance, "most": PASSES}
    searches = _search(backbone, loss_fn, batches, [place], curvature, limits)
    given_up = sum(search.eigenpairs.given_up for search in searches)
    if given_up:
        warnings.warn(
            f"{given_up} lowest eigenvalues of node {node}, op {op} are not known to {tolerance:g} after {PASSES} "
            "passes: they are upper bounds",
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
    """Return low eigenpairs of every unit's splitting matrix of some ops, good enough to choose between them.

    Each eigenvalue is v^T S v of its vector v, so that what it predicts of a split along v is exact, whatever the
    tolerance. What the last digits cost is better spent on weight steps.

    Args:
        backbone: left untouched, see `lowest_eigenpairs`, as for all that follows.
        loss_fn: `(out, target)` to the mean loss.
        batches: of `(x, target, h_0)`; gone through `passes` times at most.
        places: `(node, op)` of the ops; all if None.
        curvature: a name of `CURVATURE`.
        tolerance: of the sum of an op's eigenvalues, relative.
        passes: after which what was found is taken whatever the tolerance: they bound the cost.

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
    """Return the finished searches, for all of the ops that have curvature."""
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


def _add_products(searches: Sequence[UnitSearch], trace: Trace, x: Tensor) -> None:
    """Add a batch's part to the products of all searches."""
    ones = x.new_ones(x.shape[0] * x.shape[1], 1)
    for node in sorted({search.node for search in searches}):
        inputs = torch.cat([x.flatten(0, 1), ones, trace.inputs[node].flatten(0, 1), ones], 1)
        gradient = trace.gradients[node].flatten(0, 1)
        for search in searches:
            if search.node == node:
                search.add(inputs, gradient)


def _results(backbone: Backbone, searches: Sequence[UnitSearch], places: Sequence[Place]) -> dict[Place, Splitting]:
    """Return what was found, and zero where there was nothing to look for."""
    nodes, found = backbone.mixed_nodes(), {}
    for node, op in places:
        vectors = torch.zeros_like(unit_parameters(nodes[node], op).T)
        vectors[:, 0] = 1  # of S = 0 any vector is one
        found[node, op] = Splitting(torch.zeros_like(vectors[:, 0]), vectors)
    H = backbone.hidden_size
    for search in searches:
        values, vectors = search.eigenpairs.eigenvalues.view(-1, H), search.eigenpairs.eigenvectors
        for op, *two in zip(search.ops, values, vectors.view(-1, H, vectors.shape[1]), strict=True):
            found[search.node, op] = Splitting(*two)
    return found


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
    shortest: float = SHORTEST,
) -> Step | None:
    """Return the first of the steps first, first / 2, first / 4, .. that brings enough of what is predicted.

    The prediction is exact for small steps alone. But a split of a very short step is none: its halves are as good as
    equal, and the first weight step moves them farther together than they stand apart. Hadamard relus, whose kinks
    allow no more, can rank first by what they are predicted to gain.

    Args:
        loss_at: the loss after a split with a step; at 0, where the split changes nothing, too.
        predicted: the change that is predicted for a step, such as the sum of `predicted_change` of the ops.
        first: the largest step.
        least: share of the predicted change that is enough.
        shortest: of the steps that are tried. A length says this whatever the loss's unit, as a gain does not.

    Returns:
        None if no step does.
    """
    before, step = loss_at(0.0), first
    while step >= shortest:
        found = Step(step, predicted(step), loss_at(step) - before)
        if found.predicted < 0 and found.measured <= least * found.predicted:
            return found
        step /= 2
    return None
