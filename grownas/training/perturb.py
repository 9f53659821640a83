"""Perturbed shares for the weights' step of a search, which smooths the loss in alpha (SmoothDARTS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grownas.protocols import Task, Window
from grownas.training.bilevel import unchanged_buffers, window_loss

ATTACK_STEPS = 7  # as published


@contextmanager
def with_shares(core: Any, shares: Sequence[Tensor]) -> Iterator[None]:
    """Let a supernet compute with given shares instead of softmax(alpha)."""
    core.set_shares(shares)
    try:
        yield
    finally:
        core.set_shares(None)


def perturbed_shares(
    model: Any, task: Task, window: Window, hidden: Any, *, kind: str, size: float
) -> tuple[list[Tensor], int]:
    """Return shares near softmax(alpha), on the simplex, without gradient; and the gradients that they took.

    Each share differs by at most `size` before the projection on the simplex.

    Args:
        model: its core is a supernet; left as it is.
        task: gives the loss.
        window: of the training data.
        hidden: the state before it.
        kind: `random`: each share moves by U(-size, size); `adversarial`: from there, `ATTACK_STEPS` steps of
            2 size / ATTACK_STEPS along the sign of the loss's gradient in the shares raise the loss.
        size: largest move of a share.

    Reference:
        Chen & Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization,
        eq. 7 (random) and 8 (adversarial).
    """
    own = [torch.softmax(alpha.detach(), 0) for alpha in model.core.alpha]
    shares = [project_on_simplex(p + torch.empty_like(p).uniform_(-size, size)) for p in own]
    if kind == "random":
        return shares, 0
    for _ in range(ATTACK_STEPS):
        variables = [p.requires_grad_() for p in shares]
        with with_shares(model.core, variables), unchanged_buffers(model):
            loss, _ = window_loss(model, task, window, hidden)
            gradients = torch.autograd.grad(loss, variables)
        moved = [p.detach() + 2 * size / ATTACK_STEPS * g.sign() for p, g in zip(variables, gradients, strict=True)]
        near = [torch.clamp(p, o - size, o + size) for p, o in zip(moved, own, strict=True)]
        shares = [project_on_simplex(p) for p in near]
    return shares, ATTACK_STEPS


def project_on_simplex(values: Tensor) -> Tensor:
    """Return the nearest point whose entries are at least 0 and sum to 1, for a vector `(K,)`.

    Reference:
        Duchi, Shalev-Shwartz, Singer & Chandra (2008), Efficient Projections onto the l1-Ball, algorithm 1.
    """
    ordered = values.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    kept = int((ordered > excess).sum())
    return (values - excess[kept - 1]).clamp_min(0)
