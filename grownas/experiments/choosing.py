"""Chooses a setting on validation data: successive halving over candidates, then every rate of the finalists."""

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
    """One way to train a model; validation chooses among several.

    Attributes:
        key: name of the fit.
        chosen: the values that distinguish this setting, such as the rate.
        build: builds a new model.
        task: data and loss.
        recipe: how the model is trained.
    """

    key: str
    chosen: dict[str, Any]
    build: Callable[[], Model]
    task: Task
    recipe: Recipe


@dataclass(frozen=True)
class Halving:
    """Successive halving (Jamieson & Talwalkar 2016): train many candidates briefly and a few to the end.

    The first round trains all candidates for `first_epochs`. Each further round keeps the best, one candidate in
    `reduction_factor`, and multiplies the epochs by `reduction_factor`. The last `finalists` are trained until patience
    runs out.

    We differ: a candidate is tried with one of its rates, a finalist is trained with all of them (see `Candidate`).

    Attributes:
        first_epochs: epochs of the first round; None trains all candidates to the end.
        reduction_factor: 2 or more.
        finalists: number of candidates in the last round, 1 or more.
    """

    first_epochs: int | None = None
    reduction_factor: int = 3
    finalists: int = 1

    def rungs(self, candidates: int) -> Iterator[tuple[int, int | None]]:
        """Yield for each round the number of candidates and the epoch to train to; None: until patience runs out."""
        if self.first_epochs is not None:
            epochs = self.first_epochs
            while candidates > self.finalists:
                yield candidates, epochs
                candidates = max(self.finalists, math.ceil(candidates / self.reduction_factor))
                epochs *= self.reduction_factor
        yield candidates, None


class Choice(NamedTuple):
    """The setting that validation chose.

    Attributes:
        fit: the fit with the lowest validation metric.
        setting: the setting of this fit.
        tried: number of settings that were trained, even if only briefly.
        seconds, steps: sums over all fits.
    """

    fit: Fit
    setting: Setting
    tried: int
    seconds: float
    steps: int

    @property
    def capped(self) -> bool:
        """Whether the fit might have improved with more epochs, see `Recipe.is_capped`."""
        return self.setting.recipe.is_capped(self.fit.epochs, self.fit.best_epoch)


@dataclass(eq=False)
class Trial:
    """A setting on trial, with the state of its training.

    Attributes:
        setting: the setting.
        fit: the latest fit; None before the first fit, and after training diverged.
        part: the journal's key of the latest fit.
        seconds, steps: spent on this trial, also if training diverged.
        is_over: whether training has ended, because patience ran out or all epochs are done.
    """

    setting: Setting
    fit: Fit | None = None
    part: str | None = None
    seconds: float = 0.0
    steps: int = 0
    is_over: bool = False

    def train(self, journal: Journal, seed: int, epochs: int | None) -> None:
        """Continue training up to a number of epochs; None trains until patience runs out.

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
        return self.part is not None or self.seconds > 0  # seconds without a part: the first fit diverged

    @property
    def metric(self) -> float:
        """Validation metric of the latest fit."""
        assert self.fit is not None
        return self.fit.evaluation.metric


class Candidate:
    """A group of settings that differ only in the learning rate. Only finalists are trained with every rate.

    Before that, a candidate is trained with its first rate: after few epochs a low rate lags behind, whatever it
    reaches in the end, so rates cannot be compared early.

    Attributes:
        trials: one trial per setting, in order.
        errors: errors of the trials that diverged.
    """

    def __init__(self, settings: Sequence[Setting], journal: Journal, seed: int) -> None:
        """Create the trials; nothing is trained yet. The journal runs and saves the fits."""
        self._journal, self._seed = journal, seed
        self.trials = [Trial(one) for one in settings]
        self.errors: list[TrainingError] = []
        self._sound = list(self.trials)

    def train(self, epochs: int | None) -> bool:
        """Train the first setting that does not diverge up to a number of epochs; return False if all diverge."""
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
        """Validation metric of the first setting that did not diverge."""
        return self._sound[0].metric


def choose(
    candidates: Sequence[Sequence[Setting]], *, journal: Journal, seed: int, halving: Halving = Halving()
) -> Choice:
    """Try all settings by successive halving; return the setting with the lowest validation metric.

    A setting whose training diverges is skipped with a warning. If all settings of a candidate diverge, the next best
    candidate takes its place.

    Args:
        candidates: groups of settings that differ only in the rate, the highest rate first.
        journal: runs and saves the fits.
        seed: seed of all fits.
        halving: number of candidates and epochs of each round.

    Raises:
        TrainingError: training diverges with every setting; the last error, with the seconds and steps of all fits.
    """
    everyone = [Candidate(settings, journal, seed) for settings in candidates]
    trials = [trial for one in everyone for trial in one.trials]
    ranked = everyone
    for count, epochs in halving.rungs(len(everyone)):
        reached: list[Candidate] = []
        for one in ranked:
            if len(reached) < count and one.train(epochs):
                reached.append(one)
        ranked = sorted(reached, key=lambda one: one.metric)  # a stable sort: ties keep their earlier order
    finished = [trial for one in ranked for trial in one.finish()]
    errors = [error for one in everyone for error in one.errors]
    seconds, steps = sum(one.seconds for one in trials), sum(one.steps for one in trials)
    for error in errors if finished else errors[:-1]:
        warnings.warn(f"skipped a setting: {error}", stacklevel=2)
    if not finished:
        raise TrainingError(str(errors[-1]), seconds, steps) from errors[-1]
    best = min(finished, key=lambda trial: trial.metric)
    assert best.fit is not None
    return Choice(best.fit, best.setting, sum(one.is_tried for one in trials), seconds, steps)
