"""Learning on: a trained model learns from the rows that came since.

`learn` is a function of a model, its optimiser's state and a task as it is now; it writes nothing, so that a backtest
can call it for each block. `update` is the work of `grownas update`: `learn`, or a new search, and the files of a run.

All meanings of `how` share one rule. The task's part `train` is all rows up to the recent ones; its part `val` is a
block of recent rows from which neither model has learned. A changed model is kept only if the acceptance criterion
prefers it to the model before the update on that block; otherwise the old weights stay. A later update, with newer
rows, learns from the block itself; until then the model reads it, as all rows, by its recurrent state. Where the new
data take the place of the old ones, as recordings of amplifiers do, both parts are of the new data.

A backtest judges differently, see `walking.Trained`: it keeps the old model beside the one that learns, and compares
the forecasts that both made of each row before the second learned it. Over many blocks this rule is better, because it
holds back no rows, but it needs forecasts of a model that has already learned. A single update has none, so by that
rule a first update could never be accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from grownas.backbones.chain import Backbone
from grownas.config.sections import Config
from grownas.criteria.acceptance import Acceptance, Evaluated, Untrained
from grownas.criteria.early_stop import logged
from grownas.errors import ConfigError
from grownas.evaluation.scoring import Score
from grownas.experiments import search as searching
from grownas.experiments.experiment import Experiment, space_of
from grownas.genotype import AnyGenotype, Genotype
from grownas.protocols import Evaluation, Folder, Journal, Model, Problem, Task, Verdict, is_series
from grownas.space import SearchSpace
from grownas.strategies.cores import derived, with_core
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.strategy import Growth
from grownas.training.moments import load_moments, moments_of, of_derived, of_supernet
from grownas.training.recipe import Recipe, count_parameters, make_optimizers

How = Literal["state", "continue", "grow", "refit"]
UPDATED, BEFORE = "updated", "not_updated"  # names of the two models in the scores


class Learner(NamedTuple):
    """A trained model and the state of its optimiser.

    Attributes:
        model: a task's model; its core is a derived cell or another recurrent module.
        recipe: how its weights were trained: optimiser, rate and clipping; epochs and schedule are ignored.
        moments: state of the optimiser by name, see `training.moments`; empty: it starts without.
    """

    model: Model
    recipe: Recipe
    moments: Mapping[str, Tensor] = {}


class Judge(Protocol):
    """Accepts or rejects a changed model, as `criteria.acceptance.Acceptance` does."""

    def __call__(self, best: Evaluated, candidate: Evaluated, task: Task) -> Verdict:
        """Compare the model before with the changed one on the part `val`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model learns on.

    Attributes:
        growing: options of the growth after `continue`.
        space: the ops that a new node may have.
        accept: the acceptance criterion.
        epochs: epochs of `continue`; all of them are trained, and the last one is judged, so the validation rows choose
            nothing but accept or reject.
        l2_sp: share of the distance from the weights before the update that each step takes back (L2-SP).
        seed: seed of data order, new weights and dropout.
        bf16: train under autocast in bfloat16.
    """

    growing: Options
    space: SearchSpace
    accept: Judge
    epochs: int = 5
    l2_sp: float = 0.03
    seed: int = 1
    bf16: bool = False

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Return the settings of a config; without the strategy `growing` growth has its default options."""
        strategy = config.strategy
        growing = strategy if isinstance(strategy, Options) else Options(max_nodes=strategy.max_nodes)
        return cls(
            epochs=config.update.epochs,
            l2_sp=config.update.l2_sp,
            accept=Acceptance.of(strategy),
            growing=growing,
            space=space_of(config),
            seed=config.seed,
            bf16=config.bf16,
        )


