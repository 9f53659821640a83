"""Random search: draw genotypes, train each from the same kind of start, keep the best (Li & Talwalkar 2019).

It is the control for all other strategies: the same space, start, training and acceptance criterion.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.errors import TrainingError
from grownas.protocols import Problem, SearchResult
from grownas.strategies.cores import derived, supernet_of, with_noise
from grownas.strategies.random_options import Options
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters, recipe_from

MOST_DIVERGED = 5  # genotypes whose training diverged before the search stops with the error
Nodes = Sequence[Sequence[tuple[str, str]]]  # each node's ops


@dataclass(frozen=True)
class Trained:
    """The best genotype so far.

    Attributes:
        nodes: each node's ops.
        key: key of its fit, and the text that seeds its weights.
        fit: the finished fit.
        recipe: recipe of the fit.
    """

    nodes: Nodes
    key: str
    fit: Fit
    recipe: Recipe


class RandomSearch:
    """The strategy `random` (see `grownas.protocols.Strategy`)."""

    section = Options

    def __init__(self, options: Options) -> None:
        """Store the options."""
        self.options = options

    def recipe(self) -> Recipe:
        """Return the recipe for each genotype."""
        options = self.options
        return recipe_from(
            options.weights.model_dump(),
            alpha=options.alpha.model_dump(),
            epochs=options.max_epochs,
            patience=options.patience,
        )

    def tuning_recipe(self) -> Recipe:
        """Return the recipe for each genotype."""
        return self.recipe()

    def with_rate(self, rate: float) -> RandomSearch:
        """Return a copy of the strategy with a single learning rate of the weights."""
        weights = self.options.weights.model_copy(update={"rate": rate})
        return RandomSearch(self.options.model_copy(update={"weights": weights, "rates": (rate,)}))

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train one genotype after the other; yield the best result so far after each.

        A genotype whose training diverges is skipped with a warning; its steps and seconds count.

        Raises:
            TrainingError: the training of five genotypes diverged.
        """
        accept, options, journal = Acceptance.of(self.options), self.options, problem.journal
        start = Untrained(problem.start, problem.task.evaluate(problem.start, "val"))
        began, rng = journal.elapsed, random.Random(problem.seed)
        rates = itertools.cycle(options.rates or (options.weights.rate,))
        best: Trained | None = None
        scores, diverged, steps = list[dict[str, Any]](), 0, 0

        def result(reason: str) -> SearchResult:
            return SearchResult(
                model=derived(best.fit.model if best else problem.start),
                evaluation=best.fit.evaluation if best else start.evaluation,
                is_start=best is None,
                params=count_parameters(best.fit.model if best else problem.start),
                steps=steps,
                seconds=journal.elapsed - began,
                settings=len(scores) + diverged,
                reason=reason,
                scores=tuple(scores),
                log=() if best is None else ({"nodes": best.nodes, "key": best.key, **_training(best)},),
                chosen={} if best is None else {"rate": best.recipe.weights.rate, **_sizes(best)},
                speed=best.fit.speed if best else None,
                capped=best is not None and best.recipe.is_capped(best.fit.epochs, best.fit.best_epoch),
            )

        for number in itertools.count():
            nodes = [[(op.combine, op.activation) for op in node.ops] for node in problem.space.sample(rng).nodes]
            recipe, key = self._recipe_with(next(rates), problem), f"random-{number}"
            begin = with_noise(problem.build(nodes, key), self.options.noise, seed=problem.seed)
            try:
                fit = journal.fit(key, begin, problem.task, recipe, seed=problem.seed)
            except TrainingError as error:
                diverged, steps = diverged + 1, steps + error.steps
                if diverged == MOST_DIVERGED:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
            else:
                steps += fit.steps
                scores.append(
                    {
                        "genotype": supernet_of(fit.model).genotype(top_k=None).to_dict(),
                        "val": fit.evaluation.metric,
                        "steps": fit.steps,
                        "seconds": journal.elapsed - began,
                    }
                )
                better = best is None or fit.loss < best.fit.loss
                if better and accept(start, fit, problem.task).accepted:
                    best = Trained(nodes, key, fit, recipe)
            limit = self._limit(problem, steps, journal.elapsed - began, number + 1)
            yield result(limit or "")
            if limit:
                return

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Train the best genotype again, up to the best epoch of its fit."""
        if result.is_start:
            return replace(result, model=derived(problem.start))
        (found,) = result.log
        recipe = self._recipe_with(found["rate"], problem).refit(found["best_epoch"])
        begin = with_noise(problem.build(found["nodes"], found["key"]), self.options.noise, seed=problem.seed)
        fit = problem.journal.fit("random-refit", begin, problem.task, recipe, seed=problem.seed)
        steps, seconds = result.steps + fit.steps, result.seconds + fit.seconds
        return replace(result, model=derived(fit.model), steps=steps, seconds=seconds)

    def _recipe_with(self, rate: float, problem: Problem) -> Recipe:
        recipe = self.recipe()
        return replace(recipe, weights=replace(recipe.weights, rate=rate), bf16=problem.bf16)

    def _limit(self, problem: Problem, steps: int, seconds: float, genotypes: int) -> str | None:
        budget = problem.budget
        if budget.steps is budget.seconds is budget.genotypes is None:
            most = self.options.genotypes
            return f"strategy.genotypes = {most} reached" if genotypes >= most else None
        return budget.spent(steps=steps, seconds=seconds, genotypes=genotypes)


def _training(best: Trained) -> dict[str, Any]:
    return {"rate": best.recipe.weights.rate, "best_epoch": best.fit.best_epoch, "loss_after": best.fit.loss}


def _sizes(best: Trained) -> dict[str, Any]:
    core = supernet_of(best.fit.model)
    return {"nodes": len(best.nodes), "ops": sum(map(len, best.nodes)), "hidden_size": core.hidden_size}
