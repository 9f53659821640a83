"""What every contest has: the budget, settings to choose from, training, and random genotypes as growth's control."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from grownas.errors import TrainingError
from grownas.evaluation.scoring import Score
from grownas.genotype import AnyGenotype
from grownas.runs.journal import Journal
from grownas.runs.rundir import RunDir
from grownas.space import SearchSpace
from grownas.starts.var import Ops
from grownas.strategies.growing.state import Growth, Origin
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe, count_parameters


class _Spent(Protocol):
    @property
    def seconds(self) -> float: ...

    @property
    def steps(self) -> int: ...


MOST_DIVERGED = 5  # random genotypes, before there must be a reason other than chance
Trained = TypeVar("Trained", bound=_Spent)  # what a training gave, such as a `Fit`


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


@dataclass(frozen=True)
class Halving:
    """Successive halving (Jamieson & Talwalkar 2016): many candidates are trained briefly, few to the end.

    All candidates are trained for `first_epochs`. The best, one in `reduction_factor`, go on to as many times the
    epochs, and so on, until `finalists` are left, which are trained until patience runs out.

    Ours: a candidate is tried with one of its rates, a finalist is trained with all of them (see `Candidate`).

    Attributes:
        first_epochs: of every candidate; None trains all of them to the end.
        reduction_factor: 2 or more.
        finalists: 1 or more.
    """

    first_epochs: int | None = None
    reduction_factor: int = 3
    finalists: int = 1

    def rungs(self, candidates: int) -> Iterator[tuple[int, int | None]]:
        """Yield how many candidates are trained, and up to which epoch; None for until patience runs out."""
        if self.first_epochs is not None:
            epochs = self.first_epochs
            while candidates > self.finalists:
                yield candidates, epochs
                candidates = max(self.finalists, math.ceil(candidates / self.reduction_factor))
                epochs *= self.reduction_factor
        yield candidates, None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What the grown cell and the baselines are given; a subclass for each kind of task.

    Attributes:
        task: the data; its loss is growth's.
        journal: does and remembers the fits.
        growth: how the cell is grown.
        space: the ops allowed.
        recipe: the budget of each model that is trained from random weights.
        halving: how validation chooses among several settings.
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
    halving: Halving = Halving()
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

    @property
    def steps_before(self) -> int:
        """Weight steps trained before growth."""
        return 0

    def start(self, nodes: Sequence[Ops], purpose: str, *, refitted: bool = False) -> Any:
        """Build the start of growth for each node's ops; `refitted` with what it knows of the validation part, too."""
        raise NotImplementedError

    def origins(self, nodes: Sequence[Ops]) -> list[Origin]:
        """Return the earlier points in time at which growth is judged; none where a task has no time."""
        return []

    def tuned(self, nodes: Sequence[Ops]) -> Contest:
        """Return the contest with the settings of growth chosen, for a start of these nodes."""
        return self

    def score_start(self, start: Any) -> Score:
        """Score where growth began."""
        return score_model(self.task, "start", start, self.seconds_before)

    def settings_of(self, genotype: AnyGenotype) -> list[list[Setting]]:
        """Return the ways to train a genotype from random weights, as candidates of `choose`."""
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
        tried: number of settings that were trained, however briefly.
        seconds, steps: of all fits.
    """

    fit: Fit
    setting: Setting
    tried: int
    seconds: float
    steps: int

    @property
    def capped(self) -> bool:
        """Whether the fit may have gone on improving, see `is_capped`."""
        return is_capped(self.fit.epochs, self.fit.best_epoch, self.setting.recipe)


def is_capped(epochs: int, best_epoch: int, recipe: Recipe) -> bool:
    """Say whether a fit ended at the most epochs allowed, before patience ran out.

    Never where the rates decay over these epochs, or where there is no patience: there they are the plan, not a limit.
    """
    if recipe.patience is None or recipe.decay != "none":
        return False
    return epochs - best_epoch < recipe.patience


@dataclass(eq=False)
class Trial:
    """A setting that is tried, and how far its training has come.

    Attributes:
        setting: the setting.
        fit: its latest; None before the first, and after training diverged.
        part: the journal's key of that fit.
        seconds, steps: of its training, also of one that diverged.
        is_over: whether training has ended: patience has run out, or the most epochs are reached.
    """

    setting: Setting
    fit: Fit | None = None
    part: str | None = None
    seconds: float = 0.0
    steps: int = 0
    is_over: bool = False

    def train(self, contest: Contest, epochs: int | None) -> None:
        """Train up to a number of epochs, from where training stands; None trains until patience runs out.

        Raises:
            TrainingError: training diverges.
        """
        one = self.setting
        if self.is_over:
            return
        to_the_end = epochs is None or epochs >= one.recipe.epochs
        key, recipe = (one.key, one.recipe) if to_the_end else (f"{one.key}-to-{epochs}", one.recipe.first(epochs or 0))
        try:
            self.fit = contest.journal.fit(
                key,
                one.build(),
                one.task,
                recipe,
                seed=contest.seed,
                after=self.part,
                extendable=not to_the_end,
            )
        except TrainingError as error:
            self.fit, self.seconds, self.steps = None, error.seconds, error.steps
            raise
        self.part, self.seconds, self.steps = key, self.fit.seconds, self.fit.steps
        self.is_over = to_the_end or self.fit.epochs < recipe.epochs

    @property
    def is_tried(self) -> bool:
        """Whether training has begun."""
        return self.part is not None or self.seconds > 0  # the latter of one that diverged at once

    @property
    def metric(self) -> float:
        """Validation metric of the latest fit."""
        assert self.fit is not None
        return self.fit.evaluation.metric


class Candidate:
    """Settings that differ in the rate alone. Until it is a finalist, it is tried with the first of them.

    Candidates compete at one rate because rates differ in speed: after few epochs a low rate is behind, whatever it
    reaches in the end.

    Attributes:
        trials: one for each setting, in order.
        errors: of the trials that diverged.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        """Begin with nothing trained."""
        self.trials = [Trial(one) for one in settings]
        self.errors: list[TrainingError] = []
        self._sound = list(self.trials)

    def train(self, contest: Contest, epochs: int | None) -> bool:
        """Train its first setting up to a number of epochs, the next where that diverges; say whether one is left."""
        while self._sound and not self._train(contest, self._sound[0], epochs):
            pass
        return bool(self._sound)

    def finish(self, contest: Contest) -> list[Trial]:
        """Train all settings until patience runs out; return those that did not diverge."""
        for trial in list(self._sound):
            self._train(contest, trial, None)
        return self._sound

    def _train(self, contest: Contest, trial: Trial, epochs: int | None) -> bool:
        try:
            trial.train(contest, epochs)
        except TrainingError as error:
            self.errors.append(error)
            self._sound.remove(trial)
            return False
        return True

    @property
    def metric(self) -> float:
        """Validation metric of the setting that is tried."""
        return self._sound[0].metric


