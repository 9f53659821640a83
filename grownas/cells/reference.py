"""The reference definition of all cells: plain autograd, one time step after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from grownas.cells.dag_plan import EPSILON, NONE, DagPlan, DagTensors, check
from grownas.cells.node import Node, Pull, Trace, Tracer
from grownas.cells.quantiser import Times, Units, times
from grownas.genotype import DagGenotype
from grownas.ops import ACTIVATION, COMBINE


def step(
    node: Node,
    shares: Tensor,
    x: Tensor,
    s: Tensor,
    nudge: Tensor | None = None,
    products: tuple[Times, Times] | None = None,
) -> Tensor:
    """Return a node's output at one time step.

    Args:
        node: the node's parameters.
        shares: mixture weights, shape `(K,)`.
        x: the step's input, shape `(B, I)`.
        s: the previous node's output, shape `(B, H)`.
        nudge: added to the mixture of ops, shape `(B, H)`.
        products: `node.products()`, made once for all steps; None: make them here.
    """
    mixed = torch.zeros_like(s) if nudge is None else nudge
    from_x, from_s = products or node.products()
    projected_x, projected_s = from_x(x), from_s(s)
    for number, (op, place) in enumerate(zip(node.ops, node.projection, strict=True)):
        parameters = node.op_parameters(number)
        p, q = projected_x[place] + parameters["b_x"], projected_s[place]
        z = COMBINE[op.combine].value(p, q + parameters["b_h"] if "b_h" in parameters else q)
        mixed = mixed + shares[number] * ACTIVATION[op.activation].f(z)
    if node.skip is not None:
        mixed = mixed + node.skip * s
    if node.highway:
        mixed = s + torch.sigmoid(projected_x[-1] + projected_s[-1]) * (mixed - s)
    return mixed if node.blend is None else s + node.blend * (mixed - s)


def run(nodes: Sequence[Node], shares: Sequence[Tensor], x: Tensor, h_0: Tensor) -> Tensor:
    """Return a chain's states over a sequence.

    Args:
        nodes: the chain.
        shares: each node's mixture weights.
        x: inputs, shape `(T, B, I)`.
        h_0: first state, shape `(B, H)`.

    Returns:
        States, shape `(T, B, H)`.
    """
    states, s = [], h_0
    products = [node.products() for node in nodes]
    for x_t in x:
        for node, weights, own in zip(nodes, shares, products, strict=True):
            s = step(node, weights, x_t, s, products=own)
        states.append(s)
    return torch.stack(states)


def run_dag(
    genotype: DagGenotype, W_x: Tensor, W_h: Tensor, x: Tensor, h_0: Tensor, units: Sequence[Units] | None = None
) -> Tensor:
    """Return the states of a derived DAG cell over a sequence.

    Args:
        genotype: the cell, with N nodes.
        W_x: weights of x in the input node, shape `(I, 2H)`; H columns of the gate, then H columns of the op.
        W_h: weights of the state that each node reads, input node first, shape `(N + 1, H, 2H)`, same column order.
        x: inputs, shape `(T, B, I)`.
        h_0: first state, shape `(B, H)`.
        units: quantised products of each node, input node first; None: products of real numbers.

    Returns:
        States, shape `(T, B, H)`.
    """
    if units is None:
        from_x, first, *rest = (times([own]) for own in (W_x, *W_h))
    else:
        assert units[0].x is not None  # the input node reads x
        from_x = units[0].x.times(W_x.unsqueeze(0))
        first, *rest = (own.h.times(weights.unsqueeze(0)) for own, weights in zip(units, W_h, strict=True))
    out, h = [], h_0
    for x_t in x:
        states = [_gated("tanh", h, from_x(x_t)[0] + first(h)[0])]
        for node, from_s in zip(genotype.nodes, rest, strict=True):
            s = states[node.reads]
            states.append(_gated(node.activation, s, from_s(s)[0]))
        h = torch.stack([states[i] for i in genotype.concat]).mean(0)
        out.append(h)
    return torch.stack(out)


def _gated(activation: str, s: Tensor, projected: Tensor) -> Tensor:
    """Return s + sigmoid(gate) * (activation(z) - s), where `projected` is `[gate | z]`."""
    gate, z = projected.chunk(2, -1)
    return s + torch.sigmoid(gate) * (ACTIVATION[activation].f(z) - s)


def run_dag_supernet(plan: DagPlan, tensors: DagTensors, x: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states over a sequence of the DAG supernet, the search cell of DARTS.

    As in the code of DARTS, a node sums the mixtures of its edges, then its state is normalised without a learned scale
    or bias. There, all states share one module of running moments; here, each state has its own moments.

    Args:
        plan: the ops of each edge, and the norm of the states.
        tensors: weights, shares and constants.
        x: inputs, shape `(T, B, I)`.
        h_0: first state, shape `(B, H)`.

    Returns:
        States, shape `(T, B, H)`; and for the norm "batch" each state's mean and biased variance over the batch at each
        step, shape `(T, 2, N + 1, H)`, detached; None for other norms.

    Raises:
        ValueError: plan, tensors and batch do not fit together; see `dag_plan.check`.
    """
    check(plan, tensors, x)
    shares = torch.split(tensors.shares, [len(ops) for ops in plan.ops])
    limit = tensors.limit if plan.norm == "running" else None
    out, seen, h = [], [], h_0
    for x_t in x:
        states: list[Tensor] = []
        moments: list[Tensor] = []
        for i, weights in enumerate(tensors.W_h):
            if i == 0:
                s = _gated("tanh", h, x_t @ tensors.W_x + h @ weights)
            else:
                edges = zip(states, plan.ops[plan.edges(i)], shares[plan.edges(i)], strict=True)
                s = torch.stack([_edge(ops, own, tensors.skip, s, s @ weights) for s, ops, own in edges]).sum(0)
            if plan.norm == "batch":
                moments.append(torch.stack([s.mean(0), s.var(0, correction=0)]))
            elif plan.norm == "running" and tensors.moments is not None:
                moments.append(tensors.moments[:, i])
            s = (s - moments[i][0]) / (moments[i][1] + EPSILON).sqrt() if moments else s
            states.append(s if limit is None else s.clamp(-limit, limit))
        h = functools.reduce(torch.add, [weight * s for weight, s in zip(tensors.mean, states, strict=True)])
        out.append(h)
        if plan.norm == "batch":
            seen.append(torch.stack(moments, 1).detach())
    return torch.stack(out), torch.stack(seen) if seen else None


