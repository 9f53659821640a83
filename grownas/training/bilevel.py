"""Gradients of alpha on held-out data, of first and second order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grownas.protocols import Model, Module, Task, Window
from grownas.training.recipe import CLIP_EPS, device_of, split_parameters


def window_loss(model: Model, task: Task, window: Window, hidden: Any) -> tuple[Tensor, Any]:
    """Return the loss on a window and the detached state after it: bptt ends at the window."""
    out, hidden = model.states(window.x, hidden)
    return task.loss(model, out, window), detach(hidden)


def architecture_gradient_first(model: Model, task: Task, held_out: Window, hidden: Any) -> tuple[list[Tensor], Any]:
    """Return the gradient of the held-out loss by alpha, with the weights fixed, and the state after the window."""
    _, alphas = split_parameters(model)
    with unchanged_buffers(model):
        loss, after = window_loss(model, task, held_out, hidden)
        return list(torch.autograd.grad(loss, alphas)), after


def architecture_gradient_second(
    model: Model,
    task: Task,
    window: Window,
    hidden: Any,
    held_out: Window,
    held_out_hidden: Any,
    *,
    rate: float | Sequence[float],
    clip: float = math.inf,
) -> tuple[list[Tensor], Any]:
    """Return the gradient by alpha through one plain gradient step of the weights, and the state after `held_out`.

    With R the diagonal of the rates and v the held-out gradient by the weights after the step, the result is

        dL_val/dalpha - (d^2 L_train / dalpha dw) R v

    The product is a central difference of two gradients along R v, eps = 0.01 / norm(R v). All three losses on
    `window` use the same dropout masks and samples; otherwise the difference would compare two different functions.

    Where the step's gradient is clipped, R is scaled by the same factor, taken as constant, as in the published code.

    Args:
        model: its weights are moved and put back, and so are its buffers.
        task: gives the loss.
        window: of the training data that the weights learn from.
        hidden: the state before it.
        held_out: of the data that alpha learns from.
        held_out_hidden: the state before it.
        rate: of the step: one for all weights, or one for each, in the order of `split_parameters`.
        clip: largest norm of the step's gradient.

    Reference:
        Liu, Simonyan & Yang (2019), DARTS, eq. 7 and 8.
    """
    weights, alphas = split_parameters(model)
    rates = [float(rate)] * len(weights) if isinstance(rate, int | float) else list(rate)
    kept, device = [w.detach().clone() for w in weights], device_of(model)
    drawn = random_state(device)
    with unchanged_buffers(model):
        loss, _ = window_loss(model, task, window, hidden)
        gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
        factor = min(1.0, clip / (_norm(gradient) + CLIP_EPS))
        rates = [factor * one for one in rates]
        _move(weights, kept, gradient, [-one for one in rates])  # w' = w - R gradient
        loss, after = window_loss(model, task, held_out, held_out_hidden)
        both = torch.autograd.grad(loss, [*weights, *alphas], materialize_grads=True)
        direct = both[len(weights) :]
        direction = [one * d for one, d in zip(rates, both, strict=False)]  # R v
        norm = _norm(direction)
        implicit = [torch.zeros_like(a) for a in alphas]
        if norm > 0:
            eps, next_draw = 0.01 / norm, random_state(device)
            for sign in (1, -1):
                _move(weights, kept, direction, [sign * eps] * len(weights))
                set_random_state(drawn, device)
                loss, _ = window_loss(model, task, window, hidden)
                for total, part in zip(implicit, torch.autograd.grad(loss, alphas), strict=True):
                    total += sign * part / (2 * eps)
            set_random_state(next_draw, device)
        _move(weights, kept, kept, [0.0] * len(weights))
    return [d - i for d, i in zip(direct, implicit, strict=True)], after


@contextmanager
def unchanged_buffers(model: Module) -> Iterator[None]:
    """Put a model's buffers back afterwards: running moments follow the steps of the weights alone."""
    kept = [(buffer, buffer.clone()) for _, buffer in model.named_buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(one.double().square().sum()) for one in tensors))


def _move(weights: list[nn.Parameter], origin: list[Tensor], direction: Any, distances: list[float]) -> None:
    with torch.no_grad():
        for weight, start, step, distance in zip(weights, origin, direction, distances, strict=True):
            weight.copy_(start + distance * step)


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return the state of the random generators that a model on a device uses in training."""
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": gpu}


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the state of the generators that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def detach(hidden: Any) -> Any:
    """Return a state detached from the graph; a state is a tensor or a tuple of tensors."""
    return hidden.detach() if isinstance(hidden, Tensor) else tuple(detach(part) for part in hidden)
