"""Aging evolution: mutate the best of a few, let the oldest die (Real et al. 2019)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import ClassVar

from grownas.protocols import Problem, SearchResult
from grownas.space import SearchSpace
from grownas.strategies.evolution_options import Options
from grownas.strategies.sampling import Sampling, SamplingStrategy, Trial


class Population:
    """The trials that live: a queue of at most `size`.

    Attributes:
        size: most trials that live.
        living: the trials, the oldest first.
    """

    def __init__(self, size: int, tournament: int) -> None:
        """Begin with nobody."""
        self.size, self.tournament = size, tournament
        self.living: deque[Trial] = deque(maxlen=size)

    @property
    def room(self) -> int:
        """How many further trials are drawn at random before the first child."""
        return self.size - len(self.living)

    def add(self, trial: Trial) -> None:
        """Add a trial; if the population is full, the oldest one dies, however good it is."""
        self.living.append(trial)

    def parent(self, rng: random.Random) -> Trial:
        """Draw `tournament` trials, with replacement; return the one with the lowest validation loss."""
        return min(rng.choices(self.living, k=self.tournament), key=lambda one: one.loss)


class Evolution(SamplingStrategy):
    """The strategy `evolution` (see `grownas.protocols.Strategy`).

    The first `population` genotypes are drawn at random. Each further one is a mutation of a parent: the best of
    `tournament` genotypes drawn from the population. It joins the population and the oldest genotype leaves it, so that
    a genotype that was only lucky once does not stay. A genotype whose training diverged has an infinite loss.

    The mutation is that of `SearchSpace.mutate`: one op of a node is replaced, added or removed, or a node is; in a DAG
    the op or the source of a node changes, or a node is added or removed. Each trial is logged with the number of its
    `parent`.

    With `batch`, so many children at a time have parents from the same population, and may be trained at once.

    We differ from the published search in these points:

    - Published are a population of 100 and a tournament of 25 on 20,000 genotypes of image networks. Our defaults are
      smaller; a search whose budget allows few genotypes needs smaller ones still, such as 10 and 3.
    - Published mutations change an op or an input of a cell of fixed size, or nothing (with probability 0.05). Ours
      also change the number of nodes and of a node's ops, as our spaces have cells of all sizes, and always something.
    - Weights are not inherited, as published.
    - Published, each of 450 workers draws a parent as soon as it is free, so the search depends on which training ends
      first. Ours draws a `batch` of children together and adds them in the order in which they were drawn.

    Reference:
        Real, Aggarwal, Huang & Le (2019), Regularized Evolution for Image Classifier Architecture Search, algorithm 1.
    """

    name: ClassVar[str] = "evolution"
    section = Options

    def check_space(self, space: SearchSpace) -> None:
        """Refuse a space in which nothing can be mutated.

        Raises:
            ConfigError: the space has a single genotype.
        """
        rng = random.Random(0)
        space.mutate(space.sample(rng), rng)

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Train one genotype after the other; yield the best result so far after each.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        options, rng = self.options, random.Random(problem.seed)
        sampling = Sampling(self.name, problem, options)
        population = Population(options.population, options.tournament)
        while not sampling.limit:
            # only the first round has room
            drawn = [sampling.begin(problem.space.sample(rng), notes={"parent": None}) for _ in range(population.room)]
            for trial in sampling.train_all(drawn or _children(sampling, population, options.batch, rng)):
                population.add(trial)
                yield sampling.result()
        yield from sampling.finish()
        if len(sampling.trials) <= options.population:
            sampling.warn_random("population")


def _children(sampling: Sampling, population: Population, count: int, rng: random.Random) -> list[Trial]:
    """Return new trials, mutations of parents from the same population."""
    parents = (population.parent(rng) for _ in range(count))
    return [
        sampling.begin(sampling.problem.space.mutate(parent.genotype, rng), notes={"parent": parent.number})
        for parent in parents
    ]
