"""How a model is trained, as plain values, and the optimisers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from grownas.errors import ConfigError


class AveragedSGD(torch.optim.SGD):
    """SGD that keeps the means of its weights, from when it is told to.

    PyTorch's ASGD takes each step at the rate of the one before, and counts steps since each parameter's first to know
    what to average. A schedule means the step's own rate, and in a model that has grown parameters differ in age.

    State of a parameter: `ax`, its mean, and `averaged`, the number of steps in it.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        """Begin without means."""
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.defaults["averaging"] = False
        for group in self.param_groups:
            group.setdefault("averaging", False)

    def set_averaging(self, on: bool) -> None:
        """Keep means of the weights after each step from the next on, or forget those that were kept."""
        for group in self.param_groups:
            group["averaging"] = on
        if not on:
            for state in self.state.values():
                state.pop("ax", None)
                state.pop("averaged", None)

    @torch.no_grad()
    def average(self) -> None:
        """Take the weights as they are into the means, where these are kept."""
        for group in self.param_groups:
            for p in group["params"] if group["averaging"] else ():
                state = self.state[p]
                count = state["averaged"] = state.get("averaged", 0) + 1
                if count == 1:
                    state["ax"] = p.detach().clone()
                else:
                    state["ax"].lerp_(p, 1 / count)

    def means(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter that has a mean, with it."""
        for group in self.param_groups:
            yield from ((p, self.state[p]["ax"]) for p in group["params"] if "ax" in self.state.get(p, {}))


class ExponentiatedGradient(torch.optim.Optimizer):
    """Exponentiated gradient descent on shares p = softmax(alpha): p *= exp(-lr dL/dp), renormalised.

    In alpha this is a step along dL/dp. Since dL/dalpha = p (dL/dp - p . dL/dp), it is dL/dalpha / p up to a constant,
    which the softmax removes.

    Reference:
        Li, Khodak, Balcan & Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search.
    """

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        """Take the parameters, each one a vector alpha."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move each alpha; its shares still sum to 1 and the largest alpha is 0."""
        for group in self.param_groups:
            for alpha in group["params"]:
                if alpha.grad is None:
                    continue
                shares = torch.softmax(alpha.double(), 0).clamp_min(torch.finfo(torch.float32).tiny)
                moved = alpha.double() - group["lr"] * alpha.grad.double() / shares
                alpha.copy_(moved - moved.max())


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], OptimizerRecipe], torch.optim.Optimizer]] = {
    "adam": lambda params, r: torch.optim.AdamW(params, lr=r.rate, weight_decay=r.weight_decay, fused=True),
    "sgd": lambda params, r: torch.optim.SGD(params, lr=r.rate, momentum=r.momentum, weight_decay=r.weight_decay),
    "nt_asgd": lambda params, r: AveragedSGD(params, lr=r.rate, weight_decay=r.weight_decay),
    "exponentiated": lambda params, r: ExponentiatedGradient(params, lr=r.rate),
}
DECAYS: dict[str, Callable[[float], float]] = {"linear": lambda done: 1.0 - done}  # part of the decay done -> factor
BILEVEL = ("joint", "first", "second")
PERTURB = ("none", "random", "adversarial", "identity")


def _check_name(what: str, name: object, allowed: Iterable[str]) -> None:
    if name not in (known := list(allowed)):
        raise ConfigError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")


