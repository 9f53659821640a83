"""Carries optimiser state across a morphism: surviving weights keep their moments, new ones start clean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grownas.morphisms import WHOLE, Origins, Piece

POWERS = {  # how state made of gradients scales when a gradient is multiplied by c: by c to this power
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "momentum_buffer": 1,
}


def migrate(
    optimizer: torch.optim.Optimizer, origins: Origins, old: nn.Module, new: nn.Module, *, prefix: str = ""
) -> torch.optim.Optimizer:
    """Return an optimiser over a new module that goes on where the old one stood.

    Args:
        optimizer: over parameters of `old`; left untouched.
        origins: of the morphism.
        old: the module before.
        new: the module after; parameters outside the morphed part have the same names and shapes.
        prefix: what stands before the morphed part's names in `old` and `new`, such as `core.`.

    Returns:
        Same class, same groups and settings. A new parameter joins the first group that has namesakes of it (`alpha`
        with the alphas); it is left out if there are none in this optimiser.
    """
    names = {parameter: name for name, parameter in old.named_parameters()}
    groups = [{names[p] for p in group["params"]} for group in optimizer.param_groups]
    leaves = [{name.rpartition(".")[2] for name in group} for group in groups]
    sources: dict[str, list[Piece]] = {}
    chosen: list[list[nn.Parameter]] = [[] for _ in groups]
    for name, parameter in new.named_parameters():
        pieces = origins.get(name[len(prefix) :]) if name.startswith(prefix) else [Piece(WHOLE, name, WHOLE)]
        absolute = name.startswith(prefix)
        sources[name] = [Piece(p.into, prefix * absolute + p.source, p.index, p.scale) for p in pieces or []]
        home = _group_of(sources[name], name, groups, leaves)
        if home is not None:
            chosen[home].append(parameter)
    make: Any = optimizer.__class__
    migrated: torch.optim.Optimizer = make(
        [{**group, "params": parameters} for group, parameters in zip(optimizer.param_groups, chosen, strict=True)]
    )
    old_parameters = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        state = _state(parameter, sources[name], old_parameters, optimizer)
        if state:
            migrated.state[parameter] = state
    return migrated


def _group_of(pieces: list[Piece], name: str, groups: list[set[str]], leaves: list[set[str]]) -> int | None:
    """Return the group of a parameter's first source, else that of its namesakes."""
    for number, group in enumerate(groups):
        if pieces and pieces[0].source in group:
            return number
    if pieces:
        return None
    leaf = name.rpartition(".")[2]
    return next((number for number, known in enumerate(leaves) if leaf in known), None)


def _state(
    parameter: nn.Parameter, pieces: list[Piece], old: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Gather a parameter's state from its sources; empty if none has any."""
    state: dict[str, Any] = {}
    for piece in pieces:
        for key, value in optimizer.state.get(old[piece.source], {}).items():
            per_element = isinstance(value, Tensor) and value.shape == old[piece.source].shape and value.dim() > 0
            if not per_element:  # a step count
                state[key] = value.clone() if isinstance(value, Tensor) else value
                continue
            target = state.setdefault(key, torch.zeros_like(parameter))
            target[piece.into] = value[piece.index] * piece.scale ** POWERS.get(key, 0)
    return state
