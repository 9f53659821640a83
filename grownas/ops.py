"""The two tables that define every op: how an op combines its two inputs, and what it applies to the result.

An activation is one line here, read by the reference, the sequence engine, the space, the equations and the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """A pointwise function, given so that a hand-written backward need not keep its input.

    Attributes:
        f: the value from the input z.
        df: the first derivative from the output y.
        d2f: the second derivative from the output y.
        code: what kernels call it.
        formula: how `equations.txt` writes it, with z for the input.
        start: the z at which a silent op is held; 0, or elsewhere if the slope at 0 is 0, for it must learn.
        homogeneous: whether f(c z) = c f(z) for all c > 0.
    """

    f: Callable[[Tensor], Tensor]
    df: Callable[[Tensor], Tensor]
    d2f: Callable[[Tensor], Tensor]
    code: int
    formula: str
    start: float = 0.0
    homogeneous: bool = False


ACTIVATION: dict[str, Activation] = {
    "identity": Activation(lambda z: z, torch.ones_like, torch.zeros_like, 0, "z", homogeneous=True),
    "tanh": Activation(torch.tanh, lambda y: 1 - y * y, lambda y: -2 * y * (1 - y * y), 1, "tanh(z)"),
    "sigmoid": Activation(
        torch.sigmoid, lambda y: y * (1 - y), lambda y: y * (1 - y) * (1 - 2 * y), 2, "1 / (1 + exp(-z))"
    ),
    "relu": Activation(
        torch.relu, lambda y: (y > 0).to(y.dtype), torch.zeros_like, 3, "max(z, 0)", start=0.1, homogeneous=True
    ),
}

COMBINE: dict[str, str] = {  # how an op joins x_t and the previous state; the formula as `equations.txt` writes it
    "add": "x W_x + b_x + s W_h",
    "hadamard": "(x W_x + b_x) * (s W_h + b_h)",
}

DEFAULT_ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu")  # a new line of the table changes no default
DEFAULT_OPS: list[tuple[str, str]] = [
    (combine, activation) for combine in COMBINE for activation in DEFAULT_ACTIVATIONS
]
