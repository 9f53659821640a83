"""Random search: draw genotypes, train each from the same kind of start, keep the best (Li & Talwalkar 2019).

It is the control for all other strategies: the same space, start, training and acceptance criterion. With successive
halving (Jamieson & Talwalkar 2016) most genotypes are trained briefly, so that more are tried for the same steps.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import ClassVar

from grownas.protocols import Problem, SearchResult
from grownas.strategies.random_options import Halving, Options
from grownas.strategies.sampling import Sampling, SamplingStrategy, Trial

HALVED, SPENT = "halving", "budget"  # why a trial ended: it was not among the best; the budget ended within the batch


class RandomSearch(SamplingStrategy):
    """The strategy `random` (see `grownas.protocols.Strategy`).

    Without `halving` each genotype is trained until patience runs out. With it a batch of `candidates` is drawn; all
    are trained for `first_epochs`, and each further round keeps the best one in `reduction_factor` for so many times
    the epochs. The last one is trained until patience runs out. Then the next batch is drawn. A training that goes on
    keeps its weights, optimiser state and order of data; its steps count once. A batch has one of the `rates`: after
    few epochs a low rate lags behind, whatever it reaches in the end. A budget that ends within a batch ends the batch,
    and the best model may be one that was trained briefly.
    """

    name: ClassVar[str] = "random"
    section = Options

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Draw and train one genotype, or one batch of them, after the other; yield the best result so far after each.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        sampling, rng = Sampling(self.name, problem, self.options), random.Random(problem.seed)
        halving = self.options.halving
        if halving is None:
            drawn = (sampling.begin(problem.space.sample(rng)) for _ in itertools.count())
            yield from (sampling.result() for _ in sampling.train_all(drawn))
        else:
            for number in itertools.count():
                _train_batch(sampling, rng, halving, number)
                yield sampling.result()
                if sampling.limit:
                    break
        yield from sampling.finish()


def _train_batch(sampling: Sampling, rng: random.Random, halving: Halving, number: int) -> None:
    """Draw a batch of genotypes, train it by successive halving and log each trial when its training ends."""
    space, epochs = sampling.problem.space, halving.first_epochs
    batch = list[Trial]()
    drawn = [sampling.begin(space.sample(rng), turn=number) for _ in range(halving.candidates)]
    for trial in sampling.go_on_all(drawn, epochs):
        batch.append(trial)
        _end_if_diverged(sampling, trial)
        if sampling.limit:
            break
    rivals = _ranked(batch)
    while rivals and not sampling.is_spent:
        count = math.ceil(len(rivals) / halving.reduction_factor)
        for trial in rivals[count:]:
            trial.reason = trial.reason or HALVED
            sampling.end(trial)
        rivals, epochs = rivals[:count], epochs * halving.reduction_factor
        is_last = len(rivals) == 1
        _train_further(sampling, rivals, None if is_last else epochs)
        rivals = _ranked(rivals)
        if is_last:
            break
    for trial in rivals:
        trial.reason = trial.reason or SPENT
        sampling.end(trial)


def _train_further(sampling: Sampling, rivals: list[Trial], epochs: int | None) -> None:
    """Train those that are not at their end, until the budget is spent."""
    for trial in sampling.go_on_all([one for one in rivals if not one.reason], epochs):
        _end_if_diverged(sampling, trial)
        if sampling.is_spent:
            return


def _end_if_diverged(sampling: Sampling, trial: Trial) -> None:
    if trial.error is not None:
        sampling.end(trial)


def _ranked(trials: list[Trial]) -> list[Trial]:
    """Return the trials that did not diverge, the lowest validation loss first; ties keep their order."""
    return sorted((one for one in trials if one.error is None), key=lambda one: one.loss)
