"""Random search: draw genotypes, train each from the same kind of start, keep the best (Li & Talwalkar 2019).

It is the control for all other strategies: the same space, start, training and acceptance criterion.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from grownas.protocols import Problem, SearchResult
from grownas.strategies.random_options import Options
from grownas.strategies.sampling import Sampling, SamplingStrategy


class RandomSearch(SamplingStrategy):
    """The strategy `random` (see `grownas.protocols.Strategy`)."""

    name: ClassVar[str] = "random"
    section = Options

    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Draw and train one genotype after the other; yield the best result so far after each.

        Raises:
            TrainingError: the training of five genotypes in a row diverged.
        """
        sampling, rng = Sampling(self.name, problem, self.options), random.Random(problem.seed)
        while not sampling.limit:
            sampling.train(problem.space.sample(rng))
            yield sampling.result()
