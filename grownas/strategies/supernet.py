"""The common part of strategies that train one supernet by gradients and derive a cell from it.

    build a supernet of `max_nodes` nodes -> train weights and alpha in turn -> derive a cell -> fine-tune it

A method changes fields of the recipe (the order of DARTS, the update of GAEA, the perturbation of SDARTS, the skip of
DARTS-), the end of the training (R-DARTS), or the training itself (P-DARTS, CDARTS).
"""

from __future__ import annotations

import copy
import itertools
import warnings
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch

from grownas.backbones.dag import DagBackbone
from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.criteria.readout import (
    Kept,
    all_ops,
    count_surplus,
    least_missed,
    shares_with_only,
    surplus,
    with_only,
    without,
)
from grownas.errors import TrainingError
from grownas.protocols import Budget, Evaluation, Found, Problem, SearchResult
from grownas.strategies import following
from grownas.strategies.cores import derived, genotype_of, supernet_of, with_core
from grownas.strategies.supernet_options import SupernetSection
from grownas.training.loop import Fit
from grownas.training.moments import moments_of
from grownas.training.perturb import with_shares
from grownas.training.recipe import Recipe, count_parameters, recipe_from


@dataclass
class Spent:
    """The resources that a search has used so far, and its scores.

    Attributes:
        began: seconds of the journal at the start of the search.
        cpu_began: processor seconds of the journal at the start of the search.
        steps: number of weight steps.
        epochs: number of epochs of supernets.
        fits: number of fits.
        scores: see `SearchResult.scores`.
    """

    began: float
    cpu_began: float
    steps: int = 0
    epochs: int = 0
    fits: int = 0
    scores: list[dict[str, Any]] = field(default_factory=list)


class SupernetStrategy:
    """A strategy that trains one supernet (see `grownas.protocols.Strategy`). Subclasses define `method`.

    Attributes:
        name: name of the strategy, equal to that of its entry point.
    """

    name: ClassVar[str]
    section: ClassVar[type] = SupernetSection
    backbones: ClassVar[tuple[str, ...]] = ("chain", "dag", "blocks")

    def __init__(self, options: Any) -> None:
        """Store the options."""
        self.options = options

    @abstractmethod
    def method(self) -> Mapping[str, Any]:
        """Return the recipe's fields that define the method."""

    def recipe(self) -> Recipe:
        """Return the recipe of the supernet's training."""
        options = self.options
        fields = {"bilevel": "first", "alpha": options.alpha.model_dump(), **self.method()}
        epochs = options.max_epochs
        return recipe_from(options.weights.model_dump(), epochs=epochs, patience=options.patience, **fields)

    def tuning_recipe(self) -> Recipe:
        """Return the recipe for the start when settings are chosen before the search: that of the supernet."""
        return self.recipe()

    def with_rate(self, rate: float) -> Self:
        """Return a copy of the strategy with another learning rate of the weights."""
        weights = self.options.weights.model_copy(update={"rate": rate})
        return type(self)(self.options.model_copy(update={"weights": weights}))

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train the supernet unit by unit, derive the cell, fine-tune it; yield the result so far after each unit."""
        search = SupernetSearch(self.name, problem, self.options)
        yield from search.train(search.supernet(), self.recipe())
        yield from search.finish(self.recipe())

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Continue the training of the cell from its weights, up to the best epoch of its fine-tuning."""
        if result.is_start:
            return replace(result, model=derived(problem.start))
        recipe = closing(self.recipe(), max(1, self.options.fine_tune_epochs)).refit(result.log[-1]["best_epoch"])
        recipe = replace(recipe, bf16=problem.bf16)
        fit = problem.journal.fit(f"{self.name}-refit", result.model, problem.task, recipe, seed=problem.seed)
        return replace(result, model=fit.model, seconds=result.seconds + fit.seconds, steps=result.steps + fit.steps)