def _edge(ops: Sequence[str], shares: Tensor, skip: Tensor, s: Tensor, projected: Tensor) -> Tensor:
    """Return an edge's mixture of gated ops plus the skip of the state."""
    mixed = skip * s
    for op, share in zip(ops, shares, strict=True):
        if op != NONE:
            mixed = mixed + share * _gated(op, s, projected)
    return mixed


def tracer(nodes: Sequence[Node], shares: Sequence[Tensor]) -> Tracer:
    """Return a function that computes the `Trace` of a chain by autograd.

    Its arguments are `x` and `h_0`, see `run`, and `pull`, which returns the loss's gradient by the chain's states. A
    node's gradient is the gradient by a zero added to its mixture.
    """

    @torch.enable_grad()
    def trace(x: Tensor, h_0: Tensor, pull: Pull) -> Trace:
        inputs: list[list[Tensor]] = [[] for _ in nodes]
        states, s = [], h_0
        nudges = h_0.new_zeros(len(nodes), len(x), *h_0.shape, requires_grad=True)
        for t, x_t in enumerate(x):
            for j, (node, weights) in enumerate(zip(nodes, shares, strict=True)):
                inputs[j].append(s.detach())
                s = step(node, weights, x_t, s, nudges[j, t])
            states.append(s)
        out = torch.stack(states)
        (gradients,) = torch.autograd.grad(out, nudges, pull(out.detach()))
        return Trace([torch.stack(one) for one in inputs], list(gradients))

    return trace
