"""The cross-entropy of words, over the whole vocabulary or over a sample of it.

Shapes: features `(T, B, E)`, decoder weight `(V, E)` and bias `(V,)`, targets `(T, B)`, int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from grownas.errors import ConfigError

BLOCK = {"cpu": 1 << 20}  # logits at a time: 4 MB in float32 stay in the cache
LARGE_BLOCK = 1 << 26  # elsewhere, where small products leave the device idle: 256 MB


def cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, *, block: int | None = None
) -> Tensor:
    """Return each target's negative log probability in nats, shape `(T, B)`, in the features' dtype.

    Logits are computed for some rows at a time, about `block` numbers or what suits the device; without a gradient no
    more of them are held.
    """
    rows = max(1, (block or BLOCK.get(weight.device.type, LARGE_BLOCK)) // len(weight))
    pieces = zip(torch.split(features.flatten(0, 1), rows), torch.split(target.flatten(), rows), strict=True)
    losses = [
        functional.cross_entropy(functional.linear(piece, weight, bias), wanted, reduction="none")
        for piece, wanted in pieces
    ]
    return torch.cat(losses).view(target.shape)


@dataclass(frozen=True, eq=False)
class SampledSoftmax:
    """A softmax over each position's target and a sample of words, for training where the vocabulary costs most.

    A window's sample takes each word w by itself with probability pi_w = min(1, c n_w^power), n_w its count in the
    training text and c such that `samples` words are expected: frequent words are always there. The sum over the
    vocabulary is estimated without bias, the target counted once and the others by 1 / pi_w (Horvitz & Thompson):

        -log p(y) ~ -o_y + log(exp(o_y) + sum over sampled w != y of exp(o_w) / pi_w)

    That is the logQ correction with the true expected counts, accidental hits left out. Loss and gradient are biased
    only by the logarithm's curvature, of order 1 / samples, and are exact where all words are sampled.

    Attributes:
        inclusion: pi, shape `(V,)`.

    Reference:
        Jean et al. (2015), On Using Very Large Target Vocabulary, arXiv 1412.2007, for the estimate. We draw without
        replacement.
    """

    inclusion: Tensor

    @classmethod
    def of(cls, counts: Tensor, samples: int, *, power: float = 0.75) -> SampledSoftmax:
        """Make the probabilities.

        Args:
            counts: of each word in the training text, shape `(V,)`; a word that was never seen counts as seen once.
            samples: number of words expected; all are taken where there are no more.
            power: of the counts: 1 for the unigram distribution, less for more of the rare words.

        Raises:
            ConfigError: `samples` or `power` cannot be used.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ConfigError(f"samples must be a whole number above 0, got {samples!r}")
        if not 0 <= power < float("inf"):
            raise ConfigError(f"power must be a number from 0 on, got {power!r}")
        wanted = counts.double().clamp_min(1) ** power
        certain = torch.full(wanted.shape, samples >= len(wanted))
        inclusion = torch.ones_like(wanted)
        while not certain.all():  # what lies above 1 is cut off, and the others have to make up for it
            rest = wanted * ((samples - int(certain.sum())) / wanted[~certain].sum())
            inclusion = torch.where(certain, 1.0, rest)
            if not (inclusion > 1).any():
                break
            certain |= inclusion > 1
        return cls(inclusion.float())

    def draw(self) -> Tensor:
        """Return a window's sample, ids in ascending order, from PyTorch's global generator on the CPU."""
        return (torch.rand(len(self.inclusion)) < self.inclusion).nonzero().squeeze(1)

    def loss(self, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        """Return the mean estimate over all positions, a scalar, with one sample for all of them."""
        return self.estimate(features, weight, bias, target, self.draw())

    def estimate(self, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sample: Tensor) -> Tensor:
        """Return the mean estimate from a given sample, ids without repetition."""
        features, target = features.flatten(0, 1), target.flatten()
        # columns: the sample, and the targets it lacks, which count in their own rows alone
        offset = torch.full(self.inclusion.shape, -torch.inf)
        offset[sample] = -self.inclusion[sample].log()
        offset = offset.to(weight)  # not the features', which autocast rounds
        is_column = offset > -torch.inf
        is_column[target] = True
        columns = is_column.nonzero().squeeze(1)
        place = is_column.cumsum(0)[target] - 1
        corrections = offset[columns].repeat(len(target), 1)
        corrections.scatter_(1, place.unsqueeze(1), 0.0)
        logits = functional.linear(features, functional.embedding(columns, weight), bias.index_select(0, columns))
        return functional.cross_entropy(logits + corrections, place)
