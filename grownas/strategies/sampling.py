"""Strategies that train each genotype on its own: what they do with one genotype, from its weights to the result.

A strategy chooses the genotypes. `Sampling` trains each, counts its cost, logs it as a trial and keeps the best one:

    sampling = Sampling(self.name, problem, self.options)
    while not sampling.limit:
        trial = sampling.train(choose(sampling.trials))
        yield sampling.result()
    yield from sampling.finish()

`train_all` does the same with several genotypes that are known before any of them is trained: they may be trained at
once, in several places. Their results count in the order in which they were begun, whatever the order in which their
trainings end, and only up to the limit; so the places change nothing.

`train` is `begin`, `go_on` and `end` in one: a strategy that trains a genotype in parts, or logs with it what is known
after its training only, calls these.

In the space of chains the shares of a genotype are trained, too. A cell of the DAG has no shares: derived cells are
trained.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from grownas.criteria.acceptance import Acceptance, Untrained
from grownas.errors import TrainingError
from grownas.genotype import AnyGenotype, Genotype
from grownas.protocols import Budget, FitRequest, Problem, SearchResult, Strategy
from grownas.strategies.cores import derived, genotype_of, with_noise
from grownas.strategies.sampling_options import SamplingSection
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters, recipe_from

MOST_DIVERGED = 5  # genotypes in a row whose training diverged before the search stops with the error
PATIENCE, EPOCHS, DIVERGED = "patience", "epochs", "diverged"  # why a trial ended; a strategy has reasons of its own
BRIEF = "trial_epochs"  # another reason: only the best trial is trained further


@dataclass(eq=False)
class Trial:
    """One genotype that is trained. `Sampling` sets all fields.

    Attributes:
        number: counts the trials of a search from 0.
        genotype: as it was chosen, with equal shares.
        key: name of its fit; it seeds the weights.
        recipe: how it is trained.
        task: data and loss of its training.
        notes: plain values of the strategy that are logged with it.
        trained: the genotype with the shares that were trained.
        fit: its latest fit; None before the first, after a training that diverged, and when the trial has ended.
        part: the journal's key of its latest fit.
        params: number of trained parameters.
        loss: mean validation loss at the best epoch; infinite if the training diverged at once.
        val: the task's metric at the best epoch; infinite if the training diverged at once.
        best_epoch: the epoch of the lowest validation loss.
        steps: weight steps of its training.
        seconds: time of its training.
        reason: why the training ended: `patience`, `epochs`, `trial_epochs`, `diverged` or a word of the strategy;
            empty before.
        error: of a training that diverged.
    """

    number: int
    genotype: AnyGenotype
    key: str
    recipe: Recipe
    task: Any
    notes: dict[str, Any]
    trained: AnyGenotype
    fit: Fit | None = None
    part: str | None = None
    params: int = 0
    loss: float = math.inf
    val: float = math.inf
    best_epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""
    error: TrainingError | None = None


class Sampling:
    """The state of a search that trains each genotype on its own.

    Attributes:
        start: the model with which the search begins, and its evaluation; in the space of DAGs the cell that is read
            out of it.
        trials: all trials whose training has given a result so far, in order, diverged ones included.
        best: the accepted trial with the lowest validation loss; None: the start is still the best.
        best_fit: its fit.
        steps: weight steps of all trials so far.
    """

    def __init__(self, name: str, problem: Problem, options: SamplingSection) -> None:
        """Evaluate the start; nothing is trained yet.

        Args:
            name: name of the strategy; keys of fits begin with it.
            problem: input of the search.
            options: the strategy's options.
        """
        self.name, self.problem, self.options = name, problem, options
        self.accept = Acceptance.of(options)
        begin = problem.start if problem.space.backbone == "chain" else derived(problem.start)  # else another function
        self.start = Untrained(begin, problem.task.evaluate(begin, "val"))
        self.began, self.cpu_began = problem.journal.elapsed, problem.journal.cpu_seconds
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.best_fit: Fit | None = None
        self.steps = 0
        self._begun = 0  # trials; some may never be trained
        self._lowest = math.inf  # of the metric of all trials
        self._diverged = 0  # in a row
        self._scores: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Time of all work since the search began, in seconds."""
        return self.problem.journal.elapsed - self.began

    @property
    def limit(self) -> str:
        """Name the limit that was reached: that of the budget, or without a budget `genotypes`; empty if none."""
        most, count = self.options.genotypes, len(self.trials)
        if self.problem.budget == Budget():
            return f"strategy.genotypes = {most} reached" if count >= most else ""
        return self._reached(count) or ""

    @property
    def is_spent(self) -> bool:
        """Whether the budget's steps, seconds or processor seconds are spent, so that no training goes on."""
        return self._reached(0) is not None

    def _reached(self, genotypes: int) -> str | None:
        cpu_seconds = self.problem.journal.cpu_seconds - self.cpu_began
        return self.problem.budget.spent(
            steps=self.steps, seconds=self.seconds, cpu_seconds=cpu_seconds, genotypes=genotypes
        )

    def train(self, genotype: AnyGenotype, *, task: Any = None, notes: Mapping[str, Any] | None = None) -> Trial:
        """Train a genotype and log the trial; it becomes the best if it is accepted and its loss is the lowest.

        A genotype whose training diverges is skipped with a warning; its steps and seconds count.

        Args:
            genotype: of the problem's space.
            task: data and loss of its training, such as `training.distil.Distilled`; the problem's if left out.
            notes: plain values that are logged with the trial.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        trial = self.begin(genotype, task=task, notes=notes)
        self.go_on(trial, self.options.trial_epochs)
        self.end(trial)
        return trial

    def train_all(self, trials: Iterable[Trial]) -> Iterator[Trial]:
        """Train and log new trials as `train` does; yield each, in order, until the last one or the limit.

        Args:
            trials: of `begin`, in this order. They may be endless; some are begun before earlier ones have a result.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        for trial in self.go_on_all(trials, self.options.trial_epochs):
            self.end(trial)
            yield trial
            if self.limit:
                return

    def finish(self) -> Iterator[SearchResult]:
        """Train the best trial to its end if only `trial_epochs` ended its training; yield the result after that."""
        best = self.best
        if best is None or best.reason != BRIEF:
            return
        self.go_on(best)
        if best.error is not None:
            kept = f"the best genotype keeps its weights after {best.best_epoch} epochs"
            warnings.warn(f"{kept}: {best.error}", stacklevel=2)
        yield self.result()

    def begin(
        self,
        genotype: AnyGenotype,
        *,
        task: Any = None,
        notes: Mapping[str, Any] | None = None,
        turn: int | None = None,
    ) -> Trial:
        """Return a new trial; it counts as a genotype of the budget once its training has a result.

        Args:
            genotype: see `train`.
            task: see `train`.
            notes: see `train`.
            turn: whose turn it is among the `rates`, counted on and on; by default the number of the trial.
        """
        number, options = self._begun, self.options
        rates = options.rates or (options.weights.rate,)
        rate = rates[(number if turn is None else turn) % len(rates)]
        recipe = recipe_with(options, rate, self.problem)
        task, notes = task or self.problem.task, dict(notes or {})
        self._begun += 1
        return Trial(number, genotype, f"{self.name}-{number}", recipe, task, notes, genotype)

    def go_on(self, trial: Trial, epochs: int | None = None) -> None:
        """Train a trial to its end, or further up to a number of epochs, and count what it took.

        A trial that is trained in parts has the bits of one that is trained at once.

        Args:
            trial: whose training has not ended.
            epochs: of all its training so far; None: until patience or `max_epochs` ends it.
        """
        list(self.go_on_all([trial], epochs))

    def go_on_all(self, trials: Iterable[Trial], epochs: int | None = None) -> Iterator[Trial]:
        """Train trials as `go_on` does; yield each, in order, once it is counted.

        Args:
            trials: of which none depends on the result of another; new ones in the order of `begin`.
            epochs: see `go_on`.
        """
        asked = deque[tuple[Trial, FitRequest]]()

        def requests() -> Iterator[FitRequest]:
            for trial in trials:
                asked.append((trial, self._request(trial, epochs)))
                yield asked[-1][1]

        for result in self.problem.journal.fit_all(requests()):
            trial, request = asked.popleft()
            self._take(trial, request, result)
            yield trial

    def _request(self, trial: Trial, epochs: int | None) -> FitRequest:
        problem, recipe = self.problem, trial.recipe
        to_the_end = epochs is None or epochs >= recipe.epochs
        model = untrained(trial.genotype, trial.key, problem, self.options)
        trial.params = count_parameters(model)
        return FitRequest(
            key=trial.key if to_the_end else f"{trial.key}-to-{epochs}",
            model=model,
            task=trial.task,
            recipe=recipe if to_the_end else recipe.first(epochs or 0),
            seed=problem.seed,
            after=trial.part,
            extendable=not to_the_end,
        )

    def _take(self, trial: Trial, request: FitRequest, fit: Fit | TrainingError) -> None:
        """Count a training and note its result; the trial becomes the best if it is."""
        if trial.number == len(self.trials):
            self.trials.append(trial)
        self._count(trial, fit)
        if isinstance(fit, TrainingError):
            trial.reason, trial.fit, trial.error = DIVERGED, None, fit
            self._diverged += 1
            return
        self._diverged = 0
        trial.fit, trial.part = fit, request.key
        trial.trained, trial.best_epoch = genotype_of(fit.model), fit.best_epoch
        trial.loss, trial.val = fit.loss, fit.evaluation.metric
        if not request.extendable or fit.is_over(trial.recipe):
            trial.reason = EPOCHS if fit.epochs - fit.best_epoch < self.options.patience else PATIENCE
        better = self.best_fit is None or fit.loss < self.best_fit.loss
        if better and self.accept(self.start, fit, self.problem.task).accepted:
            self.best, self.best_fit = trial, fit

    def _count(self, trial: Trial, spent: Fit | TrainingError) -> None:
        self.steps += spent.steps - trial.steps
        trial.steps, trial.seconds = spent.steps, spent.seconds

    def end(self, trial: Trial) -> None:
        """Log a trial whose training has ended; warn if it diverged.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        trial.fit, tree = None, trial.trained.to_dict()
        trial.reason = trial.reason or BRIEF
        self._lowest = min(self._lowest, trial.val)
        if math.isfinite(trial.val):
            scored = {"genotype": tree, "val": trial.val, "steps": trial.steps, "seconds": self.seconds}
            self._scores.append({**scored, **trial.notes})
        self.problem.journal.log_trial(
            {
                "number": trial.number,
                "part": trial.key,
                "genotype": tree,
                "val": trial.val,
                "steps": trial.steps,
                "seconds": trial.seconds,
                "params": trial.params,
                "rate": trial.recipe.weights.rate,
                "reason": trial.reason,
                "best": self._lowest,
                "wall_s": self.seconds,
                **trial.notes,
            }
        )
        if trial.error is not None:
            if self._diverged == MOST_DIVERGED:
                raise trial.error
            warnings.warn(f"skipped: {trial.error}", stacklevel=2)

    def warn_random(self, key: str) -> None:
        """Warn at the end of a search that it chose no genotype; `key` is the option with the number of random ones."""
        warnings.warn(
            f"{self.name} trained {len(self.trials)} genotypes, all drawn at random: the first strategy.{key}="
            f"{getattr(self.options, key)} always are; lower it, or allow more genotypes",
            stacklevel=2,
        )

    def result(self) -> SearchResult:
        """Return the best result so far; its reason is `limit`."""
        best, fit = self.best, self.best_fit
        found = fit.model if fit else self.start.model
        model = derived(found)
        return SearchResult(
            model=copy.deepcopy(model) if model is found else model,  # the caller may change it
            evaluation=fit.evaluation if fit else self.start.evaluation,
            is_start=best is None,
            params=count_parameters(found),
            steps=self.steps,
            seconds=self.seconds,
            settings=len(self.trials),
            reason=self.limit,
            scores=tuple(self._scores),
            log=() if best is None or fit is None else (_to_refit(best, fit),),
            chosen={} if best is None else {"rate": best.recipe.weights.rate, **_sizes(best, found)},
            speed=fit.speed if fit else None,
            capped=best is not None and fit is not None and best.recipe.is_capped(fit.epochs, fit.best_epoch),
        )


class SamplingStrategy(Strategy):
    """A strategy that trains each genotype on its own; a subclass has `name`, `section` and `search`.

    Attributes:
        name: name of the strategy.
    """

    name: ClassVar[str]
    backbones: ClassVar[tuple[str, ...]] = ("chain", "dag", "blocks")
    options: Any

    def __init__(self, options: Any) -> None:
        """Store the options."""
        self.options = options

    def recipe(self) -> Recipe:
        """Return the recipe for each genotype."""
        return recipe_of(self.options)

    def with_rate(self, rate: float) -> Self:
        """Return a copy of the strategy with a single learning rate of the weights."""
        weights = self.options.weights.model_copy(update={"rate": rate})
        return type(self)(self.options.model_copy(update={"weights": weights, "rates": (rate,)}))

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Train the best genotype again on the task's loss, up to the best epoch of its fit."""
        if result.is_start:
            return replace(result, model=derived(problem.start))
        (found,) = result.log
        recipe = recipe_with(self.options, found["rate"], problem).refit(found["best_epoch"])
        begin = untrained(Genotype.from_dict(found["genotype"]), found["key"], problem, self.options)
        fit = problem.journal.fit(f"{self.name}-refit", begin, problem.task, recipe, seed=problem.seed)
        steps, seconds = result.steps + fit.steps, result.seconds + fit.seconds
        return replace(result, model=derived(fit.model), steps=steps, seconds=seconds)


