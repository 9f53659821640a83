"""PyTorch's optimisers without its compiler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
SHIELDED = "__dynamo_disable"  # what a wrapper calls; PyTorch sets it, after the import, at the first call


@contextmanager
def optimizers_uncompiled() -> Iterator[None]:
    """Use PyTorch's optimisers inside the block without importing its compiler, which takes almost a second.

    PyTorch wraps some methods of its optimisers to hide them from the compiler. A wrapper imports the compiler when it
    is first called; here it is told to call the plain method. So nothing inside the block may be compiled. Where a
    version of PyTorch hides the methods in another way, the compiler is imported as before.
    """
    wrapped = [getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None) for name in METHODS]
    plain = [method for method in wrapped if method is not None and not hasattr(method, SHIELDED)]
    if "torch._dynamo" in sys.modules:
        plain = []
    for method in plain:
        setattr(method, SHIELDED, method)
    try:
        yield
    finally:
        for method in plain:
            delattr(method, SHIELDED)
