"""Scores a language model on a text: with the plain softmax, with dynamic evaluation, or with a neural cache.

All functions read evaluation windows in order and carry the state, which a window with `fresh` resets; burn-in windows
are not scored. Each function returns the negative log probability, in nats, of every scored target: float64, shape
`(steps, B)`. The model runs in evaluation mode and is not changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grownas.errors import ConfigError
from grownas.evaluation.scoring import evaluating
from grownas.protocols import Window
from grownas.tasks.penn_treebank.model import LanguageModel
from grownas.tasks.penn_treebank.softmax import cross_entropy


def perplexity(losses: Tensor) -> float:
    """Return exp of the mean loss; infinity if it is too large for a float."""
    mean = float(losses.mean())
    return math.inf if mean > 709 else math.exp(mean)


@torch.no_grad()
def token_losses(model: LanguageModel, windows: Iterable[Window]) -> Tensor:
    """Score with the full softmax of the unchanged model."""
    losses = []
    with evaluating(model):
        for window, out in _outputs(model, windows):
            if not window.burn_in:
                losses.append(_nll(model, out, window.target).double())
    return torch.cat(losses)


# ------------------------------------------------------------------------------------------- dynamic evaluation ----


@dataclass(frozen=True)
class Dynamics:
    """Dynamic evaluation: after a window is scored, take a gradient step on its loss and decay to the trained weights.

        p <- p + decay * D * (p_0 - p) - rate * g / (R + epsilon)

    With `scale`, R is the root of the mean squared gradients and D = R / mean of R, at most 1 / decay (the paper's RMS
    with RMS-normalised decay). Without `scale`, R + epsilon and D are 1 (the paper's SGD form). As in the authors'
    code, the mean of R is the mean over the parameters' means. The authors tune rates from 3e-5 to 1e-4 and decays from
    1e-3 to 5e-3 with `scale`, for windows of 5 tokens.

    Attributes:
        rate: learning rate of the gradient step.
        decay: decay towards the trained weights, per window.
        scale: mean squared gradients by parameter name, from `mean_squared_gradients`, or None.
        epsilon: keeps the step finite if training gradients vanish; used only with `scale`.

    Reference:
        Krause, Kahembwe, Murray & Renals (2018), Dynamic Evaluation of Neural Sequence Models, arXiv 1709.07432.
    """

    rate: float
    decay: float = 0.0
    scale: Mapping[str, Tensor] | None = None
    epsilon: float = 2e-5

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a number is out of range.
        """
        if not (0 <= self.rate < math.inf and 0 <= self.decay <= 1 and 0 < self.epsilon < math.inf):
            raise ConfigError(
                f"dynamic evaluation with rate {self.rate}, decay {self.decay}, epsilon {self.epsilon}: expected a "
                "rate of 0 or more, a decay from 0 to 1, an epsilon above 0"
            )


def dynamic_losses(model: LanguageModel, windows: Iterable[Window], dynamics: Dynamics) -> Tensor:
    """Score with a copy of the model that learns from each window after scoring it, and from burn-in windows.

    Raises:
        ConfigError: a window has several streams; the weights would learn from one stream the future of another.
    """
    model = _open_to_gradients(model)
    moved = {name: one for name, one in model.named_parameters() if one.requires_grad}
    start = {name: one.detach().clone() for name, one in moved.items()}
    pace, pull = _dynamics_factors(dynamics, moved)
    losses = []
    for window, out in _outputs(model, windows):
        if window.target.shape[1] != 1:
            raise ConfigError(
                f"dynamic evaluation reads one stream, got {window.target.shape[1]}: the weights would learn from one "
                "stream the future of another. Evaluate with one stream"
            )
        loss = _nll(model, out, window.target)
        if not window.burn_in:
            losses.append(loss.detach().double())
        gradients = torch.autograd.grad(loss.mean(), list(moved.values()), materialize_grads=True)
        with torch.no_grad():
            for (name, one), gradient in zip(moved.items(), gradients, strict=True):
                one.add_(pull[name] * (start[name] - one) - pace[name] * gradient)
    return torch.cat(losses)


def mean_squared_gradients(model: LanguageModel, windows: Iterable[Window]) -> dict[str, Tensor]:
    """Return the mean squared gradient of each parameter: of a window's mean nll, over windows of the training text.

    The values depend on the number of tokens per window, so a tuned rate is valid only for windows of the same size.
    """
    model = _open_to_gradients(model)
    moved = {name: one for name, one in model.named_parameters() if one.requires_grad}
    sums = {name: torch.zeros_like(one) for name, one in moved.items()}
    count = 0
    for window, out in _outputs(model, windows):
        if window.burn_in:
            continue
        loss = _nll(model, out, window.target).mean()
        gradients = torch.autograd.grad(loss, list(moved.values()), materialize_grads=True)
        for name, gradient in zip(moved, gradients, strict=True):
            sums[name] += gradient.square()
        count += 1
    return {name: one / count for name, one in sums.items()}


def _dynamics_factors(
    dynamics: Dynamics, moved: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor | float], dict[str, Tensor | float]]:
    """Return two factors for each parameter: on its gradient, and on its distance from the trained value."""
    if dynamics.scale is None:
        return dict.fromkeys(moved, dynamics.rate), dict.fromkeys(moved, dynamics.decay)
    roots = {name: dynamics.scale[name].sqrt() for name in moved}
    typical = torch.stack([one.mean() for one in roots.values()]).mean()
    return (
        {name: dynamics.rate / (one + dynamics.epsilon) for name, one in roots.items()},
        {name: (dynamics.decay * one / typical).clamp_max(1) for name, one in roots.items()},
    )


