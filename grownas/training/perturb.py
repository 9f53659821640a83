"""Shares that the weights' step of a search sees instead of softmax(alpha).

Perturbed ones smooth the loss in alpha (SmoothDARTS); dropped identity ops make the others learn (P-DARTS).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grownas.protocols import Task, Window
from grownas.training.bilevel import unchanged_buffers, window_loss

ATTACK_STEPS = 7  # as published
IDENTITIES = {("add", "identity"), ("gated", "identity")}  # ops that a gradient passes unchanged but for a matrix


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
    """Return shares for the weights' step, on the simplex, without gradient; and the gradients that they took.

    Args:
        model: its core is a supernet; left as it is.
        task: gives the loss.
        window: of the training data.
        hidden: the state before it.
        kind: `random`: each share moves by U(-size, size); `adversarial`: from there, `ATTACK_STEPS` steps of
            2 size / ATTACK_STEPS along the sign of the loss's gradient in the shares raise the loss; `identity`: see
            `without_identities`.
        size: largest move of a share before the projection on the simplex; or the probability that an identity op is
            dropped.

    Reference:
        Chen & Hsieh (2020), Stabilizing Differentiable Architecture Search via Perturbation-based Regularization,
        eq. 7 (random) and 8 (adversarial).
    """
    if kind == "identity":
        return without_identities(model.core, size), 0
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


def without_identities(core: Any, rate: float) -> list[Tensor]:
    """Return softmax(alpha) without the identity ops that are dropped, each with probability `rate`.

    The shares of the ops that stay are divided by their sum. A mixture that holds nothing but identity ops keeps them.
    """
    shares = []
    for mixture, alpha in enumerate(core.alpha):
        is_identity = torch.tensor([op in IDENTITIES for op in core.op_names(mixture)])
        drawn = torch.rand(alpha.shape, device=alpha.device) < rate
        dropped = drawn & is_identity.to(alpha.device) if not is_identity.all() else torch.zeros_like(drawn)
        shares.append(torch.softmax(alpha.detach().masked_fill(dropped, -math.inf), 0))
    return shares


def project_on_simplex(values: Tensor) -> Tensor:
    """Return the point nearest to a vector `(K,)` whose entries are at least 0 and sum to 1.

    Reference:
        Duchi, Shalev-Shwartz, Singer & Chandra (2008), Efficient Projections onto the l1-Ball, algorithm 1.
    """
    ordered = values.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    kept = int((ordered > excess).sum())
    return (values - excess[kept - 1]).clamp_min(0)