def _check_numbers(owner: object, names: Sequence[str], *, most: float = math.inf) -> None:
    """Refuse numbers that are negative or not a number, or above `most`."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value <= most:
            limit = "" if most == math.inf else f" to {most:g}"
            raise ConfigError(f"{name} must be a number from 0{limit or ' on'}, got {value!r}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """One optimiser. `weight_decay` is decoupled for adam, else an L2 term; `momentum` is of sgd.

    Raises:
        ConfigError: there is no such optimiser, or a number is negative or none.
    """

    optimizer: str = "adam"
    rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check everything."""
        _check_name("optimizer", self.optimizer, OPTIMIZERS)
        _check_numbers(self, ("rate", "momentum", "weight_decay"))


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        epochs: most epochs.
        patience: epochs without a lower validation loss before the stage ends; None trains all `epochs` and keeps the
            last, as a refit on training and validation data must.
        clip: largest norm of the weights' gradient.
        l2_sp: strength of the decoupled penalty on the distance from the stage's first parameters (L2-SP),
            p += rate * l2_sp * (p_0 - p) after each weight step, the rate that of the parameter's group in its
            optimiser; 0 for none.
        warm_up: weight steps over which all rates rise to their own.
        decay: `none`, or `linear`: all rates fall to 0 over the `epochs`.
        decay_span: the part of the schedule, of `decay`, `perturb_size` and `skip`, that the epochs cover; all of it is
            (0, 1).
        non_monotone: nt_asgd averages the weights from the first epoch on whose validation loss is above the lowest of
            those that are more than so many epochs back (Merity et al. 2018, algorithm 1).
        average: decay of an exponential moving average of all parameters over steps, which is what is evaluated and
            kept; 0 for none.
        blend_steps: weight steps in which nodes that are blended in rise to 1, see `morphisms.blend_node`; the last
            epoch that is allowed has plain nodes in any case.
        bf16: train under autocast in bfloat16; only alpha's step of its own, whose differences are small, is without.
        bilevel: `joint` (alpha learns from the weights' batches), `first` or `second` order (ALGORITHMS 2).
        alpha_after: epochs in which alpha is frozen before it learns, where it has a step of its own.
        perturb: the shares that the weights' step sees: `none` for alpha's own, `random`, `adversarial` or `identity`,
            see `training.perturb`.
        perturb_size: size of the perturbation at the start and at the end of the schedule, linear in between; of
            `identity` the probability that an identity op is dropped.
        skip: factor on each node's (in a DAG each edge's) input that is added to its output, at the start of the
            schedule; it falls linearly to 0 (DARTS-).
        weights: optimiser of the weights.
        alpha: optimiser of the architecture weights; ignored where the model has none.

    Raises:
        ConfigError: a name is unknown or a number cannot be used.
    """

    epochs: int = 200
    patience: int | None = 12
    clip: float = 1.0
    l2_sp: float = 0.0
    warm_up: int = 0
    decay: str = "none"
    decay_span: tuple[float, float] = (0.0, 1.0)
    non_monotone: int = 5
    average: float = 0.0
    blend_steps: int = 0
    bf16: bool = False
    bilevel: str = "joint"
    alpha_after: int = 0
    perturb: str = "none"
    perturb_size: tuple[float, float] = (0.03, 0.3)
    skip: float = 0.0
    weights: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    alpha: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        """Check everything."""
        _check_name("bilevel", self.bilevel, BILEVEL)
        _check_name("decay", self.decay, ("none", *DECAYS))
        _check_name("perturb", self.perturb, PERTURB)
        _check_numbers(
            self, ("epochs", "clip", "l2_sp", "warm_up", "non_monotone", "blend_steps", "alpha_after", "skip")
        )
        _check_numbers(self, ("average",), most=1)
        if self.patience is not None:
            _check_numbers(self, ("patience",))
        first, last = self.decay_span
        if not 0 <= first <= last <= 1:
            raise ConfigError(f"decay_span must be two numbers from 0 to 1, the first no larger, got {self.decay_span}")

    def first(self, epochs: int) -> Recipe:
        """Return the recipe of its first epochs alone, in which the rates are what they are in the whole."""
        begin, end = self.decay_span
        return replace(self, epochs=epochs, decay_span=(begin, begin + (end - begin) * min(1.0, epochs / self.epochs)))

    def refit(self, epochs: int) -> Recipe:
        """Return how to train on more data for as many epochs as validation found best, at least one."""
        return replace(self.first(max(1, epochs)), patience=None)

    def is_capped(self, epochs: int, best_epoch: int) -> bool:
        """Say whether a fit of so many epochs ended at the most epochs allowed, before patience ran out.

        Never where the rates decay over these epochs, or where there is no patience: there they are the plan.
        """
        if self.patience is None or self.decay != "none":
            return False
        return epochs - best_epoch < self.patience


def recipe_from(weights: Mapping[str, Any], *, alpha: Mapping[str, Any] | None = None, **others: Any) -> Recipe:
    """Return a recipe from sections of a config.

    Args:
        weights: options of the weights' optimiser (`config.schema.WeightOptimizer`); some of its keys are the recipe's.
        alpha: options of the architecture weights' optimiser.
        others: further fields of the recipe.
    """
    given, own = weights, {one.name for one in fields(OptimizerRecipe)}
    return Recipe(
        weights=OptimizerRecipe(**{key: value for key, value in given.items() if key in own}),
        alpha=OptimizerRecipe(**alpha or {}),
        **{key: value for key, value in given.items() if key not in own},
        **others,
    )


def split_parameters(model: Any) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the weights and the architecture weights (those called `alpha`)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    alphas = [p for name, p in named if name.rpartition(".")[2] == "alpha"]
    return [p for name, p in named if name.rpartition(".")[2] != "alpha"], alphas


def make_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the optimiser of the weights, and that of alpha if the model has one."""
    weights, alphas = split_parameters(model)
    made = [OPTIMIZERS[recipe.weights.optimizer](weights, recipe.weights)]
    if alphas:
        made.append(OPTIMIZERS[recipe.alpha.optimizer](alphas, recipe.alpha))
    return made


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[tuple[list[nn.Parameter], float]]) -> None:
    """Divide an optimiser's parameters into one group for each rate, in place; state and other settings stay."""
    settings = optimizer.param_groups[0]
    optimizer.param_groups = [{**settings, "params": parameters, "lr": rate} for parameters, rate in rates]


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their joint norm is at most `limit`; return the norm before."""
    return nn.utils.clip_grad_norm_(parameters, limit)


def device_of(model: Any) -> torch.device:
    """Return where a model's parameters lie."""
    device: torch.device = next(model.parameters()).device
    return device


def count_parameters(model: Any) -> int:
    """Return how many numbers a model learns."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