def untrained(genotype: AnyGenotype, key: str, problem: Problem, options: SamplingSection) -> Any:
    """Build the model of a genotype: a chain around a supernet of its ops, ready to be trained; a DAG as it is."""
    if not isinstance(genotype, Genotype):
        return problem.build_cell(genotype, key)
    nodes = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
    return with_noise(problem.build(nodes, key), options.noise, seed=problem.seed)


def recipe_of(options: SamplingSection) -> Recipe:
    """Return the recipe for each genotype, with the rate `weights.rate`."""
    return recipe_from(
        options.weights.model_dump(),
        alpha=options.alpha.model_dump(),
        epochs=options.max_epochs,
        patience=options.patience,
    )


def recipe_with(options: SamplingSection, rate: float, problem: Problem) -> Recipe:
    """Return the recipe for a genotype that is trained with this rate."""
    recipe = recipe_of(options)
    return replace(recipe, weights=replace(recipe.weights, rate=rate), bf16=problem.bf16)


def _to_refit(best: Trial, fit: Fit) -> dict[str, Any]:
    return {
        "genotype": best.genotype.to_dict(),
        "key": best.key,
        "rate": best.recipe.weights.rate,
        "best_epoch": fit.best_epoch,
        "loss_after": fit.loss,
    }


def _sizes(best: Trial, model: Any) -> dict[str, Any]:
    nodes, ops = len(best.genotype.nodes), best.genotype.op_count
    return {"nodes": nodes, "ops": ops, "hidden_size": model.core.hidden_size}
