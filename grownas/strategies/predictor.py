"""Predictors of a genotype's rank from its code: an ensemble of small networks, whose disagreement is uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grownas.evaluation.ranks import ranks

if TYPE_CHECKING:
    from grownas.protocols import Array

HIDDEN, STEPS, RATE, DECAY = 32, 100, 1e-2, 3.0  # units of the one hidden layer; steps, rate and decay of AdamW


@dataclass(frozen=True)
class Ensemble:
    """Networks with one hidden layer of ReLU, all computed at once, in float64.

    Codes are mostly zeros, so the first layer is a product of a sparse matrix.

    Attributes:
        parameters: weights and biases of both layers, `(I, members * HIDDEN)`, `(members * HIDDEN,)`,
            `(members, HIDDEN)` and `(members,)`. Columns of the first layer belong to one member after the other.
    """

    parameters: Sequence[Tensor]

    def outputs(self, codes: Tensor) -> Tensor:
        """Map sparse codes `(n, I)` to each member's prediction, `(n, members)`."""
        w_1, b_1, w_2, b_2 = self.parameters
        hidden = torch.relu(torch.sparse.mm(codes, w_1) + b_1)
        return (hidden.view(-1, *w_2.shape) * w_2).sum(2) + b_2

    @torch.no_grad()
    def predict(self, codes: Array) -> Array:
        """Return each member's prediction for codes of shape `(n, I)`; shape `(members, n)`."""
        predictions: Array = self.outputs(torch.from_numpy(codes).to_sparse()).T.numpy()
        return predictions


def fit_ensemble(codes: Array, losses: Array, *, members: int, seed: int) -> Ensemble:
    """Fit predictors of the rank of a loss: -1 for the lowest, 1 for the highest.

    Ranks have the same scale for every metric, and a loss may be infinite. Each member learns from a bootstrap sample
    of its own and begins at weights of its own; members do not interact.

    Args:
        codes: one row per genotype, shape `(n, I)`, n >= 1.
        losses: their losses, shape `(n,)`.
        members: number of predictors.
        seed: of the weights and the samples.
    """
    generator, (count, size) = torch.Generator().manual_seed(seed), codes.shape

    def normal(*shape: int, sd: float) -> Tensor:
        return sd * torch.randn(*shape, generator=generator, dtype=torch.float64)

    first = normal(members, size, HIDDEN, sd=(2 / max(1.0, codes.sum(1).mean())) ** 0.5)  # so many inputs are 1
    second = normal(members, HIDDEN, sd=HIDDEN**-0.5)
    biases = [torch.zeros(width, dtype=torch.float64) for width in (members * HIDDEN, members)]
    parameters = [first.transpose(0, 1).flatten(1), biases[0], second, biases[1]]
    ensemble = Ensemble([one.requires_grad_() for one in parameters])
    picks = torch.multinomial(torch.ones(members, count), count, replacement=True, generator=generator)
    weights = torch.nn.functional.one_hot(picks, count).double().mean(1).T  # (n, members)
    target = torch.from_numpy(2 * ranks(losses) / max(1, count - 1) - 1)[:, None]
    x = torch.from_numpy(codes).to_sparse()
    optimizer = torch.optim.AdamW(ensemble.parameters, lr=RATE, weight_decay=DECAY, fused=True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (weights * (ensemble.outputs(x) - target).square()).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return ensemble


def thompson_sample(predictions: Array, count: int, *, seed: int) -> list[int]:
    """Choose candidates by independent Thompson sampling; return their numbers, the best sample first.

    For each candidate a value is drawn from a normal distribution with mean and standard deviation of the members'
    predictions. The candidates with the lowest values are chosen.

    Args:
        predictions: of each member for each candidate, shape `(members, n)`, members >= 2.
        count: number of candidates to choose; all if there are fewer.
        seed: of the values.

    Reference:
        White, Neiswanger & Savani (2021), BANANAS, section 4.
    """
    drawn = np.random.default_rng(seed).normal(predictions.mean(0), predictions.std(0, ddof=1))
    return [int(one) for one in np.argsort(drawn, kind="stable")[:count]]