class Learned(NamedTuple):
    """The result of `learn`.

    Attributes:
        learner: the learner from now on: the changed one if it was accepted, else the one before.
        evaluation: its evaluation on the validation part.
        candidate: the model that was judged; None for `state`.
        verdict: the criterion's verdict on the candidate; None for `state`.
        steps: weight steps.
        seconds: time of the fits, in seconds.
        reason: of `grow`: why growth stopped.
    """

    learner: Learner
    evaluation: Evaluation
    candidate: Model | None = None
    verdict: Verdict | None = None
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the weights have changed."""
        return self.verdict is not None and self.verdict.accepted


def learn(learner: Learner, task: Task, how: How, settings: Settings, journal: Journal) -> Learned:
    """Let a model learn from a task as it is now, and judge the result on the part `val`; see the module.

    Args:
        learner: the model before; left untouched.
        task: data with the parts `train` and `val`, in the scaling of the model.
        how: `state`: no weight changes. `continue`: `epochs` epochs from the present weights and moments, with L2-SP
            towards the present weights. `grow`: `continue`, then moves by the stages of the strategy `growing`, each
            judged, and its pruning. `refit` is a new search, not an update of a model: see `update`.
        settings: how to learn.
        journal: runs and stores the fits; in memory a new one for each update, `Journal.in_memory()`.

    Raises:
        ConfigError: `grow` with a core that is not a chain of one layer.
        TrainingError: training diverges.
    """
    if how == "state":
        return Learned(learner, task.evaluate(learner.model, "val"))
    assert how in ("continue", "grow"), f"learn has no {how!r}"
    if how == "grow":
        core: Any = learner.model.core
        check_can_grow(getattr(core, "genotype", None), getattr(core, "num_layers", 1))
    continued = _continued(learner, task, settings, journal)
    return _grown(learner, continued, task, settings, journal) if how == "grow" else continued


def _continued(learner: Learner, task: Task, settings: Settings, journal: Journal) -> Learned:
    """Train on from the present weights and moments; judge the last epoch."""
    given = learner.recipe
    recipe = Recipe(
        epochs=settings.epochs,
        patience=None,
        last_only=given.weights.optimizer != "nt_asgd",
        clip=given.clip,
        l2_sp=settings.l2_sp / given.weights.rate,
        bf16=settings.bf16,
        weights=given.weights,
    )
    optimizers = make_optimizers(learner.model, recipe)
    load_moments(learner.model, optimizers, learner.moments)
    fit = journal.fit("continue", learner.model, task, recipe, seed=settings.seed, optimizers=optimizers)
    before = Untrained(learner.model, task.evaluate(learner.model, "val"))
    verdict = settings.accept(before, fit, task)
    now, evaluation = learner, before.evaluation
    if verdict.accepted:
        now = learner._replace(model=fit.model, moments=moments_of(fit.model, fit.optimizers))
        evaluation = fit.evaluation
    return Learned(now, evaluation, fit.model, verdict, fit.steps, fit.seconds)


def check_can_grow(genotype: AnyGenotype | None, layers: int = 1) -> None:
    """Check that a cell can grow on.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(genotype, Genotype) and genotype.bits:
        raise ConfigError("update.how=grow: a cell with bit widths cannot grow on; set how=continue or how=refit")
    if not isinstance(genotype, Genotype) or layers > 1:
        raise ConfigError(
            "update.how=grow: only a chain with one layer can grow on; set how=continue, or how=refit for a new search"
        )


def _grown(learner: Learner, base: Learned, task: Task, settings: Settings, journal: Journal) -> Learned:
    """Try moves on a model that has trained on, or on the one before if that was rejected; prune it.

    At least one more node than the cell has is allowed, whatever `max_nodes` is.
    """
    model, recipe = base.learner.model, learner.recipe
    start: Any = with_core(model, Backbone.of_cell(model.core))  # type: ignore[arg-type]  # a GrownRNN, see the check
    most = max(settings.growing.max_nodes, len(start.core.nodes) + 1)
    options = Options(**{**settings.growing.model_dump(), "max_nodes": most})
    optimizers = None
    if options.recipe.weights.optimizer == recipe.weights.optimizer:
        optimizers = make_optimizers(start, options.recipe)
        load_moments(start, optimizers, of_supernet(base.learner.moments))
    problem = Problem(
        task=task,
        space=settings.space,
        build=lambda nodes, purpose: start,
        start=start,
        journal=journal,
        seed=settings.seed,
        bf16=settings.bf16,
    )
    growth = Growth(problem, options)
    growth.go_on(options.l2_sp[-1], optimizers)
    steps, seconds = base.steps + growth.steps, base.seconds + sum(line["seconds"] for line in growth.stages)
    costs_and_reason = {"steps": steps, "seconds": seconds, "reason": growth.reason}
    best = growth.best.candidate
    if best.model is start:  # no move was accepted, and nothing was pruned
        return base._replace(**costs_and_reason)
    grown = Untrained(derived(best.model), best.evaluation)
    verdict = settings.accept(Untrained(learner.model, task.evaluate(learner.model, "val")), grown, task)
    if not verdict.accepted:
        return base._replace(**costs_and_reason)
    moments = of_derived(moments_of(best.model, best.optimizers or []))
    now = Learner(grown.model, replace(recipe, weights=options.recipe.weights, clip=options.recipe.clip), moments)
    return Learned(now, grown.evaluation, grown.model, verdict, **costs_and_reason)


class Parent(NamedTuple):
    """The run before an update.

    Attributes:
        learner: its model.
        task: the data with the new rows, in the scaling and the vocabulary of the model.
        note: the entry `parent` of the summary.
        trained: the genotype, if `grownas train` made the run; None: a search made it.
    """

    learner: Learner
    task: Any  # also has a description, see `Task.describe`, and a scaling, if it is a series
    note: dict[str, Any]
    trained: AnyGenotype | None = None


