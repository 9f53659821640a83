"""Migrates optimiser state across a morphism: kept weights keep their moments, new weights start without state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from grownas.morphisms.origins import WHOLE, Origins, Piece
from grownas.protocols import Module

POWERS = {  # state computed from gradients: when the gradient is multiplied by c, it is multiplied by c to this power
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "momentum_buffer": 1,
}
AVERAGES = ("ax",)  # state that averages the parameter's values


def migrate(
    optimizer: torch.optim.Optimizer, origins: Origins, old: Module, new: Module, *, prefix: str = ""
) -> torch.optim.Optimizer:
    """Return an optimiser of a new module that continues the optimiser of the old module.

    State computed from gradients (Adam's moments, SGD's momentum) is scaled as the morphism scales the gradient. An
    average of values (ASGD's) keeps its distance from the value, times the stretch of the value: if a morphism keeps
    the function, it also keeps the function at the averages.

    A new parameter has no state. A new part of an old parameter has momentum 0 and its own value as average. Its
    squared gradients are set to the mean of the other parts' squared gradients: all parts share one step count, so
    Adam would not correct zeros, and its steps would be several times the rate.

    Args:
        optimizer: optimiser of parameters of `old`; left untouched.
        origins: origins that the morphism returned.
        old: the module before the morphism.
        new: the module after it; parameters outside the morphed part have the same names and shapes.
        prefix: prefix of the names of the morphed part in `old` and `new`, such as `core.`.

    Returns:
        Same class, same groups and settings. A new parameter joins the first group that contains parameters with the
        same last name (`alpha` joins the alphas); without such a group the optimiser does not get it.

    Raises:
        ValueError: the optimiser has state per weight that is not in the tables above.
    """
    names = {parameter: name for name, parameter in old.named_parameters()}
    groups = [{names[p] for p in group["params"]} for group in optimizer.param_groups]
    leaves = [{name.rpartition(".")[2] for name in group} for group in groups]
    sources: dict[str, list[Piece]] = {}
    chosen: list[list[nn.Parameter]] = [[] for _ in groups]
    for name, parameter in new.named_parameters():
        morphed = name.startswith(prefix)
        pieces = origins.get(name[len(prefix) :]) if morphed else [Piece(WHOLE, name, WHOLE)]
        sources[name] = [replace(p, source=prefix * morphed + p.source) for p in pieces or []]
        home = _group_of(sources[name], name, groups, leaves, is_new=pieces is None)
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


def _group_of(
    pieces: list[Piece], name: str, groups: list[set[str]], leaves: list[set[str]], *, is_new: bool
) -> int | None:
    """Return the number of a parameter's group: that of its first source, or of parameters with its last name."""
    before = pieces[0].source if pieces else name
    leaf = name.rpartition(".")[2]
    known = [leaf in group for group in leaves] if is_new else [before in group for group in groups]
    return known.index(True) if any(known) else None


@torch.no_grad()
def _state(
    parameter: nn.Parameter, pieces: list[Piece], old: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return a parameter's state, built from the state of its sources; empty if no source has state."""
    state: dict[str, Any] = {}
    known = torch.zeros_like(parameter, dtype=torch.bool)  # where the old gradient determines the new gradient
    for piece in pieces:
        source = old[piece.source]
        known[piece.into] = piece.scale is not None
        for key, value in optimizer.state.get(source, {}).items():
            if not (isinstance(value, Tensor) and value.shape == source.shape and value.dim() > 0):  # a step count
                state[key] = value.clone() if isinstance(value, Tensor) else value
            elif key in AVERAGES:
                target = state.setdefault(key, parameter.detach().clone())
                target[piece.into] += piece.stretch * (value[piece.index] - source[piece.index])
            elif key in POWERS:
                target = state.setdefault(key, torch.zeros_like(parameter))
                if piece.scale is not None:
                    target[piece.into] = value[piece.index] * piece.scale ** POWERS[key]
            else:
                names = ", ".join((*POWERS, *AVERAGES))
                raise ValueError(f"cannot migrate the optimiser state {key!r}; only {names} can be migrated")
    for key in state:
        if POWERS.get(key) == 2 and known.any():
            state[key][~known] = state[key][known].mean()
    return state
