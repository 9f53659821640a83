"""The inputs of the DAG supernet: the ops of each edge, and the tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NONE = "none"  # an op that outputs zero: it only takes a share
NORMS = ("none", "batch", "running")
EPSILON = 1e-5  # added to variances, as in `nn.BatchNorm1d`


class DagPlan(NamedTuple):
    """The static part of a DAG supernet of N nodes.

    Attributes:
        ops: names of the ops of each edge, possibly with "none". The order of the edges is (1<-0), (2<-0), (2<-1),
            (3<-0), ...: node i reads the states 0..i-1.
        norm: "none"; "batch": each state is normalised by its mean and variance over the batch, at each step;
            "running": each state is normalised by `DagTensors.moments`.
    """

    ops: tuple[tuple[str, ...], ...]
    norm: str = "none"

    @property
    def nodes(self) -> int:
        """N, the number of nodes without the input node."""
        return int((2 * len(self.ops)) ** 0.5)

    def edges(self, node: int) -> slice:
        """Return the slice of the edges into a node, 1..N."""
        return slice(node * (node - 1) // 2, node * (node + 1) // 2)


class DagTensors(NamedTuple):
    """A DAG supernet's weights, shares and constants, all of one dtype.

    Attributes:
        W_x: weights of x in the input node, shape `(I, 2H)`: columns of the gate, then of the op.
        W_h: weights of the states, shape `(N + 1, H, 2H)`, with the same columns. The input node reads the previous h
            with `W_h[0]`; all edges into node i share `W_h[i]`.
        shares: mixture weights of all ops, edge after edge, in the order of the plan's ops, shape `(sum of K,)`, after
            the softmax. The entries of "none" are included but not used.
        mean: weights of the states in h_t, shape `(N + 1,)`. A constant: the engine computes no gradient for it.
        skip: scalar, shape `()`: skip times the state that an edge reads is added to its output. 0: none. A constant.
        moments: running mean and variance of each state, shape `(2, N + 1, H)`, for the norm "running"; a constant.
        limit: scalar, shape `()`: states that are normalised by `moments` are cut to +-limit; None: they are not. A
            constant.
    """

    W_x: Tensor
    W_h: Tensor
    shares: Tensor
    mean: Tensor
    skip: Tensor
    moments: Tensor | None = None
    limit: Tensor | None = None


def check(plan: DagPlan, tensors: DagTensors, x: Tensor) -> None:
    """Check that a plan, its tensors and a sequence `(T, B, I)` fit together.

    Raises:
        ValueError: the number of edges, shares or states does not fit, moments are missing, there is a limit without
            moments, the norm is unknown, or the batch is too small for a variance.
    """
    N = len(tensors.W_h) - 1
    if len(plan.ops) != N * (N + 1) // 2:
        raise ValueError(
            f"W_h has weights of {N} node(s), which have {N * (N + 1) // 2} edges; the plan has {len(plan.ops)}"
        )
    count = sum(map(len, plan.ops))
    if tensors.shares.shape != (count,):
        raise ValueError(f"shares has shape {tuple(tensors.shares.shape)}, expected ({count},): one for each op")
    if tensors.mean.shape != (N + 1,):
        raise ValueError(f"mean has shape {tuple(tensors.mean.shape)}, expected ({N + 1},): one for each state")
    if plan.norm not in NORMS:
        raise ValueError(f"unknown norm {plan.norm!r}; choose one of {', '.join(NORMS)}")
    if plan.norm == "running" and tensors.moments is None:
        raise ValueError("norm='running' needs moments of shape (2, N + 1, H), got None")
    if tensors.limit is not None and tensors.moments is None:
        raise ValueError("limit bounds the states that moments normalise, got a limit without moments")
    if plan.norm == "batch" and x.shape[1] < 2:
        raise ValueError(
            f"norm='batch' needs a batch of at least 2 to take a variance of, got {x.shape[1]}; "
            "use norm='running' with stored moments, or 'none'"
        )
