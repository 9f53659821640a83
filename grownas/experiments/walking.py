"""The models of a backtest: each forecasts a block of rows, then learns from it before it forecasts the next block.

Here are those that are trained by gradient steps; `linear_walk` has the linear ones.

A model is a function from what it was before a block to what it is afterwards. All that passes from block to block is
a tree of arrays and plain values, so that a journal can store it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from grownas.baselines.recurrent import KINDS, recurrent_core
from grownas.baselines.series import recurrent_settings
from grownas.baselines.text import recurrent_settings as recurrent_words
from grownas.cells.cell import GrownRNN
from grownas.config.sections import Config
from grownas.criteria.acceptance import Acceptance, Evaluated, Untrained
from grownas.evaluation.groups import rows_of
from grownas.experiments.choosing import Choice, Setting
from grownas.experiments.search import derived_genotype, search_as_set, tuned
from grownas.experiments.series import SeriesExperiment
from grownas.experiments.text import TextExperiment
from grownas.experiments.timeline import Timeline
from grownas.experiments.updating import How, Learner, Settings, learn
from grownas.genotype import Genotype
from grownas.protocols import Evaluation, Journal, Task, Verdict, is_series
from grownas.runs.journal import Journal as OwnJournal
from grownas.runs.journal import MemoryLog
from grownas.strategies.cores import derived
from grownas.training.loop import Fit
from grownas.training.moments import moments_of, of_derived
from grownas.training.recipe import OptimizerRecipe, Recipe, count_parameters

Array = np.ndarray[Any, np.dtype[np.float64]]
Tree = dict[str, Any]
MOVE = ("kind", "node", "accepted")  # what a backtest keeps of a line of growth.jsonl


class TaskSetting(NamedTuple):
    """What a model's task was set to when it was trained.

    Attributes:
        loss: name of the training loss.
        options: options of a task on a text that were chosen before the search, such as `dropout`.
    """

    loss: str
    options: dict[str, float]

    @classmethod
    def of(cls, task: Task, chosen: Mapping[str, Any]) -> TaskSetting:
        """Return the setting of a task, given the settings that were chosen."""
        options = {} if is_series(task) else {key: chosen[key] for key in OPTIONS if key in chosen}
        return cls(task.loss_name, options)


OPTIONS = ("gain", "dropout")  # what `TextTask.with_options` takes
First = tuple[Learner, TaskSetting, Tree]  # a model, how its task was set, and the costs of its training


class Walker(Protocol):
    """A model in a backtest. Trees that pass from block to block belong to it alone, but for the keys named here."""

    def begin(self) -> Tree:
        """Return the model as fitted on the rows before the first block.

        Keys: `params`, its number of parameters; `seconds`, `cpu_seconds` and `gradients` of the work; `known`, its
        losses on the last rows before the first block, shape `(n,)`, or None if no drift is looked for; `errors`, its
        errors on rows before the first block that it had not learned, standardised, shape `(m, O)`, or None for a text.
        """
        ...

    def block(self, number: int, rows: slice, before: Tree, *, learns: bool) -> Tree:
        """Learn from the rows before a block if `learns`, then forecast the block.

        Keys: `losses`, see `Timeline.losses`; `forecasts`, standardised, shape `(n, O)`, None for a text; `params`;
        `gradients`, the forward and backward passes on a window; `accepted`, whether the forecasts are those of a model
        that learned, None if none learned before this block; `growth`, the moves of growth.
        """
        ...


@dataclass(frozen=True)
class Trained:
    """A recurrent model that learns on, or that is fitted anew, at blocks.

    It is two models, equal at first: one is kept as it is, the other learns at each block. Both forecast each block
    before the second learns it, so their losses are of rows that neither has learned. The criterion `judge` compares
    the two on the latest `evidence` of these rows, if there are at least `holdout`. The forecasts of a block are those
    of the model that learns if the judge prefers it, else those of the kept model. If the judge prefers the kept model,
    the other begins again from it.

    Attributes:
        first: returns the model as fitted on the rows before the first block.
        again: fits a new model, given a task and a journal.
        judge: see above; None: the forecasts are always those of the model that learns.
        how: how it learns on; `refit` calls `again`.
        settings: how it learns on.
        timeline: all rows, in the scaling of the first fit; each block sees only the rows before its end.
        origin: first row that is forecast.
        holdout: rows at the end of those known, on which moves of growth are judged and new fits are stopped.
        evidence: see above.
        window: it learns from so many rows before those held out; None: from all rows before.
        backend: implementation that runs grown cells.
    """

    first: Callable[[], First]
    again: Callable[[Any, Journal], Learner]
    judge: Acceptance | None
    how: How
    settings: Settings
    timeline: Timeline
    origin: int
    holdout: int
    evidence: int
    window: int | None
    backend: str

    def begin(self) -> Tree:
        """Fit the model on the rows before the first block, or read the fit from the journal."""
        learner, setting, costs = self.first()
        known, kept = self._known(setting._asdict(), self.origin, self.origin), to_tree(learner)
        held_out = known, known.evaluate(learner.model, "val"), "val", self.holdout
        return {
            "kept": kept,
            "learning": kept,
            "differ": False,
            "gains": np.zeros(0),
            "setting": setting._asdict(),
            "params": count_parameters(learner.model),
            "known": self.timeline.losses(*held_out),
            "errors": self.timeline.errors(*held_out),
            **costs,
        }

    def block(self, number: int, rows: slice, before: Tree, *, learns: bool) -> Tree:
        """Learn from the rows before the block if `learns`, then forecast its rows."""
        setting, kept, gains = before["setting"], before["kept"], before["gains"]
        learning, differ = before["learning"], before["differ"]
        learned: Tree = {"gradients": 0, "accepted": None, "growth": []}
        if self._prefers(-gains):
            learning, differ, gains = kept, False, np.zeros(0)
        follows = self.judge is None or self._prefers(gains)
        if learns and self.how != "state":
            learner, learned = self._learned(learning, self._known(setting, rows.start, rows.start), number)
            learning, differ, learned["accepted"] = to_tree(learner), True, follows
        task = self._known(setting, rows.start, rows.stop)
        learners = [from_tree(one, task, self.backend) for one in ((kept, learning) if differ else (kept,))]
        found, size = [task.evaluate(one.model, "test") for one in learners], rows.stop - rows.start
        if differ:
            gains = np.concatenate([gains, self._gains(task, found[0], found[1], size)])[-self.evidence :]
        shown = -1 if follows else 0
        models = {"kept": kept, "learning": learning, "differ": differ, "gains": gains, "setting": setting}
        return {
            **models,
            **learned,
            "params": count_parameters(learners[shown].model),
            "forecasts": found[shown].forecasts,
            "losses": self.timeline.losses(task, found[shown], "test", size),
        }

    def _prefers(self, gains: Array) -> bool:
        """Return whether the judge prefers a model by its gains, if these are of enough rows."""
        return self.judge is not None and len(gains) >= self.holdout and self.judge.of_gains(gains).accepted

    def _gains(self, task: Any, kept: Evaluation, learning: Evaluation, rows: int) -> Array:
        """Return how much lower the training loss of the model that learns was in each row of a block."""
        if is_series(task):
            return np.asarray(kept.losses - learning.losses)
        before, after = (self.timeline.losses(task, one, "test", rows) for one in (kept, learning))
        return before - after

    def _known(self, setting: Tree, now: int, end: int) -> Any:
        """Return the task whose validation part ends at the row `now`, and whose test part at the row `end`."""
        held_out = now - self.holdout
        since = 0 if self.window is None else max(0, held_out - self.window)
        task = self.timeline.until(held_out, now, end, since=since).with_loss(setting["loss"])
        return task.with_options(setting["options"]) if setting["options"] else task

    def _learned(self, before: Tree, task: Any, number: int) -> tuple[Learner, Tree]:
        """Let a model learn from the rows of a task."""
        learner, growth = from_tree(before, task, self.backend), MemoryLog()
        growing, training = OwnJournal.in_memory(growth=growth), OwnJournal.in_memory()
        if self.how == "refit":
            learner = self.again(task, training)
        else:
            seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
            settings = replace(self.settings, accept=take_it, seed=seed)
            if self.how == "grow":
                grown = learn(learner, task, "grow", settings, growing).learner
                learner = grown if any(line["accepted"] for line in growth) else learner
            learner = learn(learner, task.with_refit(), "continue", settings, training).learner  # held out rows too
        moves = [{key: line.get(key) for key in MOVE} for line in growth]
        return learner, {"gradients": growing.gradients + training.gradients, "growth": moves}


def take_it(best: Evaluated, candidate: Evaluated, task: Task) -> Verdict:
    """Accept any candidate: the rows that follow judge it."""
    return Verdict(True, 0.0, "later rows", 0.0)


def to_tree(learner: Learner) -> Tree:
    """Return a learner as a tree; the inverse of `from_tree`."""
    core: Any = learner.model.core
    if isinstance(core, GrownRNN):
        kind: Tree = {"genotype": core.genotype.to_dict()}
    else:
        kind = {"kind": next(name for name, module in KINDS.items() if isinstance(core, module))}
    return {
        "core": {**kind, "input_size": core.input_size, "hidden_size": core.hidden_size},
        "weights": dict(learner.model.state_dict()),
        "moments": dict(learner.moments),
        "recipe": {"weights": asdict(learner.recipe.weights), "clip": learner.recipe.clip},
    }


def from_tree(tree: Tree, task: Any, backend: str) -> Learner:
    """Return the learner of a tree that `to_tree` returned, as a model of a task."""
    about = tree["core"]
    sizes = about["input_size"], about["hidden_size"]
    if "genotype" in about:
        core: Any = GrownRNN(Genotype.from_dict(about["genotype"]), *sizes, backend=backend)
    else:
        core = recurrent_core(about["kind"], *sizes, generator=torch.Generator())
    model = task.model(core)
    model.load_state_dict(tree["weights"])
    recipe = Recipe(weights=OptimizerRecipe(**tree["recipe"]["weights"]), clip=tree["recipe"]["clip"])
    return Learner(model.eval(), recipe, tree["moments"])


def searched(config: Config, task: Task, journal: Journal) -> tuple[Learner, TaskSetting]:
    """Search for a cell, retrain it, and choose between the two as a search does, without scoring anything.

    Returns:
        The chosen model, ready to learn on, and how its task was set.
    """
    experiment = tuned(config, journal, task)
    best = search_as_set(experiment, config)
    experiment, found = best.experiment, best.result
    task, learner = experiment.task, Learner(found.model, experiment.strategy.recipe(), found.moments)
    setting = TaskSetting.of(task, experiment.setting)
    if config.retrain.grown and not found.is_start:
        with journal.of_model(rows_of(config.strategy.row)[1]):
            choice = experiment.choose(experiment.settings_of(derived_genotype(found.model)))
        retrained = Untrained(choice.fit.model, task.evaluate(choice.fit.model, "val"))
        if Acceptance.of(config.strategy)(found, retrained, task).accepted:
            learner = learner_of(choice.fit, choice.setting)
            setting = TaskSetting.of(task, choice.setting.chosen)
    return learner, setting


def chosen_setting(kind: str, experiment: SeriesExperiment | TextExperiment) -> Choice:
    """Choose and train an `lstm`, a `gru` or a `fixed_size_random` as a baseline of a search does."""
    if isinstance(experiment, TextExperiment):
        return experiment.choose(recurrent_words(experiment, kind))
    if kind == "fixed_size_random":
        return experiment.choose(experiment.supernets(kind, experiment.space.max_nodes, experiment.rates))
    return experiment.choose(recurrent_settings(experiment, kind))


def learner_of(fit: Fit, setting: Setting) -> Learner:
    """Return the model of a fit, ready to learn on; a supernet as the cell that it computes."""
    return Learner(derived(fit.model), setting.recipe, of_derived(moments_of(fit.model, fit.optimizers)))


def trained_again(setting: Setting, seed: int, task: Any, journal: Journal) -> Learner:
    """Train a setting from random weights on a later task."""
    return learner_of(journal.fit(setting.key, setting.build(), task, setting.recipe, seed=seed), setting)
