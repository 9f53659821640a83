"""Perturbed shares for the weights' step of a search; they smooth the loss as a function of alpha (SDARTS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grownas.protocols import Task, Window
from grownas.training.bilevel import unchanged_buffers, window_loss

ATTACK_STEPS = 7  # the published number


@contextmanager
def with_shares(core: Any, shares: Sequence[Tensor]) -> Iterator[None]:
    """Use the given shares instead of softmax(alpha) in a supernet within the context."""
    core.set_shares(shares)
    try:
        yield
    finally:
        core.set_shares(None)


def perturbed_shares(
    model: Any, task: Task, window: Window, hidden: Any, *, kind: str, size: float
) -> tuple[list[Tensor], int]:
    """Return detached shares near softmax(alpha), and the number of gradients that were computed for them.

    Each share is changed by at most `size`, then the shares are projected onto the simplex.

    Args:
        model: a model whose core is a supernet; left untouched.
        task: the task that defines the loss.
        window: a training window.
        hidden: the state before the window.
        kind: `random`: a number from U(-size, size) is added to each share; `adversarial`: `ATTACK_STEPS` steps follow,
            each of 2 size / ATTACK_STEPS along the sign of the loss's gradient by the shares, to raise the loss.
        size: largest change of a share.

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
    """Return the point nearest to a vector `(K,)` whose entries are at least 0 and sum to 1.

    Reference:
        Duchi, Shalev-Shwartz, Singer & Chandra (2008), Efficient Projections onto the l1-Ball, algorithm 1.
    """
    ordered = values.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    kept = int((ordered > excess).sum())
    return (values - excess[kept - 1]).clamp_min(0)