# ------------------------------------------------------------------------------------------------- neural cache ----


@dataclass(frozen=True)
class Cache:
    """A continuous cache: words that followed similar states before become more likely.

        p(w) = (1 - share) softmax(w) + share * p_cache(w)
        p_cache(w) ~ sum of exp(flatness h_t . h_i) over the last `size` i with x_(i+1) = w

    h is the core's output before the gain. While a stream's cache is empty, only the softmax is used.

    Attributes:
        size: number of past steps in the cache of each stream.
        flatness: theta in the paper; 0 weights all cached words equally.
        share: lambda in the paper.

    Reference:
        Grave, Joulin & Usunier (2017), Improving Neural Language Models with a Continuous Cache, arXiv 1612.04426.
    """

    size: int
    flatness: float
    share: float

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a number is out of range.
        """
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(f"the size of a cache must be a whole number above 0, got {self.size!r}")
        if not (0 <= self.flatness < math.inf and 0 <= self.share < 1):
            raise ConfigError(
                f"a cache with flatness {self.flatness} and share {self.share}: expected a flatness of 0 or more and a "
                "share of 0 or more and less than 1"
            )


@torch.no_grad()
def cache_losses(model: LanguageModel, windows: Iterable[Window], cache: Cache) -> Tensor:
    """Score with a mixture of the softmax and a cache of past words, including those of burn-in windows."""
    losses = []
    keys = words = None  # (n, B, H), (n, B): the last states, and the words that followed
    with evaluating(model):
        for window, out in _outputs(model, windows):
            if window.fresh or keys is None or words is None:
                keys, words = out[:0], window.target[:0]
            keys, words = torch.cat([keys, out]), torch.cat([words, window.target])
            if not window.burn_in:
                nll = _nll(model, out, window.target).double()
                losses.append(_mixed(nll, _cache_log_probability(keys, words, out, window.target, cache), cache.share))
            keys, words = keys[-cache.size :], words[-cache.size :]
    return torch.cat(losses)


def _cache_log_probability(keys: Tensor, words: Tensor, out: Tensor, target: Tensor, cache: Cache) -> Tensor:
    """Return log p_cache of the targets, `(T, B)`, float64; nan where the cache is empty.

    The last T keys of `(n, B, H)` are `out` itself; step t uses only keys before it.
    """
    T, n = len(out), len(keys)
    age = torch.arange(n - T, n, device=out.device)[:, None] - torch.arange(n, device=out.device)  # (T, n)
    scores = cache.flatness * torch.einsum("tbh,nbh->tbn", out, keys).double()
    scores = scores.masked_fill(((age < 1) | (age > cache.size))[:, None], -torch.inf)
    hits = scores.masked_fill(target.unsqueeze(2) != words.t().unsqueeze(0), -torch.inf)
    return hits.logsumexp(2) - scores.logsumexp(2)


def _mixed(nll: Tensor, cached: Tensor, share: float) -> Tensor:
    """Return the negative log probability of the mixture."""
    if share == 0:
        return nll
    mixed = -torch.logaddexp(math.log1p(-share) - nll, math.log(share) + cached)
    return torch.where(cached.isnan(), nll, mixed)


# ---------------------------------------------------------------------------------------------------- all three ----


def _nll(model: LanguageModel, out: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(model.features(out), model.weight, model.bias, target)


def _outputs(model: LanguageModel, windows: Iterable[Window]) -> Iterator[tuple[Window, Tensor]]:
    """Yield each window with the core's output; the state between windows carries no gradient."""
    hidden: Any = None
    for window in (each.to(model.bias.device) for each in windows):
        out, hidden = model.states(window.x, None if window.fresh else _detached(hidden))
        yield window, out


def _detached(hidden: Any) -> Any:
    if hidden is None or isinstance(hidden, Tensor):
        return None if hidden is None else hidden.detach()
    return tuple(_detached(part) for part in hidden)


def _open_to_gradients(model: LanguageModel) -> LanguageModel:
    """Return a copy in evaluation mode; only PyTorch's RNN layers stay in training mode, as cuDNN's backward requires.

    These layers have no dropout of their own; the model applies all dropout itself.
    """
    model = copy.deepcopy(model).eval()
    for part in model.modules():
        if isinstance(part, nn.RNNBase):
            part.train()
    return model