class SupernetSearch:
    """One search: its state and its units of work.

    The budget holds for the training of supernets, and with `readout=ablation` for the removals and the tuning between
    them: training ends while enough is left for them, but not before it has taken half of the budget. The fine-tuning
    of the derived cell comes after the budget, in every strategy alike; its steps and seconds count in the result.

    Attributes:
        fit: the supernet's fit so far.
        recipe: of that fit.
        reason: why training stopped; empty while it runs.
    """

    def __init__(self, name: str, problem: Problem, options: Any) -> None:
        """Store the problem; nothing is trained yet."""
        self.name, self.problem, self.options = name, problem, options
        self.spent = Spent(problem.journal.elapsed, problem.journal.cpu_seconds)
        self.fit: Fit | None = None
        self.recipe: Recipe | None = None
        self.reason = ""

    def supernet(self, nodes: Sequence[Sequence[tuple[str, str]]] | None = None, key: str | None = None) -> Any:
        """Return the task's model around a supernet, alpha drawn from N(0, `alpha_sd`^2).

        Args:
            nodes: the ops of each node; `max_nodes` nodes with all ops of the space if None.
            key: what the weights are drawn for; the strategy's name if None.
        """
        whole = [self.problem.space.ops] * self.options.max_nodes
        model = self.problem.build(nodes or whole, key or self.name)
        generator = torch.Generator().manual_seed(self.problem.seed)
        with torch.no_grad():
            for alpha in supernet_of(model).alpha:
                noise = torch.randn(alpha.shape, generator=generator, dtype=alpha.dtype)
                alpha.add_(self.options.alpha_sd * noise.to(alpha.device))
        return model

    def train(
        self,
        model: Any,
        recipe: Recipe,
        *,
        key: str | None = None,
        task: Any = None,
        optimizers: list[torch.optim.Optimizer] | None = None,
        stop: Callable[[Fit], str | None] | None = None,
    ) -> Iterator[SearchResult]:
        """Train a supernet to its end, or until the budget is spent or `stop` gives a reason; yield after each unit.

        Args:
            model: around the supernet.
            recipe: how to train.
            key: of the training in the journal; the strategy's name if None.
            task: the problem's if None.
            optimizers: to go on with; new ones if None.
            stop: is given the training so far after each unit that leaves some of the budget.
        """
        problem, options, spent = self.problem, self.options, self.spent
        self.recipe = recipe = replace(recipe, bf16=problem.bf16)
        steps = gradients = epochs = 0
        spent.fits += 1
        pieces = problem.journal.fit_in_pieces(
            key or self.name, model, task or problem.task, recipe, seed=problem.seed, every=options.unit_epochs,
            optimizers=optimizers,
        )  # fmt: skip
        fit: Any  # its model's core is a supernet or a `SharedCore`
        for fit in pieces:
            self.fit = fit
            spent.steps, spent.epochs = spent.steps + fit.steps - steps, spent.epochs + fit.epochs - epochs
            spent.scores.append(
                {
                    "genotype": fit.model.core.genotype(top_k=options.top_k).to_dict(),
                    "val": fit.evaluation.metric,
                    "steps": fit.steps - steps,
                    "gradients": fit.gradients - gradients,
                    "seconds": problem.journal.elapsed - spent.began,
                    **self.followed(key or self.name, fit, recipe),
                }
            )
            steps, gradients, epochs = fit.steps, fit.gradients, fit.epochs
            reason = self.limit() or (stop and stop(fit)) or self.limit()  # `stop` may spend some of the budget, too
            self.reason = reason or (fit.reason if fit.is_over(recipe) else "")
            yield self.result(copy.deepcopy(fit.model), fit.evaluation, fit)  # the caller may change the copy
            if self.reason:
                return

    def followed(self, key: str, fit: Fit, recipe: Recipe) -> dict[str, Any]:
        """Return what the options `follow_` ask to be measured after a unit, see `following.measured`; else nothing.

        It is not part of the search: neither steps, gradients and seconds nor the logs count it.
        """
        options = self.options
        windows, epochs = options.follow_hessian_windows, options.follow_cell_epochs
        if not (windows or epochs):
            return {}
        measure = partial(
            following.measured,
            self.problem,
            fit,
            top_k=options.top_k,
            windows=windows,
            tuning=replace(closing(recipe, epochs), bf16=self.problem.bf16) if epochs else None,
        )
        found = self.problem.journal.branch("followed", logs=False).remember(f"{key}-epoch-{fit.epochs}", measure)
        return {name: value for name, value in found.items() if name not in ("seconds", "cpu_seconds")}

    def count(self, fit: Fit) -> None:
        """Count what a training took beside that of the supernet."""
        self.spent.steps += fit.steps
        self.spent.fits += 1

    def limit(self) -> str | None:
        """Return the message of the budget's limit that ends the supernet's training; None if no limit does."""
        reached = self._reached(self.problem.budget)
        if reached or self.options.readout != "ablation" or self.fit is None:
            return reached
        core = supernet_of(self.fit.model)
        removals = count_surplus(core, all_ops(core), self._top_k(core))
        ahead = self.options.unit_epochs + self.options.tune_epochs * removals  # epochs up to the end of the removals
        kept = self._reached(self.problem.budget, 1 + min(1.0, ahead / self.spent.epochs))
        return kept and f"{kept}, with what is kept for readout=ablation"

    def _reached(self, budget: Budget, factor: float = 1.0) -> str | None:
        """Return which limit is reached by `factor` times what is spent; None if no limit is reached."""
        spent, journal = self.spent, self.problem.journal
        return budget.spent(
            steps=factor * spent.steps,
            seconds=factor * (journal.elapsed - spent.began),
            cpu_seconds=factor * (journal.cpu_seconds - spent.cpu_began),
            genotypes=len(spent.scores),
        )

    def _top_k(self, core: Any) -> int:
        """Return how many ops a node keeps; of a DAG one op of one edge."""
        return 1 if isinstance(core, DagBackbone) else int(self.options.top_k)

    def finish(self, recipe: Recipe) -> Iterator[SearchResult]:
        """Read the cell out of the trained supernet, fine-tune it, accept it or keep the start; yield the result.

        With the readout `ablation`, first yield what is left after each removal.
        """
        assert self.fit is not None, "finish comes after train"
        model = self.fit.model
        if self.options.readout == "ablation":
            model = yield from self.ablate(self.fit, recipe)
        yield self.close(with_core(model, supernet_of(model).derive(self.options.top_k)), recipe)

    def ablate(self, supernet: Fit, recipe: Recipe) -> Generator[SearchResult, None, Any]:
        """Remove op after op, each time the one least missed on the validation part; return the model that is left.

        After each removal the weights are trained for `tune_epochs` on their own part of the data, with alpha fixed. A
        node keeps `top_k` ops, of a DAG one op of one edge, of blocks one op of each of two edges. Where the budget
        ends before, the cell is read out by share from the ops that are left, and `reason` says so.

        Reference:
            Wang, Cheng, Chen, Tang & Hsieh (2021), Rethinking Architecture Selection in Differentiable NAS, algorithm
            1. They take the nodes in random order and settle each at once; we remove the op least missed of all nodes.
        """
        problem, options = self.problem, self.options
        tuning = replace(tuning_between(recipe, options.tune_epochs), bf16=problem.bf16)
        top_k, budget = self._top_k(supernet.model.core), replace(problem.budget, genotypes=None)
        model, optimizers, kept = supernet.model, supernet.optimizers, all_ops(supernet_of(supernet.model))
        for number in itertools.count(1):
            core = supernet_of(model)
            places = surplus(core, kept, top_k)
            limit = self._reached(budget) if places else None
            if limit:
                count = count_surplus(core, kept, top_k)
                self.reason += f"; {limit} before the last {count} removals, which went by share"
            if limit or not places:
                return with_core(model, with_only(core, kept))
            choose = partial(self._least_missed, model, kept, places)
            gone = problem.journal.remember(f"{self.name}-ablation-{number}", choose)
            kept = without(kept, gone["node"], gone["op"])
            model, optimizers = copy.deepcopy((model, optimizers))
            core = supernet_of(model)
            core.set_shares(shares_with_only(core, kept))
            fit = problem.journal.fit(
                f"{self.name}-tune-{number}", model, problem.task, tuning, seed=problem.seed, optimizers=optimizers
            )
            model, optimizers = fit.model, fit.optimizers
            self.count(fit)
            yield self.result(with_core(model, with_only(supernet_of(model), kept)), fit.evaluation, supernet)

    def _least_missed(self, model: Any, kept: Kept, places: Sequence[tuple[int, int]]) -> dict[str, Any]:
        core = supernet_of(model)

        def loss(rest: Kept) -> float:
            with with_shares(core, shares_with_only(core, rest)):
                return float(self.problem.task.evaluate(model, "val").losses.mean())

        return least_missed(core, kept, places, loss)._asdict()

    def close(self, model: Any, recipe: Recipe) -> SearchResult:
        """Fine-tune a cell from the supernet's weights; accept it or keep the start.

        A cell that diverges with these weights is trained from new ones, after a warning.
        """
        problem, options, supernet = self.problem, self.options, self.fit
        assert supernet is not None
        tuning = replace(closing(recipe, options.fine_tune_epochs), bf16=problem.bf16)

        def tune(key: str, model: Any) -> Fit:
            return problem.journal.fit(key, model, problem.task, tuning, seed=problem.seed)

        try:
            fit = tune(f"{self.name}-fine-tune", model)
        except TrainingError as error:
            warnings.warn(f"the cell diverges with the supernet's weights, new ones are drawn: {error}", stacklevel=2)
            self.spent.steps += error.steps
            fit = tune(f"{self.name}-anew", problem.build_cell(genotype_of(model), self.name))
        self.count(fit)
        begin = derived(problem.start)
        start = Untrained(begin, problem.task.evaluate(begin, "val"))
        accepted = Acceptance.of(options)(start, fit, problem.task).accepted
        result = self.result(fit.model, fit.evaluation, supernet)
        is_short = options.fine_tune_epochs > 0 and tuning.is_capped(fit.epochs, fit.best_epoch)
        others = {
            f"{self.name}_supernet": Found(
                model=copy.deepcopy(supernet.model), seconds=supernet.seconds, settings=1, speed=supernet.speed
            )
        }
        log = ({"best_epoch": fit.best_epoch, "loss_after": fit.loss},)
        result = replace(result, others=others, log=log, is_start=not accepted, reason=self.reason)
        result = replace(result, capped=result.capped or is_short, moments=moments_of(fit.model, fit.optimizers))
        return (
            result
            if accepted
            else replace(result, model=begin, evaluation=start.evaluation, params=count_parameters(begin), moments={})
        )

    def result(self, model: Any, evaluation: Evaluation, supernet: Fit) -> SearchResult:
        """Return the result so far."""
        spent, core, recipe = self.spent, cast("Any", supernet.model.core), self.recipe
        assert recipe is not None, "a result comes after training"
        return SearchResult(
            model=model,
            evaluation=evaluation,
            is_start=False,
            params=count_parameters(model),
            steps=spent.steps,
            seconds=self.problem.journal.elapsed - spent.began,
            settings=spent.fits,
            scores=tuple(spent.scores),
            chosen={"nodes": len(core.nodes), "hidden_size": core.hidden_size},
            speed=supernet.speed,
            capped=supernet.epochs >= recipe.epochs and recipe.is_capped(supernet.epochs, supernet.best_epoch),
        )


def tuning_between(recipe: Recipe, epochs: int) -> Recipe:
    """Return how a supernet's weights are trained between removals: on their own part, with the shares as they are."""
    return replace(recipe, epochs=epochs, patience=None, alpha_after=epochs, perturb="none", skip=0.0)


def closing(recipe: Recipe, epochs: int) -> Recipe:
    """Return how a cell that was read out is trained on: as the weights were, without what concerns alpha."""
    return replace(
        recipe, epochs=epochs, bilevel="joint", alpha_after=0, perturb="none", skip=0.0, patience=recipe.patience or 8
    )
