"""Choosing a setting on validation data: successive halving over candidates, then every rate of the finalists."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from grownas.errors import TrainingError
from grownas.protocols import Journal, Model, Task
from grownas.training.loop import Fit
from grownas.training.recipe import Recipe


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
    build: Callable[[], Model]
    task: Task
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
        """Whether the fit may have gone on improving, see `Recipe.is_capped`."""
        return self.setting.recipe.is_capped(self.fit.epochs, self.fit.best_epoch)


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

    def train(self, journal: Journal, seed: int, epochs: int | None) -> None:
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
            self.fit = journal.fit(
                key,
                one.build(),
                one.task,
                recipe,
                seed=seed,
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

    def __init__(self, settings: Sequence[Setting], journal: Journal, seed: int) -> None:
        """Begin with nothing trained; the journal does the fits."""
        self._journal, self._seed = journal, seed
        self.trials = [Trial(one) for one in settings]
        self.errors: list[TrainingError] = []
        self._sound = list(self.trials)

    def train(self, epochs: int | None) -> bool:
        """Train its first setting up to a number of epochs, the next where that diverges; say whether one is left."""
        while self._sound and not self._train(self._sound[0], epochs):
            pass
        return bool(self._sound)

    def finish(self) -> list[Trial]:
        """Train all settings until patience runs out; return those that did not diverge."""
        for trial in list(self._sound):
            self._train(trial, None)
        return self._sound

    def _train(self, trial: Trial, epochs: int | None) -> bool:
        try:
            trial.train(self._journal, self._seed, epochs)
        except TrainingError as error:
            self.errors.append(error)
            self._sound.remove(trial)
            return False
        return True

    @property
    def metric(self) -> float:
        """Validation metric of the setting that is tried."""
        return self._sound[0].metric


def choose(
    candidates: Sequence[Sequence[Setting]], *, journal: Journal, seed: int, halving: Halving = Halving()
) -> Choice:
    """Try all settings by successive halving; validation chooses.

    A setting with which training diverges is passed over with a warning. A candidate of which no setting is left gives
    its place to the next best.

    Args:
        candidates: each the settings that differ in the rate alone, the one that learns fastest first.
        journal: does and remembers the fits.
        seed: of all fits.
        halving: how many settings are trained how long.

    Raises:
        TrainingError: training diverges with every setting; the last one's error, with the seconds and steps of all.
    """
    everyone = [Candidate(settings, journal, seed) for settings in candidates]
    trials = [trial for one in everyone for trial in one.trials]
    ranked = everyone
    for count, epochs in halving.rungs(len(everyone)):
        reached: list[Candidate] = []
        for one in ranked:
            if len(reached) < count and one.train(epochs):
                reached.append(one)
        ranked = sorted(reached, key=lambda one: one.metric)  # of equals the one that was ahead before
    finished = [trial for one in ranked for trial in one.finish()]
    errors = [error for one in everyone for error in one.errors]
    seconds, steps = sum(one.seconds for one in trials), sum(one.steps for one in trials)
    for error in errors if finished else errors[:-1]:
        warnings.warn(f"passed over: {error}", stacklevel=2)
    if not finished:
        raise TrainingError(str(errors[-1]), seconds, steps) from errors[-1]
    best = min(finished, key=lambda trial: trial.metric)
    assert best.fit is not None
    return Choice(best.fit, best.setting, sum(one.is_tried for one in trials), seconds, steps)