def choose(contest: Contest, candidates: Sequence[Sequence[Setting]]) -> Choice:
    """Try all settings by the contest's `halving`; validation chooses.

    A setting with which training diverges is passed over with a warning. A candidate of which no setting is left gives
    its place to the next best.

    Args:
        contest: gives journal, seed and halving.
        candidates: each the settings that differ in the rate alone, the one that learns fastest first.

    Raises:
        TrainingError: training diverges with every setting; the last one's error, with the seconds and steps of all.
    """
    everyone = [Candidate(settings) for settings in candidates]
    trials = [trial for one in everyone for trial in one.trials]
    ranked = everyone
    for count, epochs in contest.halving.rungs(len(everyone)):
        reached: list[Candidate] = []
        for one in ranked:
            if len(reached) < count and one.train(contest, epochs):
                reached.append(one)
        ranked = sorted(reached, key=lambda one: one.metric)  # of equals the one that was ahead before
    finished = [trial for one in ranked for trial in one.finish(contest)]
    errors = [error for one in everyone for error in one.errors]
    seconds, steps = sum(one.seconds for one in trials), sum(one.steps for one in trials)
    for error in errors if finished else errors[:-1]:
        warnings.warn(f"passed over: {error}", stacklevel=2)
    if not finished:
        raise TrainingError(str(errors[-1]), seconds, steps) from errors[-1]
    best = min(finished, key=lambda trial: trial.metric)
    assert best.fit is not None
    return Choice(best.fit, best.setting, sum(one.is_tried for one in trials), seconds, steps)


def train_and_choose(contest: Contest, name: str, candidates: Sequence[Sequence[Setting]]) -> tuple[Score, Any]:
    """Choose a setting, see `choose`; return score and model of the one that validation chose."""
    return score_choice(contest, name, choose(contest, candidates))


def score_choice(contest: Contest, name: str, choice: Choice) -> tuple[Score, Any]:
    """Return score and model of a choice, trained on training and validation data where the contest refits."""
    fit, setting = choice.fit, choice.setting
    model, seconds, steps = fit.model, choice.seconds, choice.steps
    if contest.refit:
        task, recipe = setting.task.with_refit(), setting.recipe.refit(fit.best_epoch)
        again = contest.journal.fit(f"{name}-refit", setting.build(), task, recipe, seed=contest.seed)
        model, seconds, steps = again.model, seconds + again.seconds, steps + again.steps
    score = score_model(contest.task, name, model, seconds, choice.tried, setting.chosen, fit.speed)
    return replace(score, steps=steps, capped=choice.capped), model


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


class Drawn(NamedTuple):
    """Random genotypes, trained.

    Attributes:
        trained: what training gave for each that did not diverge, its nodes' ops and its key.
        tried: how many were drawn, those that diverged included.
        seconds, steps: of all that were drawn.
    """

    trained: list[tuple[Any, list[Ops], str]]
    tried: int
    seconds: float
    steps: int


def train_random(contest: Contest, train: Callable[[str, Any], Trained]) -> Drawn:
    """Train random genotypes until they took as many weight steps as growth, at least one.

    Steps stand for seconds, so that the result does not depend on the machine; the seconds are reported. Those with
    which training diverges are passed over; what was spent on them counts.

    Args:
        contest: of the growth.
        train: trains a start under a key.

    Raises:
        TrainingError: `MOST_DIVERGED` of them diverged.
    """
    rng = random.Random(contest.seed)
    tried: list[tuple[Any, list[Ops], str]] = []
    diverged, seconds, steps = 0, 0.0, 0
    while not tried or steps < contest.steps:
        key = f"random-{len(tried) + diverged}"
        genotype = contest.space.sample(rng)
        nodes: list[Ops] = [[(op.combine, op.activation) for op in node.ops] for node in genotype.nodes]
        spent: Trained | TrainingError
        try:
            spent = train(key, contest.start(nodes, key))
            tried.append((spent, nodes, key))
        except TrainingError as error:
            diverged += 1
            if diverged == MOST_DIVERGED:
                raise
            warnings.warn(f"passed over: {error}", stacklevel=2)
            spent = error
        seconds, steps = seconds + spent.seconds, steps + spent.steps
    return Drawn(tried, len(tried) + diverged, seconds, steps)
