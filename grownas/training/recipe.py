"""Recipes: how a model is trained, as plain values; and the optimisers of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grownas.errors import ConfigError
from grownas.protocols import Module


class AveragedSGD(torch.optim.SGD):
    """SGD that can average its weights from any step on.

    PyTorch's ASGD does each step with the rate of the previous step, and starts averaging after a number of steps of
    each parameter. Here a step has its scheduled rate, and all parameters start averaging together: in a grown model
    some parameters are older than others.

    State of a parameter: `ax`, its mean, and `averaged`, the number of steps in the mean.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        """Start without averaging."""
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.defaults["averaging"] = False
        for group in self.param_groups:
            group.setdefault("averaging", False)

    def set_averaging(self, on: bool) -> None:
        """Start averaging at the next call of `average`, or stop and delete the means."""
        for group in self.param_groups:
            group["averaging"] = on
        if not on:
            for state in self.state.values():
                state.pop("ax", None)
                state.pop("averaged", None)

    @torch.no_grad()
    def average(self) -> None:
        """Add the current weights to the means, in groups that average."""
        for group in self.param_groups:
            for p in group["params"] if group["averaging"] else ():
                state = self.state[p]
                count = state["averaged"] = state.get("averaged", 0) + 1
                if count == 1:
                    state["ax"] = p.detach().clone()
                else:
                    state["ax"].lerp_(p, 1 / count)

    def means(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter that has a mean, and the mean."""
        for group in self.param_groups:
            yield from ((p, self.state[p]["ax"]) for p in group["params"] if "ax" in self.state.get(p, {}))


class ExponentiatedGradient(torch.optim.Optimizer):
    """Exponentiated gradient descent on shares p = softmax(alpha): p *= exp(-lr dL/dp), renormalised.

    For alpha this is a step along dL/dp. Since dL/dalpha = p (dL/dp - p . dL/dp), dL/dp equals dL/dalpha / p up to a
    constant, which the softmax removes.

    Reference:
        Li, Khodak, Balcan & Talwalkar (2021), Geometry-Aware Gradient Algorithms for Neural Architecture Search.
    """

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        """Store the parameters; each is a vector alpha."""
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update each alpha and shift it so that its largest entry is 0; the shares still sum to 1."""
        for group in self.param_groups:
            for alpha in group["params"]:
                if alpha.grad is None:
                    continue
                shares = torch.softmax(alpha.double(), 0).clamp_min(torch.finfo(torch.float32).tiny)
                moved = alpha.double() - group["lr"] * alpha.grad.double() / shares
                alpha.copy_(moved - moved.max())


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], OptimizerRecipe], torch.optim.Optimizer]] = {
    "adam": lambda params, r: torch.optim.AdamW(
        params, lr=r.rate, betas=(r.momentum, 0.999), weight_decay=r.weight_decay, fused=True
    ),
    "sgd": lambda params, r: torch.optim.SGD(params, lr=r.rate, momentum=r.momentum, weight_decay=r.weight_decay),
    "nt_asgd": lambda params, r: AveragedSGD(params, lr=r.rate, weight_decay=r.weight_decay),
    "exponentiated": lambda params, r: ExponentiatedGradient(params, lr=r.rate),
}
DECAYS: dict[str, Callable[[float], float]] = {"linear": lambda done: 1.0 - done}  # fraction of decay done -> factor
CLIP_EPS = 1e-6  # of `nn.utils.clip_grad_norm_`
BILEVEL = ("joint", "first", "second")
PERTURB = ("none", "random", "adversarial", "identity")


def _check_name(what: str, name: object, allowed: Iterable[str]) -> None:
    if name not in (known := list(allowed)):
        raise ConfigError(f"unknown {what} {name!r}; choose one of {', '.join(known)}")