def update(
    config: Config, folder: Folder, journal: Journal, task: Task, *, parent: Callable[[Task], Parent]
) -> tuple[searching.Summary, Model]:
    """Update a model as `config.update` says and write the files of a run; return the summary and the model.

    Args:
        config: the config of the update.
        folder: where to write.
        journal: runs and stores the fits.
        task: the data with the new rows, as a search reads them.
        parent: returns the run before, given the data.
    """
    before = parent(task)
    if config.update.how == "refit":
        return _refit(config, folder, journal, task, before)
    with journal.of_model(UPDATED):
        learned = learn(before.learner, before.task, config.update.how, Settings.of(config), journal)
    return _write(config, folder, before, learned)


def _write(
    config: Config, folder: Folder, before: Parent, learned: Learned, refitted: Score | None = None
) -> tuple[searching.Summary, Model]:
    """Score the models before and after an update, write the files of the run and return its summary and its model.

    Args:
        config: see `update`.
        folder: likewise.
        before: the run before.
        learned: the result.
        refitted: the score of a model that was fitted anew and rejected, in the scaling of the model before.
    """
    task, now = before.task, learned.learner
    folder.write_json("data.json", {"kind": task.kind, **task.describe()})
    scores = [_score(BEFORE, before.learner.model, task, Learned(now, learned.evaluation))]
    if learned.candidate is not None:
        scores.insert(0, _score(UPDATED, learned.candidate, task, learned))
    chosen = scores[0] if learned.accepted else scores[-1]
    if refitted is not None:
        scores.insert(0, refitted)
    scores.insert(0, replace(chosen, model="chosen", chosen={"model": chosen.model}))
    Experiment.write_optimizer(folder, now.moments, now.recipe)
    about = {"chosen": chosen.model, **_about(config, before, learned.verdict, learned.reason)}
    return searching.summarise(config, folder, task, now.model, scores, about), now.model


def _score(name: str, model: Model, task: Task, learned: Learned) -> Score:
    val, test = task.evaluate(model, "val"), task.evaluate(model, "test")
    return Score(name, count_parameters(model), val, test, learned.seconds, steps=learned.steps)


def _about(config: Config, before: Parent, verdict: Verdict | None, reason: str = "") -> dict[str, Any]:
    """Return the entries of a summary about the update."""
    judge = None if verdict is None else logged(verdict)
    accepted = verdict is not None and verdict.accepted
    return {
        "made_by": "search" if before.trained is None else "train",
        "parent": before.note,
        "update": {"how": config.update.how, "accepted": accepted, "judge": judge, "growth_stopped": reason or None},
    }


def _refit(
    config: Config, folder: Folder, journal: Journal, task: Task, before: Parent
) -> tuple[searching.Summary, Model]:
    """Search and fit anew on all rows, with new scaling; keep the result if it is accepted against the model before.

    A text keeps its vocabulary and a recording its scaling, so that losses can be compared. There is no guard by the
    training loss: the new model has learned from other rows than the old one.
    """
    data = task if is_series(task) else before.task
    if before.trained is None:
        summary, model = searching.search(config, folder, journal, data)
    else:
        summary, fitted = searching.train(config, folder, journal, data, what=before.trained)
        assert fitted is not None, "a genotype was trained"
        model = fitted
    data = data.with_loss(summary["loss"])
    old = before.task.evaluate(before.learner.model, "val")
    known = Untrained(before.learner.model, in_scaling_of(data, before.task, old, "val"))
    strategy = config.strategy
    accept = Acceptance(strategy.accept, strategy.threshold, guard=False)
    verdict = accept(known, Untrained(model, data.evaluate(model, "val")), data)
    if verdict.accepted:
        return {**summary, **_about(config, before, verdict)}, model
    val, test = (in_scaling_of(before.task, data, data.evaluate(model, part), part) for part in ("val", "test"))
    refitted = Score(UPDATED, count_parameters(model), val, test, summary["scores"][0]["seconds"])
    return _write(config, folder, before, Learned(before.learner, old, verdict=verdict), refitted)


def in_scaling_of(task: Task, other: Any, evaluation: Evaluation, part: str) -> Evaluation:
    """Return the evaluation of a model of a task on the same rows in another scaling, as `task` computes its losses."""
    if not is_series(task):
        return evaluation
    assert evaluation.forecasts is not None, "a task on series returns its forecasts"
    outputs = evaluation.forecasts.shape[1]
    own: np.ndarray[Any, np.dtype[np.float64]] = other.mean[:outputs] + other.sd[:outputs] * evaluation.forecasts
    return task.evaluate_forecasts((own - task.mean[:outputs]) / task.sd[:outputs], part)
