"""What every contest has: the budget, settings to choose from, training, and random search as the control of growth."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from grownas.backbone import Backbone
from grownas.criteria.early_stop import JUDGES
from grownas.genotype import AnyGenotype
from grownas.journal import Journal
from grownas.recipe import Recipe, count_parameters
from grownas.rundir import RunDir
from grownas.scoring import Score
from grownas.space import SearchSpace
from grownas.start import Ops
from grownas.strategies.growing import stirred
from grownas.strategies.stage import Growth
from grownas.train import Fit


class Setting(NamedTuple):
    """One way to train a model, of which validation chooses.

    Attributes:
        key: of the fit.
        chosen: what is particular about it, in plain values.
        build: makes the model anew.
        task: data and loss.
        recipe: how it is trained.
    """

    key: str
    chosen: dict[str, Any]
    build: Callable[[], Any]
    task: Any
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What the grown cell and the baselines are given; a subclass for each kind of task.

    Attributes:
        task: the data; its loss is growth's.
        journal: does and remembers the fits.
        growth: how the cell is grown.
        space: the ops allowed.
        recipe: the budget of each model that is trained from random weights.
        seed: of weights and data order.
        refit: fit the chosen settings anew on training and validation data.
        backend: what runs grown cells.
        params: of the grown cell's model, which baselines match; None if there is no grown cell.
        steps: weight steps of the growth, the budget of `random`.
    """

    task: Any
    journal: Journal
    growth: Growth
    space: SearchSpace
    recipe: Recipe
    seed: int
    refit: bool = False
    backend: str = "auto"
    params: int | None = None
    steps: int = 0

    @property
    def baselines(self) -> Mapping[str, Callable[[Any], Score]]:
        """The table of baselines; a new one is a function that takes the contest, and one line."""
        raise NotImplementedError

    @property
    def seconds_before(self) -> float:
        """What was spent before growth."""
        return 0.0

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Any:
        """Build the start of growth for each node's ops; `refitted` with what it knows of the validation part, too."""
        raise NotImplementedError

    def tuned(self, nodes: Sequence[Ops]) -> Contest:
        """Return the contest with the settings of growth chosen, for a start of these nodes."""
        return self

    def score_start(self, start: Any) -> Score:
        """Score where growth began."""
        return score_model(self.task, "start", start, self.seconds_before)

    def settings_of(self, genotype: AnyGenotype) -> list[Setting]:
        """Return the ways to train a genotype from random weights."""
        raise NotImplementedError

    def write(self, rundir: RunDir, model: Any | None, scores: Sequence[Score]) -> dict[str, Any]:
        """Write what is particular to the kind of task; return what the summary says of it."""
        raise NotImplementedError

    def draw(self, purpose: str) -> torch.Generator:
        """Return a generator for one purpose, fixed by the seed."""
        return generator_for(self.seed, purpose)


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a random generator that depends on the seed and on what it is for."""
    words = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def retrain(contest: Contest, genotype: AnyGenotype) -> tuple[Score, Any]:
    """Train a genotype from random weights under the baselines' budget; return score and model."""
    return train_and_choose(contest, "grown_retrained", contest.settings_of(genotype))


def train_and_choose(contest: Contest, name: str, settings: Iterable[Setting]) -> tuple[Score, Any]:
    """Train by every setting; return score and model of the lowest validation metric."""
    tried: list[tuple[Fit, Setting]] = []
    for one in settings:
        tried.append((contest.journal.fit(one.key, one.build(), one.task, one.recipe, seed=contest.seed), one))
    fit, setting = min(tried, key=lambda pair: pair[0].evaluation.metric)
    model, seconds = fit.model, sum(each.seconds for each, _ in tried)
    if contest.refit:
        final = replace(setting.recipe, patience=None, epochs=max(1, fit.best_epoch))
        task = setting.task.with_refit()
        again = contest.journal.fit(f"{name}-refit", setting.build(), task, final, seed=contest.seed)
        model, seconds = again.model, seconds + again.seconds
    score = score_model(contest.task, name, model, seconds, len(tried), setting.chosen)
    return replace(score, speed=fit.speed if contest.task.unit else None), model


def score_model(
    task: Any, name: str, model: Any, seconds: float, settings: int = 1, chosen: dict[str, Any] | None = None
) -> Score:
    """Evaluate a trained model on validation and test part."""
    val, test = task.evaluate(model, "val"), task.evaluate(model, "test")
    return Score(name, count_parameters(model), val, test, seconds, settings, chosen or {})


@dataclass(frozen=True)
class Pulled:
    """A start trained with each pull: the model accepted last (the start if none was), its pull and epochs."""

    model: Any
    pull: float | None
    epochs: int
    loss: float
    seconds: float
    steps: int


def train_by_pulls(contest: Contest, key: str, start: Any) -> Pulled:
    """Train a start with each pull in order, as the first stage of growth is."""
    growth = contest.growth
    evaluation, model, pull, epochs, seconds, steps = contest.task.evaluate(start, "val"), start, None, 0, 0.0, 0
    for candidate in growth.pulls:
        recipe = replace(growth.recipe, pull=candidate)
        begin = _ready(contest, start, candidate)
        fit = contest.journal.fit(f"{key}-pull-{candidate:g}", begin, contest.task, recipe, seed=contest.seed)
        seconds, steps = seconds + fit.seconds, steps + fit.steps
        if JUDGES[growth.judge](evaluation.losses, fit.evaluation.losses, threshold=growth.threshold).accepted:
            evaluation, model, pull, epochs = fit.evaluation, fit.model, candidate, fit.best_epoch
    return Pulled(model, pull, epochs, float(evaluation.losses.mean()), seconds, steps)


def refit_by_pull(contest: Contest, key: str, start: Any, trained: Pulled) -> tuple[Any, float]:
    """Train a start on training and validation data as it was trained before; return model and seconds."""
    if trained.pull is None:
        return start, 0.0
    recipe = replace(contest.growth.recipe, pull=trained.pull, patience=None, epochs=max(1, trained.epochs))
    begin = _ready(contest, start, trained.pull)
    fit = contest.journal.fit(f"{key}-refit", begin, contest.task.with_refit(), recipe, seed=contest.seed)
    return fit.model, fit.seconds


def _ready(contest: Contest, start: Any, pull: float) -> Any:
    """Return what is trained: a backbone's silent ops need noise, a GRU's weights are drawn already."""
    if not isinstance(start.core, Backbone):
        return start
    return stirred(start, contest.growth.noise, pull, seed=contest.seed)


def random_search(contest: Contest) -> Score:
    """Train random genotypes from the same start, pulls and judge until they took as many steps as the growth.

    Steps stand for seconds, so that the result does not depend on the machine; the seconds are reported.
    """
    rng = random.Random(contest.seed)
    tried: list[tuple[Pulled, list[Ops]]] = []
    while sum(trained.steps for trained, _ in tried) < max(1, contest.steps):
        key = f"random-{len(tried)}"
        genotype = contest.space.sample(rng)
        ops: list[Ops] = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
        tried.append((train_by_pulls(contest, key, contest.start(ops, key)), ops))
    number = min(range(len(tried)), key=lambda i: tried[i][0].loss)
    (best, ops), seconds = tried[number], sum(trained.seconds for trained, _ in tried)
    model = best.model
    if contest.refit:
        model, more = refit_by_pull(contest, "random", contest.start(ops, f"random-{number}", refitted=True), best)
        seconds += more
    chosen = {"nodes": len(ops), "ops": sum(map(len, ops)), "pull": best.pull}
    return score_model(contest.task, "random", model, seconds, len(tried), chosen)