def _check_numbers(owner: object, names: Sequence[str], *, most: float = math.inf) -> None:
    """Raise ConfigError for a number that is negative, nan or above `most`."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value <= most:
            limit = "" if most == math.inf else f" to {most:g}"
            raise ConfigError(f"{name} must be a number from 0{limit or ' on'}, got {value!r}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """One optimiser. `weight_decay` is decoupled for adam, otherwise an L2 term; `momentum` is adam's beta1.

    nt_asgd and exponentiated have no momentum.

    Raises:
        ConfigError: the optimiser is unknown, or a number is negative or nan.
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
        patience: epochs without a lower validation loss before training stops; None trains all `epochs` and keeps the
            last epoch, for a refit on training and validation data.
        last_only: evaluate the last epoch only. This saves time if nothing depends on the losses of earlier epochs.
        clip: largest norm of the weights' gradient.
        l2_sp: strength of the decoupled penalty on the distance from the stage's first parameters p_0 (L2-SP):
            p += rate * l2_sp * (p_0 - p) after each weight step, with the rate of the parameter's group; 0: no penalty.
        warm_up: weight steps over which all rates rise linearly to their full value.
        decay: `none`, or `linear`: all rates fall to 0 over the `epochs`.
        decay_span: first and last fraction of the schedules (`decay`, `perturb_size`, `skip`) that the epochs cover;
            (0, 1) is the whole schedule.
        non_monotone: n: nt_asgd averages the weights from the first epoch on whose validation loss is above the lowest
            loss of all but the last n epochs before it (Merity et al. 2018, algorithm 1).
        average: decay of an exponential moving average of all parameters over steps; the average is evaluated and
            kept. 0: no average.
        blend_steps: weight steps over which the blend of a new node rises to 1, see `morphisms.blend_node`; in the
            last allowed epoch it is 1 in any case.
        bf16: train under autocast in bfloat16. The separate step of alpha is without autocast: its differences are
            small.
        bilevel: `joint` (alpha is trained on the weights' batches), `first` or `second` order.
        alpha_after: number of epochs at the start in which alpha is frozen, if it has a separate step.
        perturb: shares used in the weights' step: `none` for alpha's own shares, `random`, `adversarial` or
            `identity`, see `training.perturb`.
        perturb_size: size of the perturbation at the start and at the end of the schedule, linear in between.
        skip: at the start of the schedule, the factor on the input of each node (in a DAG: edge) that is added to its
            output; it falls linearly to 0 (DARTS-).
        tells_done: set the core's attribute `done` to the finished fraction of the schedule before each step.
        weights: optimiser of the weights.
        alpha: optimiser of the architecture weights; ignored if the model has none.

    Raises:
        ConfigError: a name is unknown or a number cannot be used.
    """

    epochs: int = 200
    patience: int | None = 12
    last_only: bool = False
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
    tells_done: bool = False
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
        if self.last_only and (self.patience is not None or self.weights.optimizer == "nt_asgd"):
            raise ConfigError(
                "last_only=True evaluates no epoch but the last, which patience and nt_asgd need; leave them out"
            )
        if not all(0 <= size < math.inf for size in self.perturb_size):
            raise ConfigError(f"perturb_size must be two numbers from 0 on, got {self.perturb_size}")
        first, last = self.decay_span
        if not 0 <= first <= last <= 1:
            raise ConfigError(f"decay_span must be two numbers from 0 to 1, the first no larger, got {self.decay_span}")

    def first(self, epochs: int) -> Recipe:
        """Return the recipe of the first epochs only; the rates are the same as in the full recipe."""
        begin, end = self.decay_span
        return replace(self, epochs=epochs, decay_span=(begin, begin + (end - begin) * min(1.0, epochs / self.epochs)))

    def refit(self, epochs: int) -> Recipe:
        """Return the recipe for a refit on more data: a fixed number of epochs, at least one, without patience."""
        return replace(self.first(max(1, epochs)), patience=None)

    def is_capped(self, epochs: int, best_epoch: int) -> bool:
        """Return whether a fit of `epochs` epochs ended at the maximum number of epochs, before patience ran out.

        False if the rates decay over the epochs, or without patience: then the number of epochs is intended.
        """
        if self.patience is None or self.decay != "none":
            return False
        return epochs - best_epoch < self.patience


def recipe_from(weights: Mapping[str, Any], *, alpha: Mapping[str, Any] | None = None, **others: Any) -> Recipe:
    """Return a recipe from sections of a config.

    Args:
        weights: options of the weights' optimiser (`config.schema.WeightOptimizer`); some keys are fields of `Recipe`.
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


def split_parameters(model: Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the weights and the architecture weights (parameters called `alpha`)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    alphas = [p for name, p in named if name.rpartition(".")[2] == "alpha"]
    return [p for name, p in named if name.rpartition(".")[2] != "alpha"], alphas


def make_optimizers(model: Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the optimiser of the weights, and that of alpha if the model has alpha."""
    weights, alphas = split_parameters(model)
    made = [OPTIMIZERS[recipe.weights.optimizer](weights, recipe.weights)]
    if alphas:
        made.append(OPTIMIZERS[recipe.alpha.optimizer](alphas, recipe.alpha))
    return made


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[tuple[list[nn.Parameter], float]]) -> None:
    """Replace an optimiser's groups by one group per rate, in place; state and other settings stay the same."""
    settings = optimizer.param_groups[0]
    optimizer.param_groups = [{**settings, "params": parameters, "lr": rate} for parameters, rate in rates]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, together: Sequence[Tensor] = ()) -> float:
    """Scale the gradients so that their total norm is at most `limit`; return the norm before scaling.

    Equals `nn.utils.clip_grad_norm_` bit for bit. That function also sorts gradients by device and dtype; here all are
    of one device and dtype, and on small models the sorting takes longer than the rest.

    Args:
        parameters: parameters; those without a gradient are ignored.
        limit: largest norm.
        together: a few tensors that hold all gradients, and perhaps more. If their norm is below the limit, nothing is
            scaled, and their norm is returned.
    """
    enough = 0.999 * limit - CLIP_EPS  # below it the factor is above 1, however it is rounded
    if together and (bound := math.hypot(*(float(torch.linalg.vector_norm(one)) for one in together))) < enough:
        return bound
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    norm = float(total)
    if norm < enough:
        return norm
    factor = limit / (total + CLIP_EPS)
    if factor < 1:
        torch._foreach_mul_(gradients, factor)
    return norm


class Updater:
    """Does an optimiser's steps, with the bits of `optimizer.step()`.

    AdamW's kernel is called directly: on small models the optimiser's own preparations take several times longer than
    the kernel. Hooks of the optimiser are then not called. A group's step counts become views of one tensor, since
    PyTorch takes a microsecond for each number that it raises.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser; its state and its groups may be replaced later."""
        self.optimizer = optimizer
        self._groups: list[_Group] = []
        self._of: tuple[Any, Any] = (None, None)  # the optimiser's state and groups that `_groups` was made of

    @torch.no_grad()
    def __call__(self) -> None:
        """Do a step."""
        optimizer = self.optimizer
        if optimizer.state is not self._of[0] or optimizer.param_groups is not self._of[1]:
            self._prepare()
        gradients: list[list[Any]] = [[p.grad for p in one.parameters] for one in self._groups]
        if not gradients or [one for group in gradients for one in group if one is None]:
            optimizer.step()
            return
        for one, found in zip(self._groups, gradients, strict=True):
            one.counts.add_(1)
            torch._fused_adamw_(
                one.parameters,
                found,
                one.exp_avgs,
                one.exp_avg_sqs,
                [],
                one.steps,
                lr=one.settings["lr"],
                beta1=one.settings["betas"][0],
                beta2=one.settings["betas"][1],
                weight_decay=one.settings["weight_decay"],
                eps=one.settings["eps"],
                amsgrad=False,
                maximize=one.settings["maximize"],
            )

    def _prepare(self) -> None:
        """Collect the tensors of AdamW's kernel, unless a parameter has neither state nor a gradient."""
        self._groups, self._of = [], (None, None)
        state, groups = self.optimizer.state, self.optimizer.param_groups
        if type(self.optimizer) is torch.optim.AdamW and all(
            group["fused"] and not group["amsgrad"] and all(p in state or p.grad is not None for p in group["params"])
            for group in groups
        ):
            self._groups = [_Group.of(group, state) for group in groups if group["params"]]
            self._of = state, groups


def _first(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return a parameter's state before AdamW's first step."""
    zeros = torch.zeros_like(parameter)
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


class _Group(NamedTuple):
    """A parameter group of AdamW: its settings, and the tensors of the kernel."""

    settings: Mapping[str, Any]
    parameters: list[Any]  # nn.Parameter
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]  # views of `counts`
    counts: Tensor

    @classmethod
    def of(cls, group: Mapping[str, Any], state: dict[Tensor, dict[str, Any]]) -> _Group:
        for p in group["params"]:
            if p not in state:
                state[p] = _first(p)
        states = [state[p] for p in group["params"]]
        counts = torch.stack([one["step"] for one in states])
        for one, step in zip(states, counts.unbind(), strict=True):
            one["step"] = step
        exp_avgs, exp_avg_sqs, steps = ([one[key] for one in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        return cls(group, group["params"], exp_avgs, exp_avg_sqs, steps, counts)


def device_of(model: Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def count_parameters(model: Module) -> int:
    """Return the number of trained parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
