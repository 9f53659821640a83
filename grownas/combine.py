"""The table of combines: how an op joins its two inputs. No torch here: a genotype can be checked without torch.

An op reads the step's input x and the state s, and applies its activation to z = value(p, q), where

    p = x W_x + b_x          q = s W_h + b_h, or q = s W_h where b_h would be redundant beside b_x
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Combine(NamedTuple):
    """A function of p and q that is linear in each of them.

    Attributes:
        formula: z as `equations.txt` writes it.
        value: z from p and q.
        slopes: the derivatives of z by p and by q, from p and q.
        mixed: the second derivative of z by p and q, a constant. 0 means that z is linear in (p, q).
        neutral: the q at which z = p.
        parameters: names of an op's parameters.
        code: number of the combine in kernels; the engine also sorts ops by it.
    """

    formula: str
    value: Callable[[Any, Any], Any]
    slopes: Callable[[Any, Any], tuple[Any, Any]]
    mixed: float
    neutral: float
    parameters: tuple[str, ...]
    code: int


ADD, HADAMARD = 0, 1  # codes; the engine's layouts and kernels support these two

COMBINE: dict[str, Combine] = {
    "add": Combine("x W_x + b_x + s W_h", operator.add, lambda p, q: (1.0, 1.0), 0.0, 0.0, ("W_x", "b_x", "W_h"), ADD),
    "hadamard": Combine(
        "(x W_x + b_x) * (s W_h + b_h)",
        operator.mul,
        lambda p, q: (q, p),
        1.0,
        1.0,
        ("W_x", "b_x", "W_h", "b_h"),
        HADAMARD,
    ),
}
