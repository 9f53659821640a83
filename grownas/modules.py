"""Typed access to a model's parts; copies of modules that compute with other tensors in place of their parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from grownas.protocols import Module

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def as_module(part: Module) -> nn.Module:
    """Return a part of a model, typed by its protocol, as an `nn.Module`."""
    assert isinstance(part, nn.Module)
    return part


def with_parameters(
    module: AnyModule, values: Mapping[str, Tensor | None], children: Mapping[str, nn.Module | None] | None = None
) -> AnyModule:
    """Return a shallow copy of a module in which other tensors replace some of its parameters.

    `torch.func.functional_call` replaces tensors for one call only; this function is for a module that is passed to
    other code. Gradients flow to the tensors from which `values` were computed.

    Args:
        module: left untouched.
        values: tensors by parameter name; new names are allowed.
        children: modules by name that replace the module's direct children.
    """
    twin = copy.copy(module)
    twin._parameters = {**module._parameters, **values}  # type: ignore[dict-item]
    twin._modules = {**module._modules, **(children or {})}
    return twin
