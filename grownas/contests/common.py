"""What every contest has: the budget, settings to choose from, training, and random genotypes as growth's control."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from grownas.errors import TrainingError
from grownas.genotype import AnyGenotype
from grownas.journal import Journal
from grownas.recipe import Recipe, count_parameters
from grownas.rundir import RunDir
from grownas.scoring import Score
from grownas.space import SearchSpace
from grownas.start import Ops
from grownas.strategies.stage import Growth
from grownas.train import Fit


class _Steps(Protocol):
    @property
    def steps(self) -> int: ...


MOST_DIVERGED = 5  # random genotypes, before there must be a reason other than chance
Trained = TypeVar("Trained", bound=_Steps)  # what a training gave, such as a `Fit`


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
        setting: of growth, chosen before it, in plain values.
        tried: how many settings it was chosen of; 0 where nothing was.
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
    setting: Mapping[str, Any] = field(default_factory=dict)
    tried: int = 0

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


class Choice(NamedTuple):
    """What validation chose.

    Attributes:
        fit: with the lowest validation metric.
        setting: its.
        tried: number of settings.
        seconds: of all fits.
    """

    fit: Fit
    setting: Setting
    tried: int
    seconds: float


def choose(contest: Contest, settings: Sequence[Setting]) -> Choice:
    """Train by every setting; validation chooses. A setting with which training diverges is no choice, and said so.

    Raises:
        TrainingError: it diverges with every setting; the last one's error.
    """
    fits: list[tuple[Fit, Setting]] = []
    seconds = 0.0
    for number, one in enumerate(settings, 1):
        try:
            fit = contest.journal.fit(one.key, one.build(), one.task, one.recipe, seed=contest.seed)
            fits.append((fit, one))
            seconds += fit.seconds
        except TrainingError as error:
            if number == len(settings) and not fits:
                raise
            seconds += error.seconds
            warnings.warn(f"passed over: {error}", stacklevel=2)
    fit, setting = min(fits, key=lambda pair: pair[0].evaluation.metric)
    return Choice(fit, setting, len(settings), seconds)


def train_and_choose(contest: Contest, name: str, settings: Sequence[Setting]) -> tuple[Score, Any]:
    """Train by every setting; return score and model of the lowest validation metric."""
    fit, setting, tried, seconds = choose(contest, settings)
    model = fit.model
    if contest.refit:
        task, recipe = setting.task.with_refit(), setting.recipe.refit(fit.best_epoch)
        again = contest.journal.fit(f"{name}-refit", setting.build(), task, recipe, seed=contest.seed)
        model, seconds = again.model, seconds + again.seconds
    return score_model(contest.task, name, model, seconds, tried, setting.chosen, fit.speed), model


def score_model(
    task: Any,
    name: str,
    model: Any,
    seconds: float,
    settings: int = 1,
    chosen: Mapping[str, Any] | None = None,
    speed: float | None = None,
) -> Score:
    """Evaluate a trained model on validation and test part."""
    val, test = task.evaluate(model, "val"), task.evaluate(model, "test")
    shown = speed if task.unit else None
    return Score(name, count_parameters(model), val, test, seconds, settings, dict(chosen or {}), shown)


def train_random(contest: Contest, train: Callable[[str, Any], Trained]) -> list[tuple[Trained, list[Ops], str]]:
    """Train random genotypes until they took as many weight steps as growth; return each, its nodes' ops and its key.

    Steps stand for seconds, so that the result does not depend on the machine; the seconds are reported. Those with
    which training diverges are passed over, neither their steps nor their seconds counted.

    Args:
        contest: of the growth.
        train: trains a start under a key.

    Raises:
        TrainingError: `MOST_DIVERGED` of them diverged.
    """
    rng = random.Random(contest.seed)
    tried: list[tuple[Trained, list[Ops], str]] = []
    diverged = 0
    while sum(trained.steps for trained, *_ in tried) < max(1, contest.steps):
        key = f"random-{len(tried) + diverged}"
        genotype = contest.space.sample(rng)
        nodes: list[Ops] = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
        try:
            tried.append((train(key, contest.start(nodes, key)), nodes, key))
        except TrainingError as error:
            diverged += 1
            if diverged == MOST_DIVERGED:
                raise
            warnings.warn(f"passed over: {error}", stacklevel=2)
    return tried
