"""Carries optimiser state across a morphism: surviving weights keep their moments, new ones start clean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from grownas.morphisms.origins import WHOLE, Origins, Piece
from grownas.protocols import Module

POWERS = {  # how state made of gradients scales when a gradient is multiplied by c: by c to this power
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "momentum_buffer": 1,
}
AVERAGES = ("ax",)  # state made of values: it goes where the values go


def migrate(
    optimizer: torch.optim.Optimizer, origins: Origins, old: Module, new: Module, *, prefix: str = ""
) -> torch.optim.Optimizer:
    """Return an optimiser over a new module that goes on where the old one stood.

    What is made of gradients (Adam's moments, SGD's momentum) is scaled as its gradient was. An average of values
    (ASGD's) keeps its distance from the value, as far as that was stretched: if a morphism keeps the function, so it
    does at the averages.

    A parameter that is new as a whole has no state. A part that is new in a parameter which is not has momentum 0 and
    its own value as average. Its squared gradients are taken to be those of the rest, on average: they share a step
    count, so that Adam would not correct zeros, and take steps of several times the rate.

    Args:
        optimizer: over parameters of `old`; left untouched.
        origins: of the morphism.
        old: the module before.
        new: the module after; parameters outside the morphed part have the same names and shapes.
        prefix: what stands before the morphed part's names in `old` and `new`, such as `core.`.

    Returns:
        Same class, same groups and settings. A new parameter joins the first group that has namesakes of it (`alpha`
        with the alphas); it is left out if there are none in this optimiser.

    Raises:
        ValueError: the optimiser keeps something of each weight that is not in the tables above.
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
    """Return the group of a parameter's first source, or its own if all in it is new; of a new one its namesakes'."""
    before = pieces[0].source if pieces else name
    leaf = name.rpartition(".")[2]
    known = [leaf in group for group in leaves] if is_new else [before in group for group in groups]
    return known.index(True) if any(known) else None


@torch.no_grad()
def _state(
    parameter: nn.Parameter, pieces: list[Piece], old: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Gather a parameter's state from its sources; empty if none has any."""
    state: dict[str, Any] = {}
    told = torch.zeros_like(parameter, dtype=torch.bool)  # where the old gradient tells the new one
    for piece in pieces:
        source = old[piece.source]
        told[piece.into] = piece.scale is not None
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
                known = ", ".join((*POWERS, *AVERAGES))
                raise ValueError(f"cannot migrate an optimiser's {key!r}: of what it keeps, only {known} are known")
    for key in state:
        if POWERS.get(key) == 2 and told.any():
            state[key][~told] = state[key][told].mean()
    return state
