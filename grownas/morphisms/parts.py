"""Building blocks of morphisms: carriers, ops held constant, noise, and constants moved into biases."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from grownas.backbones.chain import Backbone, MixedNode
from grownas.genotype import Op
from grownas.ops import ACTIVATION, COMBINE

CARRIER = ("add", "identity")


def is_carrier(op: Op, share_projection: bool) -> bool:
    """Return whether an op can be a carrier: an additive identity with its own projection."""
    return (op.combine, op.activation) == CARRIER and (op.own_projection or not share_projection)


def hold_constant(node: MixedNode, op: int, units: int) -> float:
    """Make an op constant in its first units, in place, with nonzero gradients; return the constant.

    The activation's input is set to `Activation.start`: a small positive value for relu, whose gradient at zero is
    zero. A Hadamard op with a nonzero input needs W_h = 0, also if W_h is shared: the other ops then have gradients
    through their biases.
    """
    parameters = node.op_parameters(op)
    combine, activation = COMBINE[node.ops[op].combine], ACTIVATION[node.ops[op].activation]
    parameters["W_x"][:, :units] = 0
    parameters["b_x"][:units] = activation.start
    if activation.start or combine.value(0, 1):  # otherwise p = 0 is enough for z = 0
        parameters["W_h"][:, :units] = 0
        if "b_h" in parameters:
            parameters["b_h"][:units] = combine.neutral
    return activation.f(torch.tensor(activation.start, dtype=torch.float64)).item()


def disturb(node: MixedNode, ops: Iterable[int], noise: float, generator: Generator | None) -> None:
    """Add noise to all parameters of some ops of a node, in place."""
    disturbed: set[int] = set()
    for number in ops:
        for value in node.op_parameters(number).values():
            if value.data_ptr() not in disturbed:  # only once if ops share a projection
                disturbed.add(value.data_ptr())
                drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value += noise * drawn.to(value.device)


def constant_part(node: MixedNode) -> Tensor:
    """Return a node's mixture at zero input and zero state, shape `(H,)`, float64."""
    total = node.b_x.new_zeros(node.hidden_size, dtype=torch.float64)
    for number, share in enumerate(torch.softmax(node.alpha.double(), 0)):
        q = node.b_h[node.bias[number]].double() if number in node.bias else 0
        z = COMBINE[node.ops[number].combine].value(node.b_x[number].double(), q)
        total += share * ACTIVATION[node.ops[number].activation].f(z)
    return total


def fold_constant(backbone: Backbone, node: int, constant: Tensor) -> None:
    """Add a constant `(H,)` that a node's mixture lost to an existing bias, in place.

    The bias is that of the node's additive identity with the largest share. Without such an op, the constant times W_h
    is added to the biases of the next node's ops. In the last node, or under highway, it is then lost.
    """
    here = backbone.mixed_nodes()[node]
    identities = [number for number, op in enumerate(here.ops) if (op.combine, op.activation) == CARRIER]
    if identities:
        shares = torch.softmax(here.alpha.double(), 0)
        number = max(identities, key=lambda number: shares[number].item())
        here.op_parameters(number)["b_x"] += constant / shares[number]
        return
    if node + 1 == len(backbone.nodes) or backbone.highway:
        return
    after = backbone.mixed_nodes()[node + 1]
    for number in range(len(after.ops)):
        parameters = after.op_parameters(number)
        parameters["b_h" if "b_h" in parameters else "b_x"] += constant @ parameters["W_h"].double()
