"""A part of a model as an `nn.Module`; a module that computes with other tensors in the place of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from grownas.protocols import Module

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def as_module(part: Module) -> nn.Module:
    """Return a part of a model, known by its protocol, as an `nn.Module`, for what accepts nothing else."""
    assert isinstance(part, nn.Module)
    return part


def with_parameters(
    module: AnyModule, values: Mapping[str, Tensor | None], children: Mapping[str, nn.Module | None] | None = None
) -> AnyModule:
    """Return a shallow copy of a module in which some of its own parameters are other tensors; it stays as it is.

    `torch.func.functional_call` swaps tensors of a module for the length of one call; this serves where the swapped
    module is handed on. Gradients reach whatever the tensors were made of.

    Args:
        module: left untouched.
        values: tensors by the names of parameters, new names included.
        children: likewise modules, in the place of the module's own parts.
    """
    twin = copy.copy(module)
    twin._parameters = {**module._parameters, **values}  # type: ignore[dict-item]
    twin._modules = {**module._modules, **(children or {})}
    return twin
