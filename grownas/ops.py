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
        zero: the value at z = 0.
        code: what kernels call it.
        formula: how `equations.txt` writes it, with z for the input.
    """

    f: Callable[[Tensor], Tensor]
    df: Callable[[Tensor], Tensor]
    d2f: Callable[[Tensor], Tensor]
    zero: float
    code: int
    formula: str


ACTIVATION: dict[str, Activation] = {
    "identity": Activation(lambda z: z, torch.ones_like, torch.zeros_like, 0.0, 0, "z"),
    "tanh": Activation(torch.tanh, lambda y: 1 - y * y, lambda y: -2 * y * (1 - y * y), 0.0, 1, "tanh(z)"),
    "sigmoid": Activation(
        torch.sigmoid, lambda y: y * (1 - y), lambda y: y * (1 - y) * (1 - 2 * y), 0.5, 2, "1 / (1 + exp(-z))"
    ),
    "relu": Activation(torch.relu, lambda y: (y > 0).to(y.dtype), torch.zeros_like, 0.0, 3, "max(z, 0)"),
}

COMBINE: dict[str, str] = {  # how an op joins x_t and the previous state; the formula as `equations.txt` writes it
    "add": "x W_x + b_x + s W_h",
    "hadamard": "(x W_x + b_x) * (s W_h + b_h)",
}

DEFAULT_OPS: list[tuple[str, str]] = [(combine, activation) for combine in COMBINE for activation in ACTIVATION]
