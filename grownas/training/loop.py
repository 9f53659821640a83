"""The training loop: one fit of a supernet, a derived cell, an LSTM or a GRU, from the first step to early stopping.

The loop depends on a task and a model, never on a genotype. All its state is in `Trainer`, which can be saved after any
step and restored. A resumed fit equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from grownas.criteria.early_stop import Patience
from grownas.errors import TrainingError
from grownas.protocols import AnyModel, Evaluation, Model, Module, Supernet, Task, Window
from grownas.readout import Backpropagated
from grownas.training.bilevel import (
    architecture_gradient_first,
    architecture_gradient_second,
    random_state,
    set_random_state,
    window_loss,
)
from grownas.training.perturb import perturbed_shares, with_shares
from grownas.training.recipe import (
    DECAYS,
    AveragedSGD,
    Recipe,
    Updater,
    clip_gradients,
    device_of,
    make_optimizers,
    split_parameters,
)
from grownas.training.stream import Stream, to_device

Tree = dict[str, Any]
Shares = list[list[float]]  # shares of each node's ops
GRADIENTS = {"first": 1, "second": 4}  # forward and backward passes of alpha's separate step


@dataclass(frozen=True)
class Fit:
    """A finished fit: the model and its optimisers at the epoch with the lowest validation loss.

    Attributes:
        model: the trained model, in evaluation mode.
        optimizers: the optimiser of the weights, and that of alpha if the model has alpha.
        evaluation: the model's evaluation on the validation part.
        epochs: number of epochs trained.
        best_epoch: the epoch at which the model had its lowest validation loss.
        steps: number of weight steps.
        gradients: number of forward and backward passes on a window in all steps, alpha's separate steps included.
        seconds: training time in seconds, without interruptions.
        reason: why training stopped.
        speed: targets (time steps x streams) trained on per second, without evaluations; None if nothing was trained.
        shares: softmax(alpha) by epoch, from 0 (untrained) on, and node; empty if the model has no alpha.
        cpu_seconds: processor time of the process over the same period, in seconds.
        end: the trainer's state after the last epoch, to continue with more epochs; None unless `extendable`.
    """

    model: Model
    optimizers: list[torch.optim.Optimizer]
    evaluation: Evaluation
    epochs: int
    best_epoch: int
    steps: int
    seconds: float
    reason: str
    shares: list[Shares]
    speed: float | None = None
    cpu_seconds: float = 0.0
    end: Tree | None = None
    gradients: int = 0

    @property
    def loss(self) -> float:
        """Mean validation loss."""
        return float(self.evaluation.losses.mean())

    def is_over(self, recipe: Recipe) -> bool:
        """Return whether the fit is finished under a recipe: no epochs or no patience left."""
        out_of_patience = recipe.patience is not None and self.epochs - self.best_epoch >= recipe.patience
        return out_of_patience or self.epochs >= recipe.epochs


class Monitor(Protocol):
    """Callbacks of a fit: to log, to show progress, to save, and to raise on an interrupt."""

    def record(self, line: Mapping[str, Any]) -> None:
        """Log one value: `epoch, step, split, metric, value, wall_s`, and `blend` while it is below 1."""
        ...

    def after_step(self, snapshot: Callable[[], Tree]) -> None:
        """Called after each step; `snapshot` returns the whole state."""
        ...

    def failed(self, snapshot: Callable[[], Tree]) -> None:
        """Called before the error of a failed step is raised; `snapshot` returns the state before that step."""
        ...


class Silent:
    """A monitor that does nothing."""

    def record(self, line: Mapping[str, Any]) -> None:
        """Do nothing."""

    def after_step(self, snapshot: Callable[[], Tree]) -> None:
        """Do nothing."""

    def failed(self, snapshot: Callable[[], Tree]) -> None:
        """Do nothing."""


def fit(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    monitor: Monitor | None = None,
    optimizers: list[torch.optim.Optimizer] | None = None,
    resume: Tree | None = None,
    extendable: bool = False,
) -> Fit:
    """Train a copy of a model until its validation loss stops falling; return it at its best epoch.

    Epoch 0 is the untrained model, so that training never returns a higher validation loss than the start's.

    Args:
        model: a task's model; left untouched.
        task: data, loss and score.
        recipe: how to train.
        seed: seed of the data order and of the model's random numbers, such as dropout masks.
        monitor: callbacks; none by default.
        optimizers: optimisers of `model` to continue with, such as migrated ones; new ones if None.
        resume: a snapshot to continue from: one of the same fit, or the `Fit.end` of a fit with fewer epochs.
        extendable: keep the state after the last epoch in `Fit.end`.

    Raises:
        TrainingError: a loss or a gradient is not finite; the message names step and epoch.
    """
    trainer = Trainer(model, task, recipe, seed=seed, monitor=monitor or Silent(), optimizers=optimizers)
    trainer.extendable = extendable
    if resume is not None:
        trainer.restore(resume)
    return trainer.run()


class Trainer:
    """All state of one fit. See `fit`."""

    def __init__(
        self,
        model: Model,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        monitor: Monitor,
        optimizers: list[torch.optim.Optimizer] | None = None,
    ) -> None:
        """Copy the model and its optimisers; nothing is evaluated yet."""
        self.task, self.recipe, self.seed, self.monitor = task, recipe, seed, monitor
        self.device = device_of(model)
        # copied together, so that the copied optimisers hold the copied parameters
        self.model, self.optimizers = copy.deepcopy((model, optimizers or make_optimizers(model, recipe)))
        self.updaters = [Updater(optimizer) for optimizer in self.optimizers]
        self.weights, self.alphas = split_parameters(self.model)
        self.supernet = cast("Supernet", self.model.core)  # where the recipe has `skip` or `perturb`
        self.core: Any = self.model.core  # has `done` where the recipe has `tells_done`
        self.trained = [p for group in self._groups() for p in group["params"]]
        anchored = self._groups() if recipe.l2_sp else []  # parameters that `l2_sp` moves back
        self.anchor = [[p.detach().clone() for p in group["params"]] for group in anchored]
        self.rates, self.factor = [group["lr"] for group in self._groups()], 1.0  # before the schedule, and by it
        self.averaging = [o for o in self.optimizers if isinstance(o, AveragedSGD)]
        for optimizer in self.averaging:
            optimizer.set_averaging(False)  # the optimiser of an earlier stage may have averaged
        self.loss_and_slope: Any = getattr(task, "loss_and_slope", None)
        self.direct: Any = self._direct()
        self.history: list[float] = []  # validation losses after each epoch
        self.means: list[Tensor] | None = None  # moving averages of all parameters, see `Recipe.average`
        self.blending: list[Any] = _blended_nodes(self.model)
        self.span = [_ratio(part) for part in recipe.decay_span]
        self.searching = bool(self.alphas) and recipe.bilevel != "joint"
        self.architecture = Stream(task, "architecture", seed, self.device) if self.searching else None
        self.data = Stream(task, "weights" if self.searching else "train", seed, self.device)
        self.hidden: Any = None
        self.step, self.gradients, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0
        self.done = 0.0  # finished fraction of the schedule before the current step
        self.resumed: Tree | None = None  # the random states of a snapshot
        self.positions, self.busy = 0, 0.0  # targets trained on, and seconds spent, since the start or the resume
        self.patience = Patience(recipe.patience)
        self.best: Tree = {}
        self.alpha_before: Tree | None = None  # alpha and its optimiser before the current step
        self.loss_sum, self.loss_count = 0.0, 0
        self.shares: list[Shares] = []
        self.extendable = False  # keep the state after the last epoch

    def run(self) -> Fit:
        """Train to the end."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # dropout uses the global generators: restore them afterwards
            return self._run()

    def _run(self) -> Fit:
        self.clock = time.perf_counter() - self.seconds
        self.cpu_clock = time.process_time() - self.cpu_seconds
        if self.resumed is not None:
            set_random_state(self.resumed, self.device)
        else:
            torch.manual_seed(self.seed)
            self._judge_epoch()
        while self.data.epoch < self.recipe.epochs and not self.patience.is_over:
            if self._advance():
                self.monitor.after_step(self.snapshot)
        return self._result()

    def _advance(self) -> bool:
        """Do the next step, or judge the epoch if it is over; return whether it was a step.

        Raises:
            TrainingError: a value is not finite; all state is as it was before.
        """
        streams = [self.data] if self.architecture is None else [self.data, self.architecture]
        positions, random = [stream.position() for stream in streams], random_state(self.device)
        gradients = self.gradients
        window = self.data.next()
        self.alpha_before = None
        try:
            if window is None:
                self._judge_epoch()
            else:
                self._step_on(window)
        except TrainingError:  # the weights and their optimiser are unchanged: restore the rest of the state
            self._undo_alpha_step()
            self._set_rates(1.0)
            for stream, position in zip(streams, positions, strict=True):
                stream.go_to(position)
            set_random_state(random, self.device)
            self.gradients = gradients
            self.monitor.failed(self.snapshot)
            raise
        return window is not None

    def _step_on(self, window: Window) -> None:
        """Do one step at the rates and the blend of the schedule, and time it."""
        began = time.perf_counter()
        if self.blending:
            self._raise_blend()
        self.done = self._done()
        self._set_rates(self._schedule(window))
        self._train_on(window)
        self._set_rates(1.0)  # snapshots, which are made between steps, hold the unscheduled rates
        self.positions += window.target.shape[0] * window.target.shape[1]
        self.busy += time.perf_counter() - began

    def _train_on(self, window: Window) -> None:
        """Do one step: first of alpha if it has its own data, then of the weights."""
        if window.fresh:
            self.hidden = None
        if not self.model.training:
            self.model.train()
        if self.recipe.skip:
            self.supernet.set_skip(self.recipe.skip * (1 - self.done))
        if self.recipe.tells_done:
            self.core.done = self.done
        if window.burn_in:
            self.hidden = self._burn_in(window)
            return
        if self.architecture is not None and self.data.epoch >= self.recipe.alpha_after:
            self.alpha_before = {
                "alphas": [alpha.detach().clone() for alpha in self.alphas],
                "optimizer": _detached(self.optimizers[1].state_dict()),
            }
            self._alpha_step(window)
        loss, hidden, together = self._backpropagate(window)
        self.gradients += 1
        value, norm = loss.item(), clip_gradients(self.weights, self.recipe.clip, together)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise self._error(f"the loss is {value:g}, its gradient's norm {norm:g}")
        self.hidden = hidden
        for updater in self.updaters[: 1 if self.searching else None]:
            updater()
        self._l2_sp()
        for optimizer in self.averaging:
            optimizer.average()
        self.step += 1
        if self.recipe.average:
            self._average()
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1

    @torch.no_grad()
    def _burn_in(self, window: Window) -> Any:
        """Return the state after a window."""
        last = self.direct.last_state(window.x, self.hidden) if self._is_direct else None
        return self.model.states(window.x, self.hidden)[1] if last is None else last

    def _backpropagate(self, window: Window) -> Backpropagated:
        """Set the gradients of the loss on a window; return the loss and the state after it."""
        if self._is_direct:
            found: Backpropagated | None = self.direct(window.x, self.hidden, partial(self.loss_and_slope, window))
            if found is not None:
                return found
        for p in self.trained:
            p.grad = None
        autocast = torch.autocast(self.device.type, torch.bfloat16) if self.recipe.bf16 else nullcontext()
        with self._perturbed(window), autocast:
            loss, hidden = window_loss(self.model, self.task, window, self.hidden)
        loss.backward()  # type: ignore[no-untyped-call]
        return Backpropagated(loss, hidden)

    def _alpha_step(self, window: Window) -> None:
        """Do a step of alpha on the architecture part."""
        assert self.architecture is not None
        held_out = self.architecture.next_learned(self.model)
        before = self.architecture.hidden
        if self.recipe.bilevel == "first":
            gradients, after = architecture_gradient_first(self.model, self.task, held_out, before)
        else:
            groups = self.optimizers[0].param_groups  # their rates are those of this step
            rates = {p: group["lr"] for group in groups for p in group["params"]}
            gradients, after = architecture_gradient_second(
                self.model,
                self.task,
                window,
                self.hidden,
                held_out,
                before,
                rate=[rates[p] for p in self.weights],
                clip=self.recipe.clip,
            )
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            raise self._error("the architecture weights' gradient is not finite")
        self.architecture.hidden = after
        self.gradients += GRADIENTS[self.recipe.bilevel]
        for parameter, gradient in zip(self.alphas, gradients, strict=True):
            parameter.grad = gradient
        self.updaters[1]()

    def _undo_alpha_step(self) -> None:
        """Undo this step's update of alpha, if any: the loss of the weights may fail after it."""
        if self.alpha_before is None:
            return
        with torch.no_grad():
            for alpha, kept in zip(self.alphas, self.alpha_before["alphas"], strict=True):
                alpha.copy_(kept)
        self.optimizers[1].load_state_dict(self.alpha_before["optimizer"])

    def _direct(self) -> Any:
        """Return the model's function that sets gradients without autograd; None if the fit needs autograd."""
        recipe = self.recipe
        plain = recipe.perturb == "none" and not recipe.skip and not recipe.bf16 and self.loss_and_slope is not None
        whole = len(self.trained) == sum(1 for _ in self.model.parameters())
        make = getattr(self.model, "backpropagation", None) if plain and whole else None
        return None if make is None else make()

    @property
    def _is_direct(self) -> bool:
        """Whether `direct` can be used now."""
        return self.direct is not None and not self.blending

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of all optimisers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _perturbed(self, window: Window) -> AbstractContextManager[None]:
        """Return a context in which the core uses the perturbed shares of the weights' step."""
        if self.recipe.perturb == "none":
            return nullcontext()
        first, last = self.recipe.perturb_size
        shares, gradients = perturbed_shares(
            self.model,
            self.task,
            window,
            self.hidden,
            kind=self.recipe.perturb,
            size=first + (last - first) * self.done,
        )
        self.gradients += gradients
        return with_shares(self.model.core, shares)

    def _schedule(self, window: Window) -> float:
        """Return the factor on all rates for the next step."""
        rise = min(1.0, (self.step + 1) / self.recipe.warm_up) if self.recipe.warm_up else 1.0
        decay = DECAYS[self.recipe.decay](self.done) if self.recipe.decay != "none" else 1.0
        return window.rate * rise * decay

    def _done(self) -> float:
        """Return the finished fraction of the schedule, from 0 to 1; 0 if the recipe has no schedule."""
        recipe = self.recipe
        if recipe.decay == "none" and recipe.perturb == "none" and not (recipe.skip or recipe.tells_done):
            return 0.0  # nothing needs to know how many windows the epoch has
        first, last = self.span
        return float(first + (last - first) * Fraction(self.data.done) / recipe.epochs)

    def _set_rates(self, factor: float) -> None:
        if factor == self.factor:
            return
        self.factor = factor
        for group, rate in zip(self._groups(), self.rates, strict=True):
            group["lr"] = rate * factor

    def _raise_blend(self) -> None:
        """Set the blend of partly blended nodes for the next step."""
        last = self.data.epoch + 1 >= self.recipe.epochs
        steps = self.recipe.blend_steps
        self._set_blend(1.0 if last or not steps else min(1.0, (self.step + 1) / steps))

    def _set_blend(self, blend: float) -> None:
        for node in self.blending:
            node.set_blend(blend)
        if blend == 1:
            self.blending = []

    def _least_blend(self) -> float:
        return min((float(node.blend) for node in self.blending), default=1.0)

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving average of the parameters; the decay is smaller in the first steps."""
        if self.means is None:
            self.means = [p.detach().clone() for p in self.trained]
            return
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.means, self.trained, 1 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Replace the averaged weights by their averages inside the context."""
        kept = []
        with torch.no_grad():
            if self.means is not None:
                for p, mean in zip(self.trained, self.means, strict=True):
                    kept.append((p, p.clone()))
                    p.copy_(mean)
            for optimizer in self.averaging:
                for p, mean in optimizer.means():
                    kept.append((p, p.clone()))
                    p.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)

    def _decide_on_averaging(self, value: float) -> None:
        """Start averaging when the validation loss no longer falls, see `Recipe.non_monotone`."""
        early = self.history[: -self.recipe.non_monotone]
        if early and value > min(early):
            for optimizer in self.averaging:
                optimizer.set_averaging(True)
        self.history.append(value)

    def _l2_sp(self) -> None:
        """Move each parameter towards its value at the start of the stage, by rate * `l2_sp`."""
        if self.recipe.l2_sp == 0:
            return
        with torch.no_grad():
            for group, anchor in zip(self._groups(), self.anchor, strict=True):
                torch._foreach_lerp_(group["params"], anchor, min(1.0, group["lr"] * self.recipe.l2_sp))

    def _error(self, what: str) -> TrainingError:
        where = f"step {self.step}, epoch {self.data.epoch}"
        seconds, cpu_seconds = time.perf_counter() - self.clock, time.process_time() - self.cpu_clock
        spent = seconds, self.step, cpu_seconds, self.gradients
        return TrainingError(f"{where}: {what}. Lower the learning rate or `clip`", *spent)

    def _judge_epoch(self) -> None:
        """Evaluate on the validation part and keep the model if it is the best so far."""
        if self.recipe.last_only and self.data.epoch < self.recipe.epochs:
            return
        with self._averaged():
            value = self._evaluate()
        if self.data.epoch and not self.blending:
            self._decide_on_averaging(value)

    def _evaluate(self) -> float:
        if self.recipe.skip:
            self.supernet.set_skip(0.0)  # the skip helps training only: a derived cell has none
        with self.direct.in_use() if self._is_direct else nullcontext():
            evaluation = self.task.evaluate(self.model, "val")
        value = float(evaluation.losses.mean())
        if not math.isfinite(value):
            raise self._error(f"the validation loss is {value:g}")
        if self.alphas:
            self.shares.append([torch.softmax(alpha.detach().double(), 0).tolist() for alpha in self.alphas])
        if self.task.unit and self.busy:
            self._log("train", f"{self.task.unit}_per_s", round(self.positions / self.busy, 1))
        if not self.blending and self.patience.step(value):  # a partly blended model is never the best
            self.best = {
                "model": _detached(self.model.state_dict()),
                "optimizers": [_detached(o.state_dict()) for o in self.optimizers],
                "epoch": self.data.epoch,
            }
        self._log("val", "loss", value)
        self._log("val", self.task.metric, evaluation.metric)
        if self.loss_count:
            self._log("train", "loss", self.loss_sum / self.loss_count)
        self.loss_sum, self.loss_count = 0.0, 0
        return value

    def _log(self, split: str, metric: str, value: float) -> None:
        wall_s = round(time.perf_counter() - self.clock, 3)
        position = {"epoch": self.data.epoch, "step": self.step, "wall_s": wall_s}
        if self.blending:  # this epoch cannot be the best, whatever its loss
            position["blend"] = self._least_blend()
        self.monitor.record({**position, "split": split, "metric": metric, "value": value})

    def _result(self) -> Fit:
        seconds, cpu_seconds = time.perf_counter() - self.clock, time.process_time() - self.cpu_clock
        end = self.snapshot() if self.extendable else None
        self.model.load_state_dict(self.best["model"])
        for optimizer, state in zip(self.optimizers, self.best["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        evaluation = self.task.evaluate(self.model.eval(), "val")
        reason = (
            f"no lower validation loss for {self.recipe.patience} epochs"
            if self.patience.is_over
            else f"{self.recipe.epochs} epochs reached"
        )
        return Fit(
            model=self.model,
            optimizers=self.optimizers,
            evaluation=evaluation,
            epochs=self.data.epoch,
            best_epoch=self.best["epoch"],
            steps=self.step,
            seconds=seconds,
            reason=reason,
            shares=self.shares,
            speed=self.positions / self.busy if self.busy else None,
            cpu_seconds=cpu_seconds,
            end=end,
            gradients=self.gradients,
        )

    def snapshot(self) -> Tree:
        """Return the whole state: a tree of tensors and plain values."""
        return {
            "model": _detached(self.model.state_dict()),
            "optimizers": [_detached(o.state_dict()) for o in self.optimizers],
            "anchor": list(self.anchor),
            "hidden": self.hidden,
            "data": self.data.position(),
            "architecture": self.architecture.position() if self.architecture else None,
            "step": self.step,
            "gradients": self.gradients,
            "seconds": time.perf_counter() - self.clock,
            "cpu_seconds": time.process_time() - self.cpu_clock,
            "patience": self.patience.state(),
            "best": self.best,
            "loss": [self.loss_sum, self.loss_count],
            "shares": list(self.shares),
            "history": list(self.history),
            "means": _detached(self.means),
            "blend": self._least_blend(),
            "random": random_state(self.device),
        }

    def restore(self, tree: Tree) -> None:
        """Restore a snapshot."""
        self._set_blend(tree["blend"])
        self.model.load_state_dict(tree["model"])
        for optimizer, state in zip(self.optimizers, tree["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))  # torch keeps these tensors, and steps change them in place
        self.trained = [p for group in self._groups() for p in group["params"]]
        self.anchor = [[to_device(p, self.device) for p in group] for group in tree["anchor"]]
        self.hidden, self.best = to_device(tree["hidden"], self.device), tree["best"]
        self.step, self.gradients = tree["step"], tree["gradients"]
        self.seconds, self.cpu_seconds = tree["seconds"], tree["cpu_seconds"]
        self.loss_sum, self.loss_count = tree["loss"]
        self.shares, self.history = list(tree["shares"]), list(tree["history"])
        self.means = tree["means"] and [to_device(mean, self.device).clone() for mean in tree["means"]]
        self.patience.restore(tree["patience"])
        self.data.go_to(tree["data"])
        if self.architecture is not None:
            self.architecture.go_to(tree["architecture"])
        self.resumed = tree["random"]


def _ratio(part: float) -> Fraction:
    """Return a share as the ratio of whole numbers that it came from, if there is one, such as 3 of 7 epochs.

    So the first epochs of a fit, trained alone, have its very rates: rounded shares would differ in the last bit.
    """
    simple = Fraction(part).limit_denominator(1_000_000)
    return simple if float(simple) == part else Fraction(part)


def _blended_nodes(model: Module) -> list[Any]:
    """Return the nodes of a model whose blend is below 1: modules with a scalar `blend`."""
    return [part for part in model.modules() if isinstance(getattr(part, "blend", None), Tensor)]


def finish_blend(model: AnyModel) -> AnyModel:
    """Set the blend of all nodes of a model to 1, in place; return the model."""
    for node in _blended_nodes(model):
        node.set_blend(1.0)
    return model


def _detached(tree: Any) -> Any:
    """Return a deep copy of a state dict with detached tensors."""
    if isinstance(tree, Tensor):
        return (tree.detach() if tree.requires_grad else tree).clone()
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, dict):
        return {key: _detached(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map(_detached, tree))
    return copy.deepcopy(tree)
