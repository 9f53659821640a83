"""Gradients of alpha on data of its own, first and second order (ALGORITHMS 2)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from grownas.protocols import Task, Window
from grownas.training.recipe import split_parameters


def window_loss(model: Any, task: Task, window: Window, hidden: Any) -> tuple[Tensor, Any]:
    """Return the loss on a window and the state after it, cut off from the graph: bptt ends at the window."""
    out, hidden = model.states(window.x, hidden)
    return task.loss(model, out, window), detach(hidden)


def architecture_gradient_first(model: Any, task: Task, held_out: Window, hidden: Any) -> tuple[list[Tensor], Any]:
    """Return the gradient of the held-out loss in alpha, the weights taken as fixed, and the state after it."""
    _, alphas = split_parameters(model)
    loss, after = window_loss(model, task, held_out, hidden)
    return list(torch.autograd.grad(loss, alphas)), after


def architecture_gradient_second(
    model: Any, task: Task, window: Window, hidden: Any, held_out: Window, held_out_hidden: Any, *, rate: float
) -> tuple[list[Tensor], Any]:
    """Return the gradient in alpha through one plain gradient step of the weights, and the held-out state after it.

    The Hessian-vector product is a central difference of two gradients, eps = 0.01 / norm.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS, eq. 7 and 8; ALGORITHMS 2.
    """
    weights, alphas = split_parameters(model)
    kept = [w.detach().clone() for w in weights]
    loss, _ = window_loss(model, task, window, hidden)
    gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
    _move(weights, kept, gradient, -rate)  # w' = w - rate * gradient
    loss, after = window_loss(model, task, held_out, held_out_hidden)
    both = torch.autograd.grad(loss, [*weights, *alphas], materialize_grads=True)
    direction, direct = both[: len(weights)], both[len(weights) :]
    norm = math.sqrt(sum(float(d.double().square().sum()) for d in direction))
    implicit = [torch.zeros_like(a) for a in alphas]
    if norm > 0:
        eps = 0.01 / norm
        for sign in (1, -1):
            _move(weights, kept, direction, sign * eps)
            loss, _ = window_loss(model, task, window, hidden)
            for total, part in zip(implicit, torch.autograd.grad(loss, alphas), strict=True):
                total += sign * part / (2 * eps)
    _move(weights, kept, kept, 0.0)
    return [d - rate * i for d, i in zip(direct, implicit, strict=True)], after


def _move(weights: list[nn.Parameter], origin: list[Tensor], direction: Any, distance: float) -> None:
    with torch.no_grad():
        for weight, start, step in zip(weights, origin, direction, strict=True):
            weight.copy_(start + distance * step)


def detach(hidden: Any) -> Any:
    """Cut a state, a tensor or a tuple of tensors, off from its history."""
    return hidden.detach() if isinstance(hidden, Tensor) else tuple(detach(part) for part in hidden)
