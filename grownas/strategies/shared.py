"""The common part of strategies whose genotypes share weights.

    train the shared weights, one genotype per batch -> rank samples with these weights -> fine-tune the best

A method says how genotypes are drawn, and may learn between the units of the training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator

from grownas.backbones.shared import SharedChain, SharedCore, SharedDag
from grownas.genotype import NONE, AnyGenotype, Genotype
from grownas.protocols import Problem, SearchResult, Task, Window
from grownas.strategies.cores import with_core
from grownas.strategies.shared_options import SharedSection
from grownas.strategies.supernet import SupernetSearch, SupernetStrategy
from grownas.training.bilevel import window_loss
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, device_of, recipe_from

Sample = Callable[[Generator | None], AnyGenotype]  # draws a genotype; from PyTorch's global generator if None


class SharedStrategy(SupernetStrategy):
    """A strategy whose genotypes share weights. Subclasses define `search`."""

    section: ClassVar[type] = SharedSection
    backbones = ("chain", "dag")

    def recipe(self) -> Recipe:
        """Return the recipe of the shared weights: all epochs, since no single genotype says when to stop."""
        options = self.options
        return recipe_from(options.weights.model_dump(), epochs=options.max_epochs, patience=None)


class SharedSearch:
    """One search: the shared weights, their training and the ranking of genotypes.

    Attributes:
        search: counts what is spent, trains and fine-tunes.
        model: the task's model around the untrained `SharedCore`.
        sample: draws genotypes.
    """

    def __init__(self, name: str, problem: Problem, options: SharedSection, sample: Sample) -> None:
        """Draw the shared weights.

        Raises:
            DataError: the validation part is too short for `rank_windows`.
        """
        if options.rank_windows:
            problem.task.windows("val", seed=0)  # checked before the training, not after it
        self.problem, self.options, self.sample = problem, options, sample
        self.search = SupernetSearch(name, problem, options)
        self.model = shared_model(problem, lambda: sample(None), name)

    def train(
        self, recipe: Recipe, *, task: Any = None, learn: Callable[[Fit], AnyGenotype] | None = None
    ) -> Iterator[SearchResult]:
        """Train the shared weights unit by unit; yield after each.

        Args:
            recipe: how to train.
            task: the problem's if None.
            learn: called after each unit; returns the genotype that the epochs of the next unit evaluate. A new sample
                if None.
        """
        core, draws = self.model.core, generator_for(self.problem.seed, f"{self.search.name} evaluated")
        core.chosen = self.sample(draws)

        def choose_next(fit: Fit) -> None:
            core.chosen = self.sample(draws) if learn is None else learn(fit)

        yield from self.search.train(self.model, recipe, task=task, stop=choose_next)

    def finish(self, recipe: Recipe) -> Iterator[SearchResult]:
        """Rank samples in rounds, fine-tune the best and accept it or keep the start; yield after each round.

        Once the budget is spent there is no further round; there is always one.
        """
        search, problem = self.search, self.problem
        assert search.fit is not None, "finish comes after train"
        model: Any = search.fit.model
        best: dict[str, Any] | None = None
        for number in range(1, self.options.rounds + 1):
            found = problem.journal.remember(f"{search.name}-round-{number}", partial(self.rank, number))
            best = found if best is None or found["loss"] < best["loss"] else best
            model.core.chosen = Genotype.from_dict(best["genotype"])
            cell = derived(model)
            yield search.result(cell, problem.task.evaluate(cell, "val"), search.fit)
            if search.limit():
                break
        yield search.close(derived(model), recipe)  # anew: the caller may have changed the cell

    def rank(self, number: int) -> dict[str, Any]:
        """Return the best genotype of a round and its mean validation loss with the shared weights.

        With `rank_windows`, the samples are ranked on a few windows, the same for all, and only the best are scored.
        """
        fit, options, task, seed = self.search.fit, self.options, self.problem.task, self.problem.seed
        assert fit is not None
        model: Any = fit.model
        draws = generator_for(seed, f"{self.search.name} round {number}")
        finalists = list(dict.fromkeys(self.sample(draws) for _ in range(options.samples)))
        if options.rank_windows:
            windows = first_windows(task, "val", options.rank_windows, seed=seed + number)
            losses = {one: mean_loss(model, task, windows, one) for one in finalists}
            finalists = sorted(finalists, key=lambda one: losses[one])[: options.rescored]
        scores = {one: whole_loss(model, task, one) for one in finalists}
        best = min(finalists, key=lambda one: scores[one])
        return {"genotype": best.to_dict(), "loss": scores[best]}


def derived(model: Any) -> Any:
    """Return a copy of a model with the derived cell of the chosen genotype in place of the `SharedCore`."""
    return with_core(model, model.core.derive())


def shared_model(problem: Problem, draw: Callable[[], AnyGenotype], purpose: str) -> Any:
    """Return the task's model around a `SharedCore` with all ops of the space; `purpose` seeds its weights."""
    space, generator = problem.space, generator_for(problem.seed, purpose)
    model: Any = problem.build([space.ops], purpose)  # around a supernet, which is replaced
    sizes, backend = (model.core.input_size, model.core.hidden_size), model.core.backend
    core: SharedCore
    if space.backbone == "dag":
        activations = [op for _, op in space.ops if op != NONE]
        core = SharedDag(*sizes, space.max_nodes, activations, draw, generator=generator, backend=backend)
    else:
        switches = {"highway": space.highway, "share_projection": space.share_projection}
        ops = [space.ops] * space.max_nodes
        core = SharedChain(*sizes, ops, draw, **switches, generator=generator, backend=backend)
    core.to(next(model.core.parameters()))
    return with_core(model, core)


def generator_for(seed: int, purpose: str) -> Generator:
    """Return a random generator that depends on the seed and the purpose."""
    return torch.Generator().manual_seed(random.Random(f"{seed} {purpose}").getrandbits(63))


def first_windows(task: Task, part: str, count: int, *, seed: int) -> list[Window]:
    """Return the first windows of a part that are learned from."""
    found = list[Window]()
    for window in task.windows(part, seed=seed):
        if not window.burn_in:
            found.append(window)
        if len(found) == count:
            break
    return found


@contextmanager
def choosing(core: SharedCore, genotype: AnyGenotype) -> Iterator[None]:
    """Compute a genotype in evaluation within the context."""
    before, core.chosen = core.chosen, genotype
    try:
        yield
    finally:
        core.chosen = before


@torch.no_grad()
def mean_loss(model: Any, task: Task, windows: list[Window], genotype: AnyGenotype) -> float:
    """Return a genotype's mean loss on windows with the shared weights, without dropout, from a zero state each.

    A loss that is not a number counts as infinite.
    """
    with choosing(model.eval().core, genotype):
        losses = [float(window_loss(model, task, window.to(device_of(model)), None)[0]) for window in windows]
    return _or_infinite(sum(losses) / len(losses))


def whole_loss(model: Any, task: Task, genotype: AnyGenotype) -> float:
    """Return a genotype's mean loss on the validation part with the shared weights; infinite if it is not a number."""
    with choosing(model.core, genotype):
        return _or_infinite(float(task.evaluate(model, "val").losses.mean()))


def _or_infinite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
