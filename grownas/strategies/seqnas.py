"""SeqNAS: predictors learn from trained genotypes which to train next, and earlier models teach (Udovichenko 2024)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from grownas.encoding import Encoding
from grownas.evaluation.ranks import rank_correlation
from grownas.genotype import AnyGenotype
from grownas.protocols import Problem, SearchResult
from grownas.strategies.predictor import fit_ensemble, thompson_sample
from grownas.strategies.sampling import Sampling, SamplingStrategy, Trial
from grownas.strategies.seqnas_options import Options
from grownas.training.distil import Distilled, MeanOf

if TYPE_CHECKING:
    from grownas.protocols import Array

DRAWS = 10  # draws for each genotype that is wanted, before a space counts as used up
KNOWN = 4096  # codes of genotypes that are kept


@dataclass(frozen=True)
class Choice:
    """A genotype to be trained, and the mean of the predicted ranks; None for one that was drawn at random."""

    genotype: AnyGenotype
    predicted: float | None


class SeqNas(SamplingStrategy):
    """The strategy `seqnas` (see `grownas.protocols.Strategy`).

    (a) `initial` different genotypes are drawn at random and trained.
    (b) In each further round `predictors` small networks learn the validation losses of all trained genotypes from
        their codes (`grownas.encoding`). They predict the losses of `candidates` random genotypes that were not trained
        yet, and Thompson sampling chooses `per_round` of them. If all of a space are trained, random ones are trained
        again.
    (c) The chosen genotypes are trained. With `distil`, the loss has a further term: `distillation` times the distance
        from the mean prediction of the `teachers` best models of earlier rounds (`training.distil`): the squared
        error, for texts KL(teacher || student) at a `temperature`. The genotypes of a round may be trained at once.

    Each trial is logged with its `round`, the rank that was `predicted` before it was trained (-1 best, 1 worst of the
    trained genotypes) and, at the end of each round, the `rank_correlation` (Spearman) of predicted and true validation
    losses within the round.

    We differ from the published search in these points:

    - Published are 100 initial genotypes and 15 of 100 candidates a round. Our defaults are 20 and 5 of 100, for
      budgets of some dozens of genotypes.
    - The published predictor is CatBoost with 5 virtual ensembles on features of the genotype. Ours are 5 networks with
      one hidden layer on one-hot codes, each on a bootstrap sample, and they predict ranks instead of losses.
    - The published teachers are an ensemble of models from the search, for classes. Ours are the best three of earlier
      rounds, for forecasts and words; the mean is that of predictions or logits. The initial genotypes have no
      teachers, and their losses are compared with those of taught ones.
    - With `trial_epochs` the best genotype is trained to its end without teachers, since theirs was a brief training
      too. A refit trains it without teachers.

    The teachers' forward passes and the fits of the predictors are not counted as steps; their seconds are.

    Reference:
        Udovichenko et al. (2024), SeqNAS: Neural Architecture Search for Event Sequence Classification, IEEE Access;
        code in On-Point-RND/SeqNAS.
    """

    name: ClassVar[str] = "seqnas"
    section = Options

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train one genotype after the other, in rounds; yield the best result so far after each.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        search = _Search(Sampling(self.name, problem, self.options), self.options)
        for _ in search.rounds():
            yield search.sampling.result()
        if search.sampling.best is not None:
            search.sampling.best.task = problem.task
        yield from search.sampling.finish()
        if not search.sampling.trials[-1].notes["round"]:
            search.sampling.warn_random("initial")


class _Search:
    """The state of a search in rounds."""

    def __init__(self, sampling: Sampling, options: Options) -> None:
        self.sampling, self.options, self.problem = sampling, options, sampling.problem
        self.rng = random.Random(self.problem.seed)
        self.encode = lru_cache(KNOWN)(Encoding(self.problem.space).encode)  # a small space is drawn again and again
        self.codes: list[Array] = []  # of all trials
        self.models: list[tuple[float, Any]] = []  # loss and model of the best trials, the best first

    def rounds(self) -> Iterator[Trial]:
        """Choose and train genotypes until the budget ends; yield each trial."""
        number, choices = 0, [Choice(one, None) for one in self._drawn(self.options.initial)]
        while not self.sampling.limit:
            yield from self._round(number, choices)
            number += 1
            choices = [] if self.sampling.limit else self._chosen(number)

    def _round(self, number: int, choices: list[Choice]) -> Iterator[Trial]:
        """Train and log the genotypes of a round until the budget ends; yield each trial."""
        task, done = self._task(number), list[Trial]()
        batch = [
            self.sampling.begin(
                one.genotype, task=task, notes={"round": number, "predicted": one.predicted, "rank_correlation": None}
            )
            for one in choices
        ]
        for trial in self.sampling.go_on_all(batch, self.options.trial_epochs):
            done.append(trial)
            self.codes.append(self.encode(trial.genotype))
            if trial.fit is not None:
                self.models = sorted([*self.models, (trial.loss, trial.fit.model)], key=lambda one: one[0])
                del self.models[self.options.teachers :]
            predicted, true = ([one.notes["predicted"] for one in done], [one.loss for one in done])
            if predicted[0] is not None and (len(done) == len(batch) or self.sampling.limit):
                trial.notes["rank_correlation"] = rank_correlation(np.array(predicted), np.array(true))
            self.sampling.end(trial)
            yield trial
            if self.sampling.limit:
                return

    def _drawn(self, count: int) -> list[AnyGenotype]:
        """Draw different genotypes that were not trained yet; fewer in a space with too few."""
        trained, found = {code.tobytes() for code in self.codes}, dict[bytes, AnyGenotype]()
        for _ in range(DRAWS * count):
            genotype = self.problem.space.sample(self.rng)
            code = self.encode(genotype).tobytes()
            if code not in trained:
                found.setdefault(code, genotype)
            if len(found) == count:
                break
        return list(found.values())

    def _chosen(self, number: int) -> list[Choice]:
        """Return the genotypes that the predictors choose for a round; random ones if all are trained."""
        options, candidates = self.options, self._drawn(self.options.candidates)
        if not candidates:
            return [Choice(self.problem.space.sample(self.rng), None) for _ in range(options.per_round)]
        losses = np.array([trial.loss for trial in self.sampling.trials])
        seed = int(np.random.SeedSequence([self.problem.seed, number]).generate_state(1)[0])

        def choose() -> dict[str, Any]:
            ensemble = fit_ensemble(np.stack(self.codes), losses, members=options.predictors, seed=seed)
            predictions = ensemble.predict(np.stack([self.encode(one) for one in candidates]))
            return {"chosen": thompson_sample(predictions, options.per_round, seed=seed), "mean": predictions.mean(0)}

        found = self.problem.journal.remember(f"{self.sampling.name}-round-{number}", choose)
        return [Choice(candidates[place], float(found["mean"][place])) for place in found["chosen"]]

    def _task(self, number: int) -> Any:
        """Return the task that trains the genotypes of a round."""
        options, task = self.options, self.problem.task
        if not (options.distil and number and self.models):
            return task
        teacher = MeanOf([model for _, model in self.models])
        return Distilled(task, "train", weight=options.distillation, temperature=options.temperature, teacher=teacher)
