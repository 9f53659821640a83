"""The definition of truth: the chain cell in plain autograd, one time step after the other (ALGORITHMS 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grownas.cells.node import Node
from grownas.ops import ACTIVATION


def step(node: Node, shares: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """Return a node's output at one time step.

    Args:
        node: the node's parameters.
        shares: mixture weights, shape `(K,)`.
        x: the step's input, shape `(B, I)`.
        s: the previous node's output, shape `(B, H)`.
    """
    mixed = torch.zeros_like(s)
    for number, op in enumerate(node.ops):
        parameters = node.op_parameters(number)
        from_x = x @ parameters["W_x"] + parameters["b_x"]
        from_s = s @ parameters["W_h"]
        z = from_x + from_s if op.combine == "add" else from_x * (from_s + parameters["b_h"])
        mixed = mixed + shares[number] * ACTIVATION[op.activation].f(z)
    if not node.highway:
        return mixed
    gate = torch.sigmoid(x @ node.gate_x + s @ node.gate_h)
    return s + gate * (mixed - s)


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
    for x_t in x:
        for node, weights in zip(nodes, shares, strict=True):
            s = step(node, weights, x_t, s)
        states.append(s)
    return torch.stack(states)
