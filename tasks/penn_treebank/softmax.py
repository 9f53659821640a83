"""The cross-entropy of words, over the whole vocabulary or a sample of words.

Shapes: features `(T, B, E)`, decoder weight `(V, E)` and bias `(V,)`, targets `(T, B)`, int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from grownas.errors import ConfigError

BLOCK = {"cpu": 1 << 20}  # logits per block: 4 MB in float32, so that they stay in the CPU cache
LARGE_BLOCK = 1 << 26  # on other devices: 256 MB, since small products would leave them idle


def cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, *, block: int | None = None
) -> Tensor:
    """Return each target's negative log probability in nats, shape `(T, B)`, in the features' dtype.

    Logits are computed in blocks of about `block` numbers (default: by device). Without gradients only one block is in
    memory at a time.
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
    """A softmax over each position's target and a sample of words, for faster training with a large vocabulary.

    The sample of a window contains each word w independently with probability pi_w = min(1, c n_w^power), where n_w is
    the word's count in the training text and c gives `samples` words on average. So frequent words are always sampled.
    The sum over the vocabulary is estimated without bias: the target counts once, other words count 1 / pi_w (Horvitz &
    Thompson):

        -log p(y) ~ -o_y + log(exp(o_y) + sum over sampled w != y of exp(o_w) / pi_w)

    This is the logQ correction with exact expected counts and without accidental hits. Loss and gradient have a bias of
    order 1 / samples, from the curvature of the logarithm, and are exact if all words are sampled.

    Attributes:
        inclusion: the probabilities pi, shape `(V,)`.

    Reference:
        Jean et al. (2015), On Using Very Large Target Vocabulary, arXiv 1412.2007, for the estimate. We draw without
        replacement.
    """

    inclusion: Tensor

    @classmethod
    def of(cls, counts: Tensor, samples: int, *, power: float = 0.75) -> SampledSoftmax:
        """Compute the probabilities from word counts.

        Args:
            counts: count of each word in the training text, shape `(V,)`; a count of 0 is treated as 1.
            samples: expected number of words in a sample; all words if the vocabulary is not larger.
            power: exponent of the counts: 1 for the unigram distribution, lower for more rare words.

        Raises:
            ConfigError: `samples` or `power` is out of range.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ConfigError(f"samples must be a whole number above 0, got {samples!r}")
        if not 0 <= power < float("inf"):
            raise ConfigError(f"power must be a number of 0 or more, got {power!r}")
        wanted = counts.double().clamp_min(1) ** power
        certain = torch.full(wanted.shape, samples >= len(wanted))
        inclusion = torch.ones_like(wanted)
        while not certain.all():  # cap probabilities at 1 and raise the others to keep the expected number
            rest = wanted * ((samples - int(certain.sum())) / wanted[~certain].sum())
            inclusion = torch.where(certain, 1.0, rest)
            if not (inclusion > 1).any():
                break
            certain |= inclusion > 1
        return cls(inclusion.float())

    def draw(self) -> Tensor:
        """Draw a window's sample from PyTorch's global CPU generator: ids in ascending order."""
        return (torch.rand(len(self.inclusion)) < self.inclusion).nonzero().squeeze(1)

    def loss(self, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        """Return the mean estimated loss over all positions, a scalar; all positions share one sample."""
        return self.estimate(features, weight, bias, target, self.draw())

    def estimate(self, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, sample: Tensor) -> Tensor:
        """Return the mean estimated loss for a given sample of distinct ids."""
        features, target = features.flatten(0, 1), target.flatten()
        # columns: the sample, and the other targets, each of which counts only in its own rows
        offset = torch.full(self.inclusion.shape, -torch.inf)
        offset[sample] = -self.inclusion[sample].log()
        offset = offset.to(weight)  # dtype of the weight: autocast may have rounded the features
        is_column = offset > -torch.inf
        is_column[target] = True
        columns = is_column.nonzero().squeeze(1)
        place = is_column.cumsum(0)[target] - 1
        corrections = offset[columns].repeat(len(target), 1)
        corrections.scatter_(1, place.unsqueeze(1), 0.0)
        logits = functional.linear(features, functional.embedding(columns, weight), bias.index_select(0, columns))
        return functional.cross_entropy(logits + corrections, place)
